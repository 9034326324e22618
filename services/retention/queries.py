"""SQL of retention but for claims (queries_claims) and the clock (queries_clock)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date
from typing import Any

import sqlalchemy as sa
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.clock import HOUR_US
from shared.db import tables
from shared.domain import HoldKind
from shared.retention import Policy
from shared.standing import RESTORED

LIVE, PURGING = "live", "purging"
LONGEST_SEGMENT_US = HOUR_US
CHUNK = 500
_segment, _sighting, _hold = tables.segment, tables.sighting, tables.hold
_breaker, _policy = tables.breaker, tables.policy


# Policy


async def insert_policy(connection: AsyncConnection, policy: Policy) -> None:
    """One public policy version."""
    await connection.execute(
        sa.insert(_policy).values(
            version=policy.version,
            retention_days=policy.retention_days,
            basis=policy.basis,
            timezone=policy.timezone,
            effective_from_us=policy.effective_from_us,
        )
    )


async def recording_dates(connection: AsyncConnection) -> list[date]:
    """The recording dates that segments or sightings stand under."""
    query = sa.union(
        sa.select(_segment.c.recording_date).distinct(),
        sa.select(_sighting.c.recording_date).distinct(),
    )
    return sorted((await connection.execute(query)).scalars())


async def shorten(
    connection: AsyncConnection,
    dates: Sequence[date],
    ends: tuple[int, int],
    expires: int | sa.ColumnElement[int],
) -> None:
    """Bring forward the expiry of what ends in `ends` (after the first, up to the second instant)
    and stands under one of `dates`; never put it off."""
    for table in (_segment, _sighting):
        await connection.execute(
            sa.update(table)
            .where(
                table.c.recording_date.in_(dates),
                table.c.end_us > ends[0],
                table.c.end_us <= ends[1],
                table.c.expires_at_us > expires,
            )
            .values(expires_at_us=expires)
        )


async def shorten_by_instant(
    connection: AsyncConnection, day: date, kept_us: int, from_us: int
) -> None:
    """The same where expiry counts from each row's end: end + `kept_us`, `from_us` at least."""
    for table in (_segment, _sighting):
        own = table.c.end_us + kept_us
        expires = sa.case((own > from_us, own), else_=from_us)
        await connection.execute(
            sa.update(table)
            .where(table.c.recording_date == day, table.c.expires_at_us > expires)
            .values(expires_at_us=expires)
        )


# What is due


async def newest_commit_us(connection: AsyncConnection) -> int | None:
    """The latest time that a committed row names: no clock may be before it."""
    audit = tables.audit
    last_audit = sa.select(audit.c.at_us).order_by(audit.c.id.desc()).limit(1)
    found = [
        (await connection.execute(sa.select(sa.func.max(_segment.c.committed_at_us)))).scalar(),
        (await connection.execute(last_audit)).scalar(),
        (await connection.execute(sa.select(sa.func.max(tables.retention_run.c.at_us)))).scalar(),
    ]
    return max((value for value in found if value is not None), default=None)


async def due_counts(connection: AsyncConnection, now_us: int) -> dict[date, int]:
    """Live segments past expiry per recording date, held ones among them."""
    query = (
        sa.select(_segment.c.recording_date, sa.func.count())
        .where(_segment.c.state == LIVE, _segment.c.expires_at_us <= now_us)
        .group_by(_segment.c.recording_date)
    )
    return {day: int(count) for day, count in await connection.execute(query)}


async def ledger_counts(connection: AsyncConnection, dates: Collection[date]) -> dict[date, int]:
    """Segments ever committed per recording date."""
    table = tables.ledger_day
    query = (
        sa.select(table.c.recording_date, sa.func.sum(table.c.segments))
        .where(table.c.recording_date.in_(sorted(dates)))
        .group_by(table.c.recording_date)
    )
    return {day: int(count) for day, count in await connection.execute(query)}


# Sightings


async def sighting_cameras(
    connection: AsyncConnection, now_us: int, but_of: Collection[date] = ()
) -> list[str]:
    """Cameras with sightings past their expiry, of other dates than some."""
    query = sa.select(_sighting.c.camera_id).where(_sighting.c.expires_at_us <= now_us).distinct()
    if but_of:
        query = query.where(_sighting.c.recording_date.not_in(sorted(but_of)))
    return sorted((await connection.execute(query)).scalars())


async def lone_sightings(
    connection: AsyncConnection,
    camera_id: str,
    now_us: int,
    *,
    span: tuple[int, int] | None = None,
    after: tuple[int, str] | None = None,
    limit: int = 2_000,
    but_of: Collection[date] = (),
) -> Sequence[RowMapping]:
    """Expired sightings of a camera whose footage is gone: none of the expired segments still there
    overlaps them. Those that are still there are kept, or are purged by a claim of their own. None
    of the dates `but_of`."""
    still_there = (
        sa.select(sa.literal(1))
        .where(
            _segment.c.camera_id == camera_id,
            _segment.c.state == LIVE,
            _segment.c.expires_at_us <= now_us,
            _segment.c.end_us > _sighting.c.start_us,
            _segment.c.end_us < _sighting.c.end_us + LONGEST_SEGMENT_US,
            _segment.c.start_us < _sighting.c.end_us,
        )
        .exists()
    )
    order = (_sighting.c.start_us, _sighting.c.id)
    query = (
        sa.select(
            _sighting.c.id,
            _sighting.c.camera_id,
            _sighting.c.start_us,
            _sighting.c.end_us,
            _sighting.c.expires_at_us,
        )
        .where(
            _sighting.c.camera_id == camera_id,
            _sighting.c.expires_at_us <= now_us,
            sa.not_(still_there),
        )
        .order_by(*order)
        .limit(limit)
    )
    if but_of:
        query = query.where(_sighting.c.recording_date.not_in(sorted(but_of)))
    if span is not None:
        query = query.where(
            _sighting.c.start_us > span[0] - LONGEST_SEGMENT_US,
            _sighting.c.start_us < span[1],
            _sighting.c.end_us > span[0],
        )
    if after is not None:
        query = query.where(
            _sighting.c.start_us >= after[0],
            sa.tuple_(*order) > sa.tuple_(*(sa.literal(part) for part in after)),
        )
    return (await connection.execute(query)).mappings().all()


async def delete_sightings(connection: AsyncConnection, sighting_ids: Sequence[str]) -> None:
    """Those rows, and their thumbnails."""
    thumbnail = tables.thumbnail
    for first in range(0, len(sighting_ids), CHUNK):
        chunk = sighting_ids[first : first + CHUNK]
        await connection.execute(sa.delete(thumbnail).where(thumbnail.c.sighting_id.in_(chunk)))
        await connection.execute(sa.delete(_sighting).where(_sighting.c.id.in_(chunk)))


# Tags


async def oldest_date(connection: AsyncConnection) -> date | None:
    """The oldest recording date that a segment stands under."""
    found: date | None = (
        await connection.execute(sa.select(sa.func.min(_segment.c.recording_date)))
    ).scalar()
    return found


async def unsettled(connection: AsyncConnection, now_us: int) -> list[str]:
    """Ids of officers' holds that are over and whose tags were not settled."""
    over = sa.or_(
        _hold.c.released_at_us <= now_us,
        _hold.c.ends_at_us <= now_us,
        _hold.c.lapses_at_us <= now_us,
    )
    query = (
        sa.select(_hold.c.id)
        .where(_hold.c.kind == HoldKind.OFFICER.value, _hold.c.settled_at_us.is_(None), over)
        .order_by(_hold.c.placed_at_us)
        .limit(100)
    )
    return list((await connection.execute(query)).scalars())


async def settle(connection: AsyncConnection, hold_ids: Sequence[str], now_us: int) -> None:
    """The objects' tags have followed the ends of these holds."""
    await connection.execute(
        sa.update(_hold).where(_hold.c.id.in_(hold_ids)).values(settled_at_us=now_us)
    )


# Breaker and runs


async def open_breaker(connection: AsyncConnection) -> RowMapping | None:
    """The breaker that is open, if one is."""
    query = sa.select(_breaker).where(_breaker.c.cleared_at_us.is_(None)).limit(1)
    return (await connection.execute(query)).mappings().one_or_none()


async def insert_breaker(
    connection: AsyncConnection,
    breaker_id: str,
    cause: str,
    planned: dict[str, int],
    now_us: int,
    *,
    kind: str = "",
) -> None:
    """It is open. `kind` as in shared/standing.py."""
    await connection.execute(
        sa.insert(_breaker).values(
            id=breaker_id, opened_at_us=now_us, cause=cause, planned=planned, kind=kind
        )
    )


async def told(connection: AsyncConnection, cause: str) -> None:
    """What an open breaker of kind `restored` waited for is done; why it stays open is `cause`."""
    await connection.execute(
        sa.update(_breaker)
        .where(_breaker.c.cleared_at_us.is_(None), _breaker.c.kind == RESTORED)
        .values(kind="", cause=cause)
    )


async def close_breaker(
    connection: AsyncConnection, breaker_id: str, now_us: int, by: str, reason: str
) -> None:
    """It is closed."""
    await connection.execute(
        sa.update(_breaker)
        .where(_breaker.c.id == breaker_id)
        .values(cleared_at_us=now_us, cleared_by=by, cleared_reason=reason)
    )


async def accepted(connection: AsyncConnection) -> dict[date, int]:
    """The counts per recording date that a person saw and cleared, the highest of each."""
    query = sa.select(_breaker.c.planned).where(
        _breaker.c.cleared_at_us.is_not(None), _breaker.c.planned.is_not(None)
    )
    found: dict[date, int] = {}
    for planned in (await connection.execute(query)).scalars():
        for text, count in planned.items():
            day = date.fromisoformat(text)
            found[day] = max(found.get(day, 0), int(count))
    return found


async def record_run(
    connection: AsyncConnection,
    worker: str,
    at_us: int | None,
    purged: int,
    stopped: str,
    detail: str,
) -> None:
    """The worker's last run; without a time that can be trusted the last one stays."""
    table = tables.retention_run
    values: dict[str, Any] = {"purged": purged, "stopped": stopped, "detail": detail[:1000]}
    if at_us is not None:
        values["at_us"] = at_us
    changed = await connection.execute(
        sa.update(table).where(table.c.worker == worker).values(values)
    )
    if not changed.rowcount:
        await connection.execute(sa.insert(table).values({"worker": worker, "at_us": 0, **values}))
