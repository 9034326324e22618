"""`make servers` and `make chaos`: real servers for a developer, and faults on demand."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import threading
from pathlib import Path

from shared import log
from shared.settings import Log
from tests.stack import chaos
from tests.stack.servers import Servers
from tests.support.servers.process import ROOT


def servers(folder: Path) -> int:
    """Start them, say how to join them, and stay until Ctrl-C. What they hold stays in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with Servers(folder) as running:
        file = folder / "environment"
        lines = [f"export {name}={value}" for name, value in running.environment().items()]
        file.write_text("\n".join(lines) + "\n", "utf-8")
        print(f"Kafka, PostgreSQL and SeaweedFS run until Ctrl-C; data in {folder}.")
        print("In another terminal:")
        print(f"  . {file}")
        print("  .venv/bin/lamppost migrate")
        print("  .venv/bin/lamppost run api       # or ingest, archive, detect, retention, all")
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    started = commands.add_parser("servers", help="make servers")
    started.add_argument("--folder", type=Path, default=ROOT / ".lamppost" / "servers")
    faults = commands.add_parser("chaos", help="make chaos")
    faults.add_argument("--minutes", type=float, default=30.0, help="Fractions too, everywhere.")
    faults.add_argument("--seed", type=int, default=None)
    faults.add_argument("--together", type=float, default=0.0, help="Minutes of all servers away.")
    faults.add_argument("--each", type=float, default=0.0, help="Minutes of each away alone.")
    faults.add_argument("--keep", type=Path, help="Keep everything in this new folder.")
    asked = parser.parse_args()
    if asked.command == "servers":
        return servers(asked.folder)
    log.configure(Log(level="error"))
    seed = secrets.randbelow(1_000_000) if asked.seed is None else asked.seed
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        return chaos.run(folder, chaos.Asked(asked.minutes, seed, asked.together, asked.each))


if __name__ == "__main__":
    sys.exit(main())
