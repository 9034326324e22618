"""A service's process keeps what it was built of from the collector of cycles."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SAYS = """
import gc, os, signal, sys
from services import one

class Fake:
    async def run(self, stop):
        print(gc.get_freeze_count(), flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()

one.build = lambda *_: Fake()
one.probing.know = lambda *_: None
from shared.settings import load
one.run("relay", load(os.environ, {}), os.getppid())
"""


def test_what_is_there_when_a_service_begins_is_walked_no_more(tmp_path: Path) -> None:
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("LAMPPOST_")},
        "LAMPPOST_STATE_DIR": str(tmp_path),
    }
    found = subprocess.run(
        [sys.executable, "-c", SAYS],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert int(found.stdout.split()[-1]) > 10_000
