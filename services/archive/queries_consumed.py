"""SQL of the marks that say what of a topic is in rows: one row for each partition of a group."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.bus import Partition
from shared.db import dialects
from shared.db.coordination import consumed as _table


class Mark(NamedTuple):
    """What the last batch of a partition was: where it ended, and its messages' hashes."""

    topic: str
    part: int
    next_offset: int
    digests: bytes


async def marks(
    connection: AsyncConnection, group: str, places: Collection[Partition]
) -> list[Mark]:
    """Those of these partitions that have one."""
    wanted = set(places)
    query = sa.select(*(_table.c[name] for name in Mark._fields)).where(
        _table.c.consumer_group == group,
        _table.c.topic.in_(sorted({topic for topic, _ in wanted})),
        _table.c.part.in_(sorted({part for _, part in wanted})),
    )
    found = [Mark(*row) for row in await connection.execute(query)]
    return [mark for mark in found if (mark.topic, mark.part) in wanted]


@cache
def _upsert(dialect: str) -> Any:
    insert = dialects.insert(dialect, _table)
    return insert.on_conflict_do_update(
        index_elements=["consumer_group", "topic", "part"],
        set_={name: insert.excluded[name] for name in ("next_offset", "digests")},
    )


async def store(connection: AsyncConnection, group: str, found: Sequence[Mark]) -> None:
    """In place of those before, in the order of their keys: nobody waits for another in a ring."""
    if found:
        rows = [{"consumer_group": group, **mark._asdict()} for mark in sorted(found)]
        await connection.execute(_upsert(connection.dialect.name), rows)
