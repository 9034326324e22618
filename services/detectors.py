"""Detect workers as child processes of the supervisor, behind everything that records.

They begin once the cameras record, because importing an inference runtime takes seconds of CPU, and
they are asked to end at the very beginning of a stop, so that no recorder waits for one
(docs/architecture.md, "Processes").
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import IO, Any

from services.children import Child, Trade
from shared.clock import Clock
from shared.settings import Settings

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""A library that starts a thread a core of its own would only fight the next worker."""
TRADE = Trade("detector", "detect", kill_after_s=1.5, kill_matters=False)
"""Killed, it leaves sightings without an end, which the archive ends after 60 s of silence."""
FEW = 4
PATIENT_S = 10.0
"""How long a detector may take to end when nobody waits."""


def detector(name: str, settings: Settings, clock: Clock, output: IO[str] | Any) -> Child:
    """The child of that name, to be run."""
    return Child(TRADE, name, settings, clock, output)


def detector_name(number: int) -> str:
    """`detector-001` and so on; the width keeps the order of names the order of numbers."""
    return f"detector-{number:03d}"


def plan(settings: Settings) -> int:
    """How many workers: as set, else `by_cores`; never more than there are partitions to share."""
    wanted = settings.detect.workers
    return min(by_cores(cores()) if wanted is None else wanted, settings.stores.bus_partitions)


def by_cores(count: int) -> int:
    """One a core, on a small machine two and at most four. A worker has whole partitions, and few
    cameras fall unevenly on them: of fifteen on two workers one has often eleven, more than a core
    can look at, while the other core is idle. Two a core even that out, for some 200 MB each."""
    return max(count, min(2 * count, FEW))


def cores() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def begin(nice: int, environ: MutableMapping[str, str]) -> None:
    """Called by a worker before it loads anything heavy, however it was started: recording goes
    first from here on, and its libraries start no threads unless a variable says so."""
    for variable, value in ONE_THREAD.items():
        environ.setdefault(variable, value)
    if nice > 0:
        os.nice(nice)
