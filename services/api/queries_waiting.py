"""What recorders' spools hold by their own word, for the ledger."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.coordination import spool_waiting as _table
from shared.intervals import Interval


async def waiting(
    connection: AsyncConnection, camera_id: str, start_us: int, end_us: int
) -> list[tuple[Interval, str]]:
    """Spans of the camera that touch [start, end), each with its recorder."""
    query = (
        sa.select(_table.c.start_us, _table.c.end_us, _table.c.recorder)
        .where(
            _table.c.camera_id == camera_id,
            _table.c.end_us > start_us,
            _table.c.start_us < end_us,
        )
        .order_by(_table.c.start_us)
    )
    return [((row[0], row[1]), row[2]) for row in (await connection.execute(query)).all()]
