"""The log in SQL: append, fetch, commit, trim. Functions run inside one transaction of a store."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from shared.bus import Message, Partition, Record
from shared.bus.partitioner import partition_of
from shared.clock import SECOND_US
from shared.messages import Headers, Topic

TRIM_BATCH = 2_000
RECORD_OVERHEAD = 512

_headers = msgspec.msgpack.Decoder(Headers)


class Fetched(NamedTuple):
    """Records, and where each partition is to be read next."""

    records: list[Record]
    positions: dict[Partition, int]


def append(
    c: sqlite3.Connection, messages: Sequence[Message], partitions: int, now_us: int
) -> None:
    """Put messages at the end of their partitions, in this order."""
    ends: dict[Partition, int] = {}
    rows = []
    for message in messages:
        place = (message.topic, partition_of(message.key, partitions))
        if place not in ends:
            ends[place] = end_of(c, place)
        headers = msgspec.msgpack.encode(message.headers)
        rows.append((*place, ends[place], message.key, headers, now_us, message.value))
        ends[place] += 1
    c.executemany(
        'INSERT INTO record (topic, part, "offset", key, headers, at_us, value)'
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        rows,
    )
    c.executemany(
        "INSERT INTO partition_end (topic, part, next) VALUES (?, ?, ?)"
        " ON CONFLICT (topic, part) DO UPDATE SET next = excluded.next",
        [(*place, following) for place, following in ends.items()],
    )


def end_of(c: sqlite3.Connection, place: Partition) -> int:
    """The offset that the partition's next record will have."""
    row = c.execute("SELECT next FROM partition_end WHERE topic = ? AND part = ?", place).fetchone()
    return int(row[0]) if row else 0


def fetch(
    c: sqlite3.Connection,
    positions: Mapping[Partition, int],
    max_records: int,
    max_bytes: int,
    turn: int,
) -> Fetched:
    """Up to so many records and bytes, at least one where there is one.

    The partition that is looked at first changes with `turn`, so that a busy one starves nobody.
    A position whose records are gone (trimmed, compacted) moves on to what is there.
    """
    topics = sorted({topic for topic, _ in positions})
    marks = ", ".join("?" * len(topics))
    ready = [
        ((str(topic), int(part)), int(following))
        for topic, part, following in c.execute(
            "SELECT topic, part, next FROM partition_end"
            f" WHERE topic IN ({marks}) ORDER BY topic, part",
            topics,
        )
        if following > positions.get((topic, part), following)
    ]
    found: list[Record] = []
    moved: dict[Partition, int] = {}
    room = max_bytes
    first = turn % len(ready) if ready else 0
    for place, following in ready[first:] + ready[:first]:
        if len(found) >= max_records or room <= 0:
            break
        moved[place] = following
        for record in _rows(c, place, positions[place], max_records - len(found)):
            size = len(record.value) + RECORD_OVERHEAD
            if found and size > room:
                moved[place] = record.offset
                room = 0
                break
            room -= size
            found.append(record)
            moved[place] = record.offset + 1
    return Fetched(found, moved)


def _rows(c: sqlite3.Connection, place: Partition, position: int, limit: int) -> Iterable[Record]:
    for row in c.execute(
        'SELECT "offset", key, value, headers, at_us FROM record'
        ' WHERE topic = ? AND part = ? AND "offset" >= ? ORDER BY "offset" LIMIT ?',
        (*place, position, limit),
    ):
        offset, key, value, headers, at_us = row
        yield Record(*place, offset, key, value, _headers.decode(headers), at_us)


def commit(c: sqlite3.Connection, group: str, following: Mapping[Partition, int]) -> None:
    """Everything before these offsets is done; a commit never goes back."""
    c.executemany(
        "INSERT INTO committed (grp, topic, part, next) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (grp, topic, part) DO UPDATE SET next = max(next, excluded.next)",
        [(group, *place, offset) for place, offset in following.items()],
    )


def committed(
    c: sqlite3.Connection, group: str, places: Collection[Partition]
) -> dict[Partition, int]:
    """The next offsets of those partitions that the group ever committed."""
    return {
        (str(topic), int(part)): int(following)
        for topic, part, following in c.execute(
            "SELECT topic, part, next FROM committed WHERE grp = ?", (group,)
        )
        if (topic, part) in places
    }


def trim(c: sqlite3.Connection, topic: Topic, now_us: int) -> int:
    """Drop up to TRIM_BATCH records that are older than their topic keeps, or of which a
    compacted topic has a newer one. How many."""
    if topic.compacted:
        return c.execute(
            "DELETE FROM record WHERE seq IN (SELECT seq FROM record WHERE topic = ?1"
            " AND seq NOT IN (SELECT max(seq) FROM record WHERE topic = ?1 GROUP BY key)"
            ' ORDER BY part, "offset" LIMIT ?2)',
            (topic.name, TRIM_BATCH),
        ).rowcount
    if topic.kept_s is None:
        return 0
    dropped = 0
    for (part,) in c.execute(
        "SELECT part FROM partition_end WHERE topic = ?", (topic.name,)
    ).fetchall():
        dropped += _trim_partition(c, topic, part, now_us, TRIM_BATCH - dropped)
    return dropped


def _trim_partition(c: sqlite3.Connection, topic: Topic, part: int, now_us: int, limit: int) -> int:
    """From the oldest on, as far as records are too old: the index gives them in order, so that a
    look costs what it drops and not what the topic holds."""
    assert topic.kept_s is not None
    before_us = now_us - topic.kept_s * SECOND_US
    old: list[int] = []
    for seq, at_us in c.execute(
        'SELECT seq, at_us FROM record WHERE topic = ? AND part = ? ORDER BY "offset" LIMIT ?',
        (topic.name, part, max(0, limit)),
    ):
        if at_us >= before_us:
            break
        old.append(seq)
    c.executemany("DELETE FROM record WHERE seq = ?", [(seq,) for seq in old])
    return len(old)


def drop_oldest(c: sqlite3.Connection, max_bytes: int) -> int:
    """Make a ring of a file: drop the oldest records until the rest is within `max_bytes`.

    How many of the dropped nobody had read: a record that every group has committed is no loss.
    """
    sizes = c.execute(
        'SELECT seq, topic, part, "offset", length(value) FROM record ORDER BY seq DESC'
    )
    room, old = max_bytes, []
    for seq, topic, part, offset, size in sizes:
        room -= size + RECORD_OVERHEAD
        if room < 0:
            old.append((seq, topic, part, offset))
    done: dict[Partition, int] = {
        (topic, part): following
        for topic, part, following in c.execute(
            "SELECT topic, part, min(next) FROM committed GROUP BY topic, part"
        )
    }
    c.executemany("DELETE FROM record WHERE seq = ?", [(seq,) for seq, *_ in old])
    return sum(offset >= done.get((topic, part), 0) for _, topic, part, offset in old)
