"""What a recorder thread keeps in memory while it waits for pictures."""

from __future__ import annotations

import sys
from pathlib import Path

from services.ingest.media import FragmentWritten, MediaEvent
from shared.clock import SimulatedClock
from tests.support.packets import START_US
from tests.support.recorder_life import Connection, Life


def test_a_fragment_is_not_kept_once_it_was_handed_over(tmp_path: Path) -> None:
    """Twenty-four cameras would keep twelve megabytes."""
    clock = SimulatedClock(START_US)
    taken: list[FragmentWritten] = []
    kept: list[int] = []

    def hear(event: MediaEvent) -> None:
        if isinstance(event, FragmentWritten):
            taken.append(event)

    class Watched(Connection):
        def read(self):  # type: ignore[no-untyped-def]
            kept.extend(sys.getrefcount(part) for event in taken for part in event.parts)
            return super().read()

    Life(tmp_path, clock, hear, connection=Watched).live([(0, 4)])
    assert len(taken) >= 3
    alone = {sys.getrefcount(part) for part in (bytes(bytearray(20)),)}
    assert set(kept) == alone
