"""Results of detection until the segments they belong to are filed: bounded, in memory.

They stay on the bus until their segments are decided: what may be committed is, of each partition,
the messages up to the first that somebody may still need. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from shared import intervals
from shared.boxes import covered
from shared.bus import Partition, Record
from shared.clock import HOUR_US, SECOND_US
from shared.intervals import Interval
from shared.messages import FrameAnalysed, FramesPassedOver

MAX_BYTES = 64 * 1024 * 1024
MAX_ENTRIES = 200_000
OVERHEAD = 400
"""Bytes of an entry beside its message."""
KEEP_US = 3 * HOUR_US
"""Longest wait for a segment, in the camera's own time: a store that was away files it later."""
EDGE_US = 300 * SECOND_US
"""Longest wait for the rest of the time a frame stands for, once its picture is in a segment."""
JOIN_US = SECOND_US
"""Two segments so close leave nothing between them that a third could hold."""
BACK_US = 300 * SECOND_US
"""A camera whose times step back so far begins anew."""


@dataclass(slots=True)
class Entry:
    """One message on its way. `at_us` is the newest time it tells of."""

    place: Partition
    offset: int
    camera_id: str
    start_us: int
    at_us: int
    value: bytes
    done: bool = False

    @property
    def size(self) -> int:
        return len(self.value) + OVERHEAD


class Buffer:
    """See the module."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._order: deque[Entry] = deque()
        self._parts: dict[Partition, deque[Entry]] = {}
        self._cameras: dict[str, list[Entry]] = {}
        self._homes: dict[str, Partition] = {}
        self.newest_us: dict[str, int] = {}
        """Of each camera the newest time it told of."""
        self.size_bytes = 0
        self.dropped = 0
        """Entries dropped because the buffer was full, since it was last read."""

    @property
    def cameras(self) -> list[str]:
        """Those with messages waiting."""
        return sorted(self._cameras)

    def add(self, record: Record, event: FrameAnalysed | FramesPassedOver | None) -> None:
        """A message with its meaning; None: it has none, and is over at once."""
        place = (record.topic, record.partition)
        queue = self._parts.setdefault(place, deque())
        if event is None:
            queue.append(Entry(place, record.offset, "", 0, 0, b"", done=True))
            return
        start_us, at_us = covered(event)
        entry = Entry(place, record.offset, event.camera_id, start_us, at_us, record.value)
        self._homes[entry.camera_id] = place
        newest = self.newest_us.get(entry.camera_id, 0)
        if at_us > newest or at_us < newest - BACK_US:
            self.newest_us[entry.camera_id] = at_us
        for holder in (queue, self._order, self._cameras.setdefault(entry.camera_id, [])):
            holder.append(entry)
        self.size_bytes += entry.size
        while self._order and (self.size_bytes > self.max_bytes or len(self._order) > MAX_ENTRIES):
            oldest = self._order.popleft()
            if not oldest.done:
                self._end(oldest)
                self.dropped += 1

    def span(self, camera_id: str) -> Interval:
        """The time that the camera's waiting messages tell of."""
        entries = self._waiting(camera_id)
        if not entries:
            return 0, 0
        return min(entry.start_us for entry in entries), max(entry.at_us for entry in entries) + 1

    def touching(self, camera_id: str, start_us: int, end_us: int) -> list[bytes]:
        """The waiting messages that may belong to a segment recorded in [start, end)."""
        return [
            entry.value
            for entry in self._waiting(camera_id)
            if entry.start_us < end_us and entry.at_us >= start_us
        ]

    def settle(
        self, camera_id: str, decided: Iterable[Interval], open_: Sequence[Interval], now_us: int
    ) -> int:
        """End what nobody can need any more. `decided`: segments whose object is written and gaps;
        `open_`: segments that wait; `now_us`: 0 while there is more to read, whose times are old.
        How many messages ended without a segment."""
        known = _joined(decided)
        newest = max(self.newest_us.get(camera_id, 0), now_us)
        lost = 0
        for entry in self._waiting(camera_id):
            if any(entry.start_us < end and entry.at_us >= start for start, end in open_):
                continue
            age_us = newest - entry.at_us
            inside = any(start <= entry.at_us < end for start, end in known)
            whole = any(start <= entry.start_us and entry.at_us <= end for start, end in known)
            if whole or (inside and age_us > EDGE_US) or age_us > KEEP_US:
                self._end(entry)
                lost += not (whole or inside)
        self._prune(camera_id)
        return lost

    def committable(self) -> list[Record]:
        """Of each partition the last message up to which all are over; each is told once."""
        found = []
        for place, queue in self._parts.items():
            last = None
            while queue and queue[0].done:
                last = queue.popleft()
            if last is not None:
                found.append(Record(*place, last.offset, "", b"", (), 0))
        while self._order and self._order[0].done:
            self._order.popleft()
        return found

    def keep_only(self, assigned: Collection[Partition]) -> None:
        """Forget what another member reads now, and how far its cameras had come: should they be
        ours again, their messages are read from the last commit on."""
        for camera_id in [name for name, place in self._homes.items() if place not in assigned]:
            del self._homes[camera_id]
            self.newest_us.pop(camera_id, None)
        for place in [place for place in self._parts if place not in assigned]:
            for entry in self._parts.pop(place):
                if not entry.done:
                    self._end(entry)
        for camera_id in list(self._cameras):
            self._prune(camera_id)

    def _waiting(self, camera_id: str) -> list[Entry]:
        return [entry for entry in self._cameras.get(camera_id, ()) if not entry.done]

    def _prune(self, camera_id: str) -> None:
        left = self._waiting(camera_id)
        if left:
            self._cameras[camera_id] = left
        else:
            self._cameras.pop(camera_id, None)

    def _end(self, entry: Entry) -> None:
        self.size_bytes -= entry.size
        entry.done, entry.value = True, b""


def _joined(parts: Iterable[Interval]) -> list[Interval]:
    """The union, with holes of less than `JOIN_US` closed."""
    joined: list[Interval] = []
    for start, end in intervals.union(parts):
        if joined and start - joined[-1][1] < JOIN_US:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
