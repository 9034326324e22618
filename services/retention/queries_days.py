"""SQL of whole recording dates, for PostgreSQL (services/retention/leaving.py).

Every statement names the recording date, so that it looks at one partition.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.retention.days import Range
from services.retention.queries import LIVE
from shared.db import dialects, partitions, tables
from shared.db.rows import SIGHTING_COLUMNS
from shared.intervals import Interval

_segment, _fragments = tables.segment, tables.segment_fragments
_sighting, _thumbnail = tables.sighting, tables.thumbnail


async def lock(connection: AsyncConnection, day: date, *of: sa.Table) -> bool:
    """Make writers of the day wait for this transaction, in these of its tables; False: the day
    has no partition of one of them. UNAVAILABLE within `SWAP_LOCK_MS` where others use it."""
    wanted = [partitions.partition(table.name, day) for table in of]
    await partitions.script(connection, [f"SET LOCAL lock_timeout = {partitions.SWAP_LOCK_MS}"])
    if not set(wanted) <= await partitions.existing(connection):
        return False
    statements = [f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE" for name in wanted]
    await partitions.script(connection, statements)
    return True


async def cameras(connection: AsyncConnection, day: date) -> set[str]:
    """Every camera that anything of the day is about. Sightings' cameras are found by steps from
    one to the next in the index: a day has millions of them."""
    ledger = tables.ledger_day
    named = await connection.execute(
        sa.select(ledger.c.camera_id).where(ledger.c.recording_date == day)
    )
    first = (
        sa.select(_sighting.c.camera_id.label("camera_id"))
        .where(_sighting.c.recording_date == day)
        .order_by(_sighting.c.camera_id)
        .limit(1)
        .cte("step", recursive=True)
    )
    after = (
        sa.select(_sighting.c.camera_id)
        .where(_sighting.c.recording_date == day, _sighting.c.camera_id > first.c.camera_id)
        .order_by(_sighting.c.camera_id)
        .limit(1)
        .scalar_subquery()
    )
    steps = first.union_all(sa.select(after).where(first.c.camera_id.is_not(None)))
    seen = await connection.execute(sa.select(steps.c.camera_id))
    return set(named.scalars()) | {name for name in seen.scalars() if name is not None}


async def standing(
    connection: AsyncConnection, day: date, now_us: int
) -> Sequence[tuple[str, int, int]]:
    """Expired segments that are still there, of the day and its neighbours: camera, start, end."""
    query = sa.select(_segment.c.camera_id, _segment.c.start_us, _segment.c.end_us).where(
        _segment.c.recording_date.between(day - timedelta(days=1), day + timedelta(days=1)),
        _segment.c.state == LIVE,
        _segment.c.expires_at_us <= now_us,
    )
    return [(row[0], row[1], row[2]) for row in await connection.execute(query)]


async def unexpired(
    connection: AsyncConnection, day: date, now_us: int
) -> Sequence[tuple[str, int, int]]:
    """For each camera with sightings of the day that are not expired: from when to when they are.
    One that goes on past midnight expires a day later."""
    query = (
        sa.select(
            _sighting.c.camera_id,
            sa.func.min(_sighting.c.start_us),
            sa.func.max(_sighting.c.end_us),
        )
        .where(_sighting.c.recording_date == day, _sighting.c.expires_at_us > now_us)
        .group_by(_sighting.c.camera_id)
    )
    return [(row[0], row[1], row[2]) for row in await connection.execute(query)]


async def some(connection: AsyncConnection, table: sa.Table, day: date) -> bool:
    """Whether the table has a row of the day."""
    query = sa.select(sa.literal(1)).where(table.c.recording_date == day).limit(1)
    return (await connection.execute(query)).first() is not None


def _alone(day: date, now_us: int, ranges: Sequence[Range]) -> sa.Select[Any]:
    """Expired sightings of the day that lie in no range."""
    query = sa.select(_sighting.c.id).where(
        _sighting.c.recording_date == day, _sighting.c.expires_at_us <= now_us
    )
    if not ranges:
        return query
    each = _table_of(ranges)
    within = sa.select(sa.literal(1)).where(
        each.c.camera_id == _sighting.c.camera_id,
        _sighting.c.start_us < each.c.end_us,
        _sighting.c.end_us > each.c.start_us,
    )
    return query.where(sa.not_(within.exists()))


async def sightings_alone(
    connection: AsyncConnection, day: date, now_us: int, ranges: Sequence[Range], most: int
) -> int:
    """How many, up to `most`."""
    return await _count(connection, _alone(day, now_us, ranges), most)


def _orphans(day: date) -> sa.Select[Any]:
    there = (
        sa.select(sa.literal(1))
        .where(_segment.c.recording_date == day, _segment.c.id == _fragments.c.segment_id)
        .exists()
    )
    return sa.select(_fragments.c.segment_id).where(
        _fragments.c.recording_date == day, sa.not_(there)
    )


async def fragments_alone(connection: AsyncConnection, day: date, most: int) -> int:
    """Fragment tables of the day whose segment is gone: how many, up to `most`."""
    return await _count(connection, _orphans(day), most)


async def delete_fragments_alone(connection: AsyncConnection, day: date) -> int:
    """Delete them one by one; how many."""
    done = await connection.execute(
        sa.delete(_fragments).where(
            _fragments.c.recording_date == day, _fragments.c.segment_id.in_(_orphans(day))
        )
    )
    return int(done.rowcount)


async def _count(connection: AsyncConnection, query: sa.Select[Any], most: int) -> int:
    capped = query.limit(most).subquery()
    return int(await connection.scalar(sa.select(sa.func.count()).select_from(capped)) or 0)


# Sightings that are left


async def expired_spans(
    connection: AsyncConnection, now_us: int, but_of: Collection[date]
) -> Mapping[date, Mapping[str, Interval]]:
    """Of each date but some, and each camera with expired sightings: from when to when they are."""
    c = _sighting.c
    query = (
        sa.select(c.recording_date, c.camera_id, sa.func.min(c.start_us), sa.func.max(c.end_us))
        .where(c.expires_at_us <= now_us, c.recording_date.not_in(sorted(but_of)))
        .group_by(c.recording_date, c.camera_id)
    )
    found: dict[date, dict[str, Interval]] = {}
    for day, camera_id, start_us, end_us in await connection.execute(query):
        found.setdefault(day, {})[camera_id] = (start_us, end_us)
    return found


async def any_within(
    connection: AsyncConnection, day: date, now_us: int, free: Sequence[Range]
) -> set[str]:
    """The cameras that have an expired sighting of the day wholly within one of these times."""
    if not free:
        return set()
    each = _table_of(free)
    one = sa.select(sa.literal(1)).where(
        _sighting.c.recording_date == day,
        _sighting.c.camera_id == each.c.camera_id,
        _sighting.c.start_us >= each.c.start_us,
        _sighting.c.start_us < each.c.end_us,
        _sighting.c.end_us <= each.c.end_us,
        _sighting.c.expires_at_us <= now_us,
    )
    query = sa.select(each.c.camera_id).where(one.exists())
    return set((await connection.execute(query)).scalars())


# What stays


def sightings_in(day: date, ranges: Sequence[Range]) -> sa.Select[Any] | None:
    """Whole rows of the day's sightings in the ranges, each once; None: none."""
    if not ranges:
        return None
    return sa.select(_in_each(day, ranges, SIGHTING_COLUMNS))


def thumbnails_in(day: date, ranges: Sequence[Range]) -> sa.Select[Any] | None:
    """The pictures of those."""
    if not ranges:
        return None
    kept, pictures = _in_each(day, ranges, ["id"]), partitions.leaf(_thumbnail, day)
    return sa.select(pictures).join_from(kept, pictures, pictures.c.sighting_id == kept.c.id)


def _in_each(day: date, ranges: Sequence[Range], columns: Sequence[str]) -> Any:
    """Columns of the day's sightings, by range. Each range is looked up by itself (the offset keeps
    the planner from joining them): few of them cover a small part of the day, which the planner
    cannot know, and it would read the day as a whole."""
    each, sightings = _table_of(ranges), partitions.leaf(_sighting, day)
    one = (
        sa.select(*(sightings.c[name] for name in columns))
        .where(
            sightings.c.camera_id == each.c.camera_id,
            sightings.c.start_us >= each.c.from_us,
            sightings.c.start_us < each.c.end_us,
            sightings.c.end_us > each.c.start_us,
        )
        .offset(sa.literal_column("0"))
        .lateral("one")
    )
    return sa.select(one).select_from(each.join(one, sa.true())).subquery("kept")


def fragments_of_segments(day: date) -> sa.Select[Any]:
    """Fragment tables whose segment has a row."""
    there = sa.select(_segment.c.id).where(_segment.c.recording_date == day)
    return sa.select(_fragments).where(_fragments.c.segment_id.in_(there))


def thumbnails_of_sightings(day: date) -> sa.Select[Any]:
    """Pictures whose sighting has a row."""
    there = sa.select(_sighting.c.id).where(_sighting.c.recording_date == day)
    return sa.select(_thumbnail).where(_thumbnail.c.sighting_id.in_(there))


def _table_of(ranges: Iterable[Range]) -> Any:
    """The ranges as a table of the statement: an array for each column."""
    kinds: tuple[Any, ...] = (sa.Text(), sa.BigInteger(), sa.BigInteger(), sa.BigInteger())
    arrays: list[Any] = [
        sa.literal(list(values), dialects.array(kind))
        for kind, values in zip(kinds, zip(*ranges, strict=True), strict=True)
    ]
    columns: list[Any] = [
        sa.column(name, kind) for name, kind in zip(Range._fields, kinds, strict=True)
    ]
    return sa.func.unnest(*arrays).table_valued(*columns).render_derived(name="ranges")
