"""Doubt about the time: pure, for those who delete and those who show (docs/retention.md).

Doubt stops deletion, and playback of what might have expired. Nothing is guessed: who deletes stops
at any reason; who shows judges expiry at `latest_us`, the latest time that any clock claims.
"""

from __future__ import annotations

from typing import NamedTuple

from shared.clock import EARLIEST_US


class Readings(NamedTuple):
    """What the clocks say at one moment, UTC microseconds; None: could not be read."""

    wall_us: int
    monotonic_us: int
    started_wall_us: int
    started_monotonic_us: int
    database_us: int | None
    newest_commit_us: int | None = None
    """The commit time of the newest row; None: no row yet."""
    store_us: int | None = None
    """The object store's own time; None: not asked or not reached, which is not doubt by itself."""

    @property
    def steady_us(self) -> int:
        """Wall time by the monotonic clock since the start."""
        return self.started_wall_us + (self.monotonic_us - self.started_monotonic_us)


class Doubt(NamedTuple):
    """Why the time is doubted (empty: it is not), and the latest time it may be."""

    reasons: tuple[str, ...]
    latest_us: int

    def __bool__(self) -> bool:
        return bool(self.reasons)


def judge(readings: Readings, max_error_us: int) -> Doubt:
    """Compare the clocks; `max_error_us` is the disagreement that is still fine."""
    reasons: list[str] = []
    if readings.wall_us < EARLIEST_US:
        reasons.append("the wall clock is not set")
    if abs(readings.wall_us - readings.steady_us) > max_error_us:
        reasons.append("the wall clock moved against the monotonic clock since the start")
    if readings.database_us is None:
        reasons.append("the database cannot be reached")
    elif abs(readings.wall_us - readings.database_us) > max_error_us:
        reasons.append("the database has another time")
    if readings.store_us is not None and (abs(readings.wall_us - readings.store_us) > max_error_us):
        reasons.append("the object store has another time")
    if readings.newest_commit_us is not None and readings.wall_us < readings.newest_commit_us:
        reasons.append("the wall clock is before the newest row's commit")
    claims = (
        readings.wall_us,
        readings.steady_us,
        readings.database_us,
        readings.store_us,
        readings.newest_commit_us,
    )
    latest = max(claim for claim in claims if claim is not None) if reasons else readings.wall_us
    return Doubt(tuple(reasons), latest)
