"""All SQL of the boxes objects: which segments wait for one, and what their rows say of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from services.archive.filing import MAX_SEGMENT_US
from shared.db import tables
from shared.intervals import Interval

_segment, _gap = tables.segment, tables.gap
CHUNK = 500
MAX_ROWS = 2_000
COLUMNS = (
    _segment.c.id,
    _segment.c.camera_id,
    _segment.c.start_us,
    _segment.c.end_us,
    _segment.c.expires_at_us,
    _segment.c.clock_uncertainty_us,
    _segment.c.key,
    _segment.c.state,
    _segment.c.analysed_us,
)
NOTHING: dict[str, Any] = {
    "boxes_partial": True,
    "analysed_us": 0,
    "gated_us": 0,
    "dropped_us": 0,
}
"""Of a segment that nobody looked at: no object, and no second that was seen."""


async def touching(
    connection: AsyncConnection, camera_id: str, start_us: int, end_us: int
) -> Sequence[RowMapping]:
    """The camera's segments that overlap [start, end), whatever their state, oldest first."""
    query = (
        sa.select(*COLUMNS)
        .where(
            _segment.c.camera_id == camera_id,
            _segment.c.end_us > start_us,
            _segment.c.end_us < end_us + MAX_SEGMENT_US,
            _segment.c.start_us < end_us,
        )
        .order_by(_segment.c.end_us)
        .limit(MAX_ROWS)
    )
    return (await connection.execute(query)).mappings().all()


async def gaps(
    connection: AsyncConnection, camera_id: str, start_us: int, end_us: int
) -> list[Interval]:
    """The camera's gaps that overlap [start, end)."""
    query = (
        sa.select(_gap.c.start_us, _gap.c.end_us)
        .where(_gap.c.camera_id == camera_id, _gap.c.end_us > start_us, _gap.c.start_us < end_us)
        .limit(MAX_ROWS)
    )
    return [(row[0], row[1]) for row in await connection.execute(query)]


async def overdue(
    connection: AsyncConnection, before_us: int, after: tuple[int, str] | None
) -> Sequence[RowMapping]:
    """Live segments that end before that time and whose object is not decided: a page of them,
    oldest first, after a place."""
    order = (_segment.c.end_us, _segment.c.id)
    query = (
        sa.select(*COLUMNS)
        .where(
            _segment.c.analysed_us.is_(None),
            _segment.c.state == "live",
            _segment.c.end_us <= before_us,
        )
        .order_by(*order)
        .limit(CHUNK)
    )
    if after is not None:
        query = query.where(
            _segment.c.end_us >= after[0], sa.tuple_(*order) > sa.tuple_(*map(sa.literal, after))
        )
    return (await connection.execute(query)).mappings().all()


async def row(connection: AsyncConnection, segment_id: str) -> RowMapping | None:
    """The segment as it is now, while it is live."""
    query = sa.select(*COLUMNS).where(_segment.c.id == segment_id, _segment.c.state == "live")
    return (await connection.execute(query)).mappings().one_or_none()


async def decide(
    connection: AsyncConnection, segment_ids: Sequence[str], values: dict[str, Any]
) -> int:
    """Write what is known of live segments that were not decided before; how many there were."""
    result = await connection.execute(
        sa.update(_segment)
        .where(
            _segment.c.id.in_(segment_ids),
            _segment.c.state == "live",
            _segment.c.analysed_us.is_(None),
        )
        .values(values)
    )
    return int(result.rowcount)
