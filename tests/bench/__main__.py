"""`python -m tests.bench [--small] [--row NAME]`: exit status 1 when two sides' results differ.

A ratio never decides: this is a comparison on whatever machine runs it, and what it says is printed
as tables in Markdown (docs/measured.md).
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import tempfile
from pathlib import Path

from tests.bench import measure

ROWS = (
    "record",
    "purge",
    "playback",
    "restart",
    "index",
    "search",
    "tracker",
    "demo",
    "sse",
    "detect",
    "gate",
    "gpu",
)
AGAINST_FFMPEG = ("record", "playback")
"""The rows whose peer is the program ffmpeg."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--small", action="store_true", help="one short round of each row")
    parser.add_argument("--row", choices=ROWS, action="append", help="only this row; repeatable")
    parser.add_argument("--dir", type=Path, help="where the stores lie (default: a temporary one)")
    asked = parser.parse_args()
    rows = asked.row or ROWS
    lacking = [name for name in rows if name in AGAINST_FFMPEG]
    if lacking and shutil.which("ffmpeg") is None:
        names = " and ".join(dict.fromkeys(lacking))
        print(f"ffmpeg is missing, the peer of {names}: apt install ffmpeg.", file=sys.stderr)
        return 3
    different = 0
    print(f"# Benchmarks ({measure.load()} at the start)\n", flush=True)
    for name in rows:
        module = importlib.import_module(f"tests.bench.{name}")
        with tempfile.TemporaryDirectory(prefix="lamppost-bench-", dir=asked.dir) as folder:
            row = module.run(Path(folder), small=asked.small)
        print(row.report() + "\n", flush=True)
        different += len(row.differences)
    print(f"{different} differences between the sides' results.")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
