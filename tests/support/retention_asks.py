"""Questions that tests of retention ask of a world."""

from __future__ import annotations

import sqlalchemy as sa

from shared import retention
from shared.db import holds as stored
from shared.db import tables
from shared.db.rows import facts_of
from shared.retention import Access
from tests.support.retention_world import World


async def expiry_of(w: World, segment_id: str | None) -> int:
    return next(int(row["expires_at_us"]) for row in await w.rows() if row["id"] == segment_id)


async def access_of(w: World, segment_id: str | None, viewer: str | None = None) -> Access:
    async with w.database.read() as connection:
        row = (
            (await connection.execute(sa.select(tables.segment).where(
                tables.segment.c.id == segment_id)))
            .mappings()
            .one()
        )  # fmt: skip
        found = await stored.load(connection)
    return retention.access(facts_of(row), found, w.clock.now_us(), viewer)


async def gone(w: World, *ids: str | None) -> bool:
    """Whether bytes, row and fragment table of each are gone and told of exactly once."""
    rows = {row["id"] for row in await w.rows()}
    fragments = {row["segment_id"] for row in await w.rows(tables.segment_fragments)}
    keys = " ".join(await w.objects())
    stones = await w.tombstoned()
    return all(
        one not in rows and one not in fragments and str(one) not in keys and stones.count(one) == 1
        for one in map(str, ids)
    )


async def all_closed(w: World) -> bool:
    return all(
        retention.access(facts_of(row), [], w.clock.now_us()) is Access.CLOSED  # type: ignore[arg-type]
        for row in await w.rows()
    )
