"""A detect worker takes one core, however it was started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from services import detectors

ROOT = Path(__file__).parents[3]
ALONE = """
import os, sys
from services import detectors, one

assert "numpy" not in sys.modules, "its threads are there already"
detectors.begin(3, os.environ)
import numpy, psutil
print(os.nice(0), psutil.Process().num_threads())
"""


def test_its_libraries_start_no_threads() -> None:
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    nice, threads = done.stdout.split()
    assert int(nice) >= 3
    assert threads == "1"


def test_a_person_who_set_it_otherwise_is_heard() -> None:
    environ = {"OMP_NUM_THREADS": "4"}
    detectors.begin(0, environ)
    assert environ.pop("OMP_NUM_THREADS") == "4"
    assert environ == {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
