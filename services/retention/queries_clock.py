"""SQL of the clock's acceptance (clock.py): rows that were committed while it was ahead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import tables

_segment, _policy, _audit = tables.segment, tables.policy, tables.audit


async def committed_after(
    connection: AsyncConnection, now_us: int, limit: int
) -> Sequence[RowMapping]:
    """Segments whose commit time has not come yet."""
    query = (
        sa.select(
            _segment.c.id,
            _segment.c.end_us,
            _segment.c.expires_at_us,
            _segment.c.policy_version,
        )
        .where(_segment.c.committed_at_us > now_us)
        .limit(limit)
    )
    return (await connection.execute(query)).mappings().all()


async def policies(connection: AsyncConnection) -> Sequence[RowMapping]:
    return (await connection.execute(sa.select(_policy))).mappings().all()


async def correct(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Set commit time and expiry of segments: `row_id`, `now_us`, `expires_us`."""
    await connection.execute(
        sa.update(_segment)
        .where(_segment.c.id == sa.bindparam("row_id"))
        .values(committed_at_us=sa.bindparam("now_us"), expires_at_us=sa.bindparam("expires_us")),
        list(rows),
    )


async def newest_audit_us(connection: AsyncConnection) -> int | None:
    query = sa.select(_audit.c.at_us).order_by(_audit.c.id.desc()).limit(1)
    found = await connection.scalar(query)
    return None if found is None else int(found)
