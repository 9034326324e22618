"""Wall time of media time: smooth, monotone, and never later than receipt (invariant 10).

A line `wall = anchor + media` is laid along the earliest arrivals: the least delayed packet of a
connection's first fragment sets the anchor. Later it is lowered at once when a packet arrives
before the line says it was taken, and raised by and by when every packet arrives late, which is how
a camera looks whose clock runs slow or whose frame rate is not what it says.

See docs/architecture.md, "ingest", capture time.
"""

from __future__ import annotations

from typing import NamedTuple

from shared.clock import SECOND_US
from shared.domain import ClockSource

CATCH_UP_US = 3 * SECOND_US
"""Time constant of the rise: a frame rate that is wrong by a third still stays within a second."""
JUMP_US = 2 * SECOND_US
LATE_WINDOWS = 10
"""So many fragments in a row that lie over JUMP_US late mean that the clock was set."""
TRUST_BEHIND_US = 2 * SECOND_US
TRUST_AHEAD_US = 50_000
"""A camera clock is believed when its times lie this close to receipt; its distance from receipt
is then transport delay. Otherwise receipt is believed and the distance reported as an offset."""
_FAR = 1 << 62


class ClockFacts(NamedTuple):
    """Where the times of a segment come from."""

    source: ClockSource
    uncertainty_us: int
    offset_us: int


class Timeline:
    """Maps one run of media time (microseconds from its first packet) to wall time."""

    def __init__(self, declared: ClockSource, floor_us: int | None = None) -> None:
        self._declared = declared
        self._floor_us = floor_us
        self._anchor: int | None = None
        self._trusted = False
        self._late = 0
        self._receipt_low = self._capture_low = _FAR
        self._receipt_high = -_FAR
        self._offset_high: int | None = None
        self._uncaptured = 0
        self._media_us = 0

    def observe(self, media_us: int, received_us: int, capture_us: int | None) -> None:
        """One packet: when it was received, and when its camera says it was taken."""
        low = received_us - media_us
        if low < self._receipt_low:
            self._receipt_low = low
        if low > self._receipt_high:
            self._receipt_high = low
        if capture_us is None:
            self._uncaptured += 1
            return
        self._capture_low = min(self._capture_low, capture_us - media_us)
        offset = capture_us - received_us
        if self._offset_high is None or offset > self._offset_high:
            self._offset_high = offset

    def facts(self) -> ClockFacts:
        """Of the window so far; call it where a segment opens, before `settle`."""
        offset = self._offset_high or 0
        self._trusted = (
            self._offset_high is not None
            and not self._uncaptured
            and -TRUST_BEHIND_US <= offset <= TRUST_AHEAD_US
        )
        jitter = max(0, self._receipt_high - self._receipt_low)
        if self._declared is ClockSource.FILE_REPLAY:
            return ClockFacts(ClockSource.FILE_REPLAY, 1_000, 0)
        if self._trusted:
            return ClockFacts(ClockSource.RTCP_SENDER_REPORT, 50_000, offset)
        return ClockFacts(ClockSource.RECEIPT, 200_000 + jitter, offset)

    def settle(self, media_us: int) -> bool:
        """End the window of observations at this media time and move the line; false when the
        clocks have parted so far that a new run must begin."""
        low = self._receipt_low
        if self._trusted and self._capture_low < low:
            low = self._capture_low
        if low == _FAR:
            return True
        elapsed = max(0, media_us - self._media_us)
        self._media_us = media_us
        fine = True
        if self._anchor is None:
            self._anchor = low
        elif low < self._anchor:
            fine = self._anchor - low <= JUMP_US
            self._anchor = low
            self._late = 0
        else:
            over = low - self._anchor
            self._late = self._late + 1 if over > JUMP_US else 0
            fine = self._late < LATE_WINDOWS
            if over <= JUMP_US:
                self._anchor += over * min(elapsed, CATCH_UP_US) // CATCH_UP_US
        self._receipt_low = self._capture_low = _FAR
        self._receipt_high = -_FAR
        self._offset_high = None
        self._uncaptured = 0
        return fine

    def start_us(self, media_us: int) -> int:
        """Wall time at which the run's first fragment starts: not before what was already
        accounted for, where the floor is near enough to be a matter of delay."""
        wall = self.wall_us(media_us)
        floor = self._floor_us
        if floor is not None and wall < floor <= wall + JUMP_US:
            return floor
        return wall

    def wall_us(self, media_us: int) -> int:
        """Wall time of a media time; after the first `settle`."""
        if self._anchor is None:
            raise ValueError("no packet was observed yet")
        return self._anchor + media_us
