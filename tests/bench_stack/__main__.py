"""`python -m tests.bench_stack [--small] [--row NAME]`: exit status 1 when two sides differ.

As tests/bench: each row starts the servers it needs, runs both sides in turns, and prints a table
in Markdown; a ratio never decides.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

from tests.bench import measure

ROWS = (
    "outbox",
    "publish",
    "frames",
    "index",
    "search",
    "retention",
    "upload",
    "city",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-stack", description=__doc__)
    parser.add_argument("--small", action="store_true", help="one short round of each row")
    parser.add_argument("--row", choices=ROWS, action="append", help="only this row; repeatable")
    parser.add_argument("--dir", type=Path, help="where the stores lie (default: a temporary one)")
    asked = parser.parse_args()
    different = 0
    print(f"# Benchmarks on servers ({measure.load()} at the start)\n", flush=True)
    for name in asked.row or ROWS:
        module = importlib.import_module(f"tests.bench_stack.{name}")
        with tempfile.TemporaryDirectory(prefix="lamppost-bench-", dir=asked.dir) as folder:
            # PostgreSQL runs as another user, who must reach its folder.
            Path(folder).chmod(0o755)
            row = module.run(Path(folder), small=asked.small)
        print(row.report() + "\n", flush=True)
        different += len(row.differences)
    print(f"{different} differences between the sides' results.")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
