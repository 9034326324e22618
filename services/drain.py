"""`lamppost drain`: the end of a recorder's pod. Waits until the recorder beside has ended and what
it filed is stored, so that nothing is left on a volume that nobody looks at for a while.

Runs before `archive --spool` is asked to end (preStop of the chart, helm/lamppost). The recorder is
asked to end at the same moment; it hands its cameras over first. What is not stored in time stays
on the volume and is stored when the pod is back: to wait longer would only hold an update up.
"""

from __future__ import annotations

from typing import NamedTuple

from shared.clock import SECOND_US, Clock
from shared.settings import Settings
from shared.spool import SpoolReader, abandoned

POLL_S = 0.25
ITEMS = 1_000
"""Of so many that wait it is enough to say that there are many."""


class Drained(NamedTuple):
    """How it stands at the end of the wait."""

    recorder_ended: bool
    items: int
    """Waiting in the spool."""

    @property
    def done(self) -> bool:
        return self.recorder_ended and not self.items


def look(settings: Settings) -> Drained:
    """How it stands now. Blocks shortly."""
    root = settings.path(settings.spool.dir)
    folder = root / settings.instance
    if not folder.is_dir():
        return Drained(True, 0)
    with abandoned(folder) as ended:
        pass
    waiting = (item for item in SpoolReader(root).filed(ITEMS) if item.recorder_dir == folder)
    return Drained(ended, sum(1 for _ in waiting))


async def drain(settings: Settings, clock: Clock, for_s: float) -> Drained:
    """Wait until all is stored, for so long at most."""
    until_us = clock.monotonic_us() + round(for_s * SECOND_US)
    while not (found := look(settings)).done and clock.monotonic_us() < until_us:
        await clock.sleep(POLL_S)
    return found
