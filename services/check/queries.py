"""All SQL of `check`: read only, in pages, so that memory does not grow with the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import Database, coordination, tables
from shared.intervals import Interval
from shared.retention import Policy

PAGE = 2_000
_segment, _fragments = tables.segment, tables.segment_fragments
_audit, _media = tables.audit, tables.media_session


async def pages(
    database: Database, query: sa.Select[Any], by: sa.Column[Any]
) -> AsyncIterator[RowMapping]:
    """The rows of a query in order of a unique column, a page a transaction."""
    last: Any = None
    while True:
        page = query.order_by(by).limit(PAGE)
        if last is not None:
            page = page.where(by > last)
        async with database.read() as connection:
            rows = (await connection.execute(page)).mappings().all()
        for row in rows:
            yield row
        if len(rows) < PAGE:
            return
        last = rows[-1][by.key]


def segments() -> sa.Select[Any]:
    """Every segment, and whether it has its fragment table."""
    return sa.select(
        _segment, _fragments.c.segment_id.is_not(None).label("has_fragments")
    ).outerjoin(_fragments, _fragments.c.segment_id == _segment.c.id)


async def segment(database: Database, segment_id: str) -> RowMapping | None:
    """The row as it is now."""
    query = sa.select(_segment).where(_segment.c.id == segment_id)
    async with database.read() as connection:
        return (await connection.execute(query)).mappings().first()


async def key_exists(database: Database, key: str) -> bool:
    """Whether a row names the object now."""
    query = sa.select(_segment.c.id).where(_segment.c.key == key)
    async with database.read() as connection:
        return (await connection.execute(query)).first() is not None


async def policies(connection: AsyncConnection) -> dict[int, Policy]:
    rows = (await connection.execute(sa.select(tables.policy))).mappings()
    return {
        row["version"]: Policy(row["version"], row["retention_days"], row["basis"], row["timezone"])
        for row in rows
    }


async def claims(connection: AsyncConnection) -> Sequence[RowMapping]:
    """Unfinished purges, and whether a tombstone stands for them already."""
    claim, stone = tables.purge_claim, tables.tombstone
    query = sa.select(claim, stone.c.id.is_not(None).label("has_tombstone")).outerjoin(
        stone, stone.c.id == claim.c.id
    )
    return (await connection.execute(query)).mappings().all()


async def unclaimed_purging(connection: AsyncConnection) -> Sequence[RowMapping]:
    """Segments being purged by no claim."""
    claim = tables.purge_claim
    query = (
        sa.select(_segment.c.id, _segment.c.camera_id, _segment.c.key)
        .outerjoin(claim, claim.c.id == _segment.c.claim_id)
        .where(_segment.c.state == "purging", claim.c.id.is_(None))
        .limit(PAGE)
    )
    return (await connection.execute(query)).mappings().all()


async def rows_with_ids(connection: AsyncConnection, ids: Sequence[str]) -> set[str]:
    """Which of the ids still have a segment row."""
    found: set[str] = set()
    for first in range(0, len(ids), 500):
        query = sa.select(_segment.c.id).where(_segment.c.id.in_(ids[first : first + 500]))
        found.update((await connection.execute(query)).scalars())
    return found


async def ledger_days(connection: AsyncConnection) -> Sequence[RowMapping]:
    """What was committed a camera and date, what is there, and what tombstones tell of."""
    day, stone = tables.ledger_day, tables.tombstone
    there = (
        sa.select(sa.func.count())
        .where(
            _segment.c.camera_id == day.c.camera_id,
            _segment.c.recording_date == day.c.recording_date,
        )
        .scalar_subquery()
    )
    purged = (
        sa.select(sa.func.coalesce(sa.func.sum(stone.c.segment_count), 0))
        .where(
            stone.c.camera_id == day.c.camera_id,
            stone.c.recording_date == day.c.recording_date,
        )
        .scalar_subquery()
    )
    query = sa.select(day, there.label("there"), purged.label("purged"))
    return (await connection.execute(query)).mappings().all()


def media_sessions() -> sa.Select[Any]:
    """Every session that delivers media, with its audit record."""
    return sa.select(
        _media.c.id,
        _media.c.camera_id,
        _media.c.kind,
        _media.c.created_at_us,
        _media.c.purpose,
        _media.c.audit_id,
        _audit.c.at_us.label("audit_at_us"),
        _audit.c.actor_id,
        _audit.c.camera_ids.label("audit_camera_ids"),
        _audit.c.purpose.label("audit_purpose"),
        _audit.c.case_ref.label("audit_case_ref"),
        _audit.c.reason.label("audit_reason"),
    ).outerjoin(_audit, _audit.c.id == _media.c.audit_id)


async def sightings_due(connection: AsyncConnection, before_us: int) -> Sequence[RowMapping]:
    """Sightings long past their expiry."""
    table = tables.sighting
    query = (
        sa.select(table.c.id, table.c.camera_id, table.c.start_us, table.c.end_us,
                  table.c.expires_at_us)
        .where(table.c.expires_at_us <= before_us)
        .limit(PAGE)
    )  # fmt: skip
    return (await connection.execute(query)).mappings().all()


async def lonely_thumbnails(connection: AsyncConnection) -> Sequence[str]:
    """Ids of sightings that have a picture and no row."""
    thumbnail, sighting = tables.thumbnail, tables.sighting
    query = (
        sa.select(thumbnail.c.sighting_id)
        .outerjoin(sighting, sighting.c.id == thumbnail.c.sighting_id)
        .where(sighting.c.id.is_(None))
        .limit(PAGE)
    )
    return (await connection.execute(query)).scalars().all()


async def cameras(connection: AsyncConnection) -> Sequence[RowMapping]:
    table = tables.camera
    query = sa.select(table.c.id, table.c.created_at_us, table.c.deleted_at_us)
    return (await connection.execute(query)).mappings().all()


async def waiting(
    connection: AsyncConnection, camera_id: str, start_us: int, end_us: int
) -> list[tuple[Interval, str]]:
    """What recorders said their spools hold of the camera in the interval, by recorder."""
    held = coordination.spool_waiting
    query = sa.select(held.c.start_us, held.c.end_us, held.c.recorder).where(
        held.c.camera_id == camera_id, held.c.end_us > start_us, held.c.start_us < end_us
    )
    return [((row[0], row[1]), row[2]) for row in (await connection.execute(query)).all()]


async def camera_day(
    connection: AsyncConnection, camera_id: str, start_us: int, end_us: int
) -> tuple[Sequence[RowMapping], Sequence[RowMapping]]:
    """Segments and gaps of a camera that touch the interval."""
    recorded = (
        sa.select(
            _segment.c.id, _segment.c.start_us, _segment.c.end_us, _segment.c.expires_at_us,
            _segment.c.effective_start_us, _segment.c.effective_end_us,
        )
        .where(_segment.c.camera_id == camera_id, _segment.c.end_us > start_us,
               _segment.c.start_us < end_us)
        .order_by(_segment.c.effective_start_us, _segment.c.effective_end_us)
    )  # fmt: skip
    gap = tables.gap
    missing = sa.select(gap.c.start_us, gap.c.end_us, gap.c.reason).where(
        gap.c.camera_id == camera_id, gap.c.end_us > start_us, gap.c.start_us < end_us
    )
    return (
        (await connection.execute(recorded)).mappings().all(),
        (await connection.execute(missing)).mappings().all(),
    )


async def tombstones_of(
    connection: AsyncConnection, camera_id: str, first: Any, last: Any
) -> list[bytes]:
    """The packed segments of a camera's tombstones of these recording dates."""
    stone = tables.tombstone
    query = sa.select(stone.c.segments).where(
        stone.c.camera_id == camera_id,
        stone.c.recording_date >= first,
        stone.c.recording_date <= last,
    )
    return list((await connection.execute(query)).scalars())


async def schema(connection: AsyncConnection) -> dict[str, list[str]]:
    """Every table of the database with its columns, as they are."""

    def read(plain: sa.Connection) -> dict[str, list[str]]:
        inspector = sa.inspect(plain)
        return {
            name: [column["name"] for column in inspector.get_columns(name)]
            for name in inspector.get_table_names()
        }

    return await connection.run_sync(read)
