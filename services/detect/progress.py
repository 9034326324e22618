"""How far a worker has come in the log, so that offsets are committed after the effect.

Frames end out of order (fairness, newest wins), and a commit says "everything up to here". So a
partition is committed up to just before its first frame that is still open. Invariant 9.
"""

from __future__ import annotations

from collections.abc import Collection

from shared.bus import Partition, Record


class Progress:
    """Open and ended frames by partition. Bounded by the frames that are open."""

    def __init__(self) -> None:
        self._open: dict[Partition, set[int]] = {}
        self._top: dict[Partition, int] = {}
        self._committed: dict[Partition, int] = {}

    def begin(self, place: Partition, offset: int) -> None:
        """A record was read."""
        self._open.setdefault(place, set()).add(offset)
        self._top[place] = max(offset, self._top.get(place, -1))

    def end(self, place: Partition, offset: int) -> None:
        """Its effect is made, or it was let go; of a partition that was lost it changes nothing."""
        self._open.get(place, set()).discard(offset)

    def lose(self, places: Collection[Partition]) -> None:
        """Another has these partitions: nothing of them is committed from here."""
        for place in places:
            for table in (self._open, self._top, self._committed):
                table.pop(place, None)

    def due(self) -> list[Record]:
        """The last ended record of each partition that has come further since `settled`."""
        found = []
        for (topic, part), top in self._top.items():
            open_ = self._open[(topic, part)]
            last = min(open_) - 1 if open_ else top
            if last > self._committed.get((topic, part), -1):
                found.append(Record(topic, part, last, "", b"", (), 0))
        return found

    def settled(self, records: Collection[Record]) -> None:
        """These were committed."""
        for record in records:
            place = (record.topic, record.partition)
            if place in self._top:
                self._committed[place] = record.offset
