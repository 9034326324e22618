"""Fetched records that were not polled yet, by partition: none starves another."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable

from aiokafka import ConsumerRecord

from shared.bus import Partition, Record


class Buffers:
    """Belongs to one consumer."""

    def __init__(self) -> None:
        self._kept: dict[Partition, deque[Record]] = {}
        self._turn = 0

    @property
    def is_empty(self) -> bool:
        return not any(self._kept.values())

    def has(self, place: Partition) -> bool:
        """Whether anything of this partition waits."""
        return bool(self._kept.get(place))

    def put(self, place: Partition, records: Iterable[Record]) -> None:
        """Records of a partition that has none here."""
        self._kept[place] = deque(records)

    def forget(self, place: Partition) -> None:
        self._kept.pop(place, None)

    def keep(self, places: Collection[Partition]) -> None:
        """Forget all other partitions."""
        self._kept = {place: kept for place, kept in self._kept.items() if place in places}

    def following(self, place: Partition, otherwise: int) -> int:
        """The offset after what waits here; `otherwise` where nothing does."""
        kept = self._kept.get(place)
        return kept[-1].offset + 1 if kept else otherwise

    def drain(self, max_records: int, max_bytes: int) -> list[Record]:
        """An even share of each partition, then of the rest; another one is first each time. At
        least one record where there is any, whatever its size."""
        self._turn += 1
        places = sorted(place for place, kept in self._kept.items() if kept)
        if not places:
            return []
        turn = self._turn % len(places)
        found: list[Record] = []
        size = 0
        share = max(1, max_records // len(places))
        for most in (share, max_records):
            for place in places[turn:] + places[:turn]:
                kept = self._kept[place]
                count = 0
                while kept and count < most and len(found) < max_records and size < max_bytes:
                    found.append(kept.popleft())
                    size += len(found[-1].value)
                    count += 1
        return found


def record_of(place: Partition, found: ConsumerRecord[bytes, bytes]) -> Record:
    """A record as it is known here. What another program wrote may have no key, or no value."""
    return Record(
        *place,
        found.offset,
        (found.key or b"").decode("utf-8", "replace"),
        found.value or b"",
        found.headers,
        found.timestamp * 1000,
    )
