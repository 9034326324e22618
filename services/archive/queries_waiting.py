"""The SQL of table `spool_waiting`. Writes run in the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.coordination import spool_waiting as _table
from shared.messages import RecorderStatus


async def replace(connection: AsyncConnection, words: Iterable[RecorderStatus]) -> None:
    """What these recorders hold, in place of what they held."""
    words = list(words)
    await drop(connection, [word.recorder for word in words])
    rows = [
        {
            "camera_id": span.camera_id,
            "recorder": word.recorder,
            "start_us": span.start_us,
            "end_us": span.end_us,
            "at_us": word.at_us,
        }
        for word in words
        for span in {(s.camera_id, s.start_us): s for s in word.waiting}.values()
    ]
    if rows:
        await connection.execute(sa.insert(_table), rows)


async def drop(connection: AsyncConnection, recorders: Collection[str]) -> None:
    """These recorders hold nothing."""
    await connection.execute(sa.delete(_table).where(_table.c.recorder.in_(sorted(recorders))))


async def drop_before(connection: AsyncConnection, end_us: int) -> int:
    """Forget what ended before then; how many rows."""
    done = await connection.execute(sa.delete(_table).where(_table.c.end_us < end_us))
    return done.rowcount


async def recorders(connection: AsyncConnection, said_before_us: int) -> set[str]:
    """Whose spool holds something by a word older than that."""
    query = sa.select(_table.c.recorder).where(_table.c.at_us < said_before_us).distinct()
    return set((await connection.execute(query)).scalars())
