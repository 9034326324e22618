"""What of a topic is already in rows, as the transaction that wrote the rows said it.

A batch that comes again (a death between rows and offsets, a partition that moved) is known by its
mark and costs one look, at the first batch of a partition that is read anew; afterwards the bus
itself brings nothing twice. A mark is of the last batch alone, because offsets are committed after
each, and names its messages by hashes: an offset says nothing once a log has begun anew, by a lost
bus or a topic made again, and a mark must never swallow a message that nobody read. What no mark
names is handled as ever, and changes nothing where it was handled before (docs/invariants.md, 9).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence
from zlib import crc32

from sqlalchemy.ext.asyncio import AsyncConnection

from services.archive import queries_consumed as queries
from services.archive.queries_consumed import Mark
from shared.bus import Partition, Record
from shared.db import Database

DIGEST_BYTES = 8
_place = struct.Struct("<qqI")
_digest = struct.Struct("<II")


def digest(record: Record) -> bytes:
    """What tells a message from every other that ever stood at its offset: the CRC-32 of its place,
    time, length and key, and that of its value. Chance has to be told apart, not malice, and a hash
    that withstands malice costs as much again as the rest of this."""
    value = record.value
    place = _place.pack(record.offset, record.timestamp_us, len(value))
    return _digest.pack(crc32(record.key.encode(), crc32(place)), crc32(value))


def marks_of(records: Iterable[Record]) -> list[Mark]:
    """The marks of these records, one for each of their partitions, in order."""
    parts: dict[Partition, list[Record]] = {}
    for record in records:
        parts.setdefault((record.topic, record.partition), []).append(record)
    return [
        Mark(*place, max(one.offset for one in found) + 1, b"".join(map(digest, found)))
        for place, found in sorted(parts.items())
    ]


class Consumed:
    """One group's marks, as one member of it meets them."""

    def __init__(self, database: Database, group: str) -> None:
        self._database = database
        self._group = group
        self._known: dict[Partition, tuple[int, frozenset[bytes]]] = {}
        """Of each partition that was looked up: where its mark ends, and what it names."""

    def keep_only(self, assigned: Collection[Partition]) -> None:
        """Forget the partitions that others read now: they are looked up when they come back."""
        for place in [place for place in self._known if place not in assigned]:
            del self._known[place]

    async def unread(self, records: Sequence[Record]) -> Sequence[Record]:
        """The records without those that a mark names."""
        fresh = {(one.topic, one.partition) for one in records} - self._known.keys()
        if fresh:
            await self._look_up(fresh)
        if not any(names for _, names in self._known.values()):
            return records
        left = []
        for record in records:
            place = (record.topic, record.partition)
            end, names = self._known[place]
            if not names:
                left.append(record)
            elif record.offset >= end:
                self._known[place] = (0, frozenset())  # past it: nothing of it comes any more
                left.append(record)
            elif digest(record) not in names:
                left.append(record)
        return left

    async def _look_up(self, places: Collection[Partition]) -> None:
        async with self._database.read() as connection:
            found = await queries.marks(connection, self._group, places)
        self._known |= dict.fromkeys(places, (0, frozenset[bytes]()))
        for mark in found:
            self._known[mark.topic, mark.part] = (mark.next_offset, _names(mark.digests))

    async def mark(self, connection: AsyncConnection, records: Iterable[Record]) -> list[Mark]:
        """Name these records in the transaction that writes what they say; `wrote` once that is
        committed."""
        marks = marks_of(records)
        await queries.store(connection, self._group, marks)
        return marks

    def wrote(self, marks: Iterable[Mark]) -> None:
        """These are committed: what they name is known should it come again."""
        for mark in marks:
            self._known[mark.topic, mark.part] = (mark.next_offset, _names(mark.digests))


def _names(digests: bytes) -> frozenset[bytes]:
    return frozenset(
        digests[first : first + DIGEST_BYTES] for first in range(0, len(digests), DIGEST_BYTES)
    )
