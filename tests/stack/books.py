"""What the rows say of cameras' seconds: which are filed by now, and which no recorder has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from shared import intervals
from shared.clock import SECOND_US
from shared.intervals import Interval

LEAST_US = SECOND_US
"""Shorter stretches between two segments are no hole, as for `lamppost check`."""


class Books(NamedTuple):
    """Rows that end after some moment: segments (camera, start, end), and gaps, with a reason."""

    segments: Sequence[tuple[str, int, int]]
    gaps: Sequence[tuple[str, int, int, str]]

    def unfiled(self, cameras: Iterable[str], since_us: int, until_us: int) -> dict[str, float]:
        """Cameras of which more is to come, with the seconds that are still neither segment nor
        gap. A gap alone is no end: another recorder may have what it names in a segment that is not
        closed yet, so that a camera is filed through a moment once a segment ends at or after it.
        """
        found: dict[str, float] = {}
        for camera in cameras:
            recorded = self._recorded(camera)
            named = [(start, end) for name, start, end, _ in self.gaps if name == camera]
            left = intervals.subtract([(since_us, until_us)], [*recorded, *named])
            holes = [one for one in left if one[1] - one[0] >= LEAST_US]
            if holes or max((end for _, end in recorded), default=0) < until_us:
                found[camera] = intervals.total(holes) / SECOND_US
        return found

    def lost(self, since_us: int, until_us: int) -> dict[str, float]:
        """Seconds between the two that a gap names and no recorder has, by the gaps' reasons."""
        found: dict[str, float] = {}
        for camera, start, end, reason in self.gaps:
            span = (max(start, since_us), min(end, until_us))
            seconds = intervals.total(intervals.subtract([span], self._recorded(camera)))
            if seconds:
                found[reason] = found.get(reason, 0.0) + seconds / SECOND_US
        return found

    def _recorded(self, camera: str) -> list[Interval]:
        return [(start, end) for name, start, end in self.segments if name == camera]
