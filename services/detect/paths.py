"""A track's path kept small while it grows: straight pieces at constant speed, within a tolerance.

At every time the kept path is within the tolerance of where the thing was seen, in x, y and height,
so zones, lines and speed may be judged by it. Memory and work a point are constant; when the points
reach their bound the tolerance doubles. docs/tracking.md, "Paths".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from shared.sightings import PathPoint

TOLERANCE = 0.08
"""Of the box's height, for the foot point."""
HEIGHT_TOLERANCE = 0.2
LEAST = 0.002
"""Of the picture: no finer, however small the box."""
MAX_POINTS = 120
DECIMALS = 4


class Stand(NamedTuple):
    """Where the thing stood: foot point and height of the box, normalised. `wide` is the picture's
    width in heights, since tolerances are in heights and x in widths."""

    at_us: int
    x: float
    y: float
    h: float


class PathKeeper:
    """The path of one track. Points come in order of time."""

    def __init__(self, aspect: float, tolerance: float = TOLERANCE) -> None:
        """`aspect`: the picture's width in its heights."""
        self._aspect = aspect
        self._tolerance = tolerance
        self._kept: list[Stand] = []
        self._last: Stand | None = None
        self._low: list[float] = []
        self._high: list[float] = []
        self.version = 0
        """Counts the kept points: the path has another shape when it changes."""

    @property
    def tolerance(self) -> float:
        """Of the box's height, now."""
        return self._tolerance

    def add(self, stand: Stand) -> None:
        """Take the next place."""
        if self._last is None:
            self._kept.append(stand)
            self._open()
        elif not self._straight(stand):
            self._kept.append(self._last)
            self.version += 1
            self._open()
            self._straight(stand)
            if len(self._kept) >= MAX_POINTS:
                self._coarsen()
        self._last = stand

    def points(self) -> tuple[PathPoint, ...]:
        """The path so far: its first point at 0 ms, its last the newest place."""
        stands = self._stands()
        start_us = stands[0].at_us
        return tuple(
            PathPoint(
                round((one.at_us - start_us) / 1000),
                round(one.x, DECIMALS),
                round(one.y, DECIMALS),
                round(one.h, DECIMALS),
            )
            for one in stands
        )

    def _stands(self) -> list[Stand]:
        last = self._last
        if last is None or last is self._kept[-1]:
            return self._kept
        return [*self._kept, last]

    def _open(self) -> None:
        """Begin a piece at the last kept point: any velocity will do."""
        self._low, self._high = [-float("inf")] * 3, [float("inf")] * 3

    def _straight(self, stand: Stand) -> bool:
        """Whether a straight piece to this place passes all since the last kept one near enough.

        Each place leaves a range of velocities that pass it near enough; all must agree.
        """
        start = self._kept[-1]
        span = stand.at_us - start.at_us
        reach = max(LEAST, self._tolerance * start.h)
        reaches = (reach / self._aspect, reach, HEIGHT_TOLERANCE / TOLERANCE * reach)
        fits = True
        low, high = list(self._low), list(self._high)
        for axis in range(3):
            moved = stand[axis + 1] - start[axis + 1]
            fits = fits and self._low[axis] <= moved / span <= self._high[axis]
            low[axis] = max(low[axis], (moved - reaches[axis]) / span)
            high[axis] = min(high[axis], (moved + reaches[axis]) / span)
        if fits:
            self._low, self._high = low, high
        return fits

    def _coarsen(self) -> None:
        """Keep fewer of the kept points: the tolerance doubles until half of them are gone."""
        stands = list(self._kept)
        while len(self._kept) > MAX_POINTS // 2:
            self._tolerance *= 2
            self._kept = _simplified(stands, self._aspect, self._tolerance)
        self._open()


def _simplified(stands: Iterable[Stand], aspect: float, tolerance: float) -> list[Stand]:
    keeper = PathKeeper(aspect, tolerance)
    for stand in stands:
        keeper.add(stand)
    return list(keeper._stands())
