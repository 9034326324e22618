"""Reads holds whole, with their cameras: one reader for archive, retention, api and `check`.

Whether a segment is held is computed from these values by `shared.retention`, never by SQL.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import tables
from shared.db.rows import hold_of
from shared.domain import Hold

CHUNK = 500
_hold, _camera = tables.hold, tables.hold_camera


async def load(
    connection: AsyncConnection,
    *,
    cameras: Collection[str] | None = None,
    start_us: int | None = None,
    end_us: int | None = None,
) -> list[Hold]:
    """Every hold, over or in force, that names one of `cameras` and touches [start, end).

    The caller widens the range by the greatest clock uncertainty it knows of. Holds that are over
    are part of the answer: whether a later one binds can depend on them (`retention.binding`).
    """
    query = sa.select(_hold).order_by(_hold.c.placed_at_us, _hold.c.id)
    if cameras is not None:
        ids = sa.select(_camera.c.hold_id).where(_camera.c.camera_id.in_(sorted(cameras)))
        query = query.where(_hold.c.id.in_(ids))
    if start_us is not None:
        query = query.where(_hold.c.end_us > start_us)
    if end_us is not None:
        query = query.where(_hold.c.start_us < end_us)
    return await with_cameras(connection, (await connection.execute(query)).mappings().all())


async def get(connection: AsyncConnection, hold_id: str) -> Hold | None:
    """One hold."""
    query = sa.select(_hold).where(_hold.c.id == hold_id)
    found = await with_cameras(connection, (await connection.execute(query)).mappings().all())
    return found[0] if found else None


async def with_cameras(connection: AsyncConnection, rows: Sequence[RowMapping]) -> list[Hold]:
    """The holds of `hold` rows, in their order."""
    cameras: dict[str, list[str]] = {row["id"]: [] for row in rows}
    ids = list(cameras)
    for first in range(0, len(ids), CHUNK):
        query = (
            sa.select(_camera)
            .where(_camera.c.hold_id.in_(ids[first : first + CHUNK]))
            .order_by(_camera.c.camera_id)
        )
        for hold_id, camera_id in (await connection.execute(query)).all():
            cameras[hold_id].append(camera_id)
    return [hold_of(row, tuple(cameras[row["id"]])) for row in rows]
