"""The api's SQL, but for accounts (queries_accounts.py). Each function takes the caller's
connection and never commits."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import rows, tables
from shared.domain import Camera

_camera = tables.camera


async def camera(connection: AsyncConnection, camera_id: str) -> Camera | None:
    """A camera, deleted or not."""
    row = (
        (await connection.execute(sa.select(_camera).where(_camera.c.id == camera_id)))
        .mappings()
        .first()
    )
    return None if row is None else rows.camera_of(row)


async def newest_audit_us(connection: AsyncConnection) -> int | None:
    """The time of the newest audit record: no true clock is before it."""
    query = sa.select(tables.audit.c.at_us).order_by(tables.audit.c.id.desc()).limit(1)
    found = await connection.scalar(query)
    return None if found is None else int(found)
