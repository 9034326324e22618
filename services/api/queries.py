"""The api's SQL for cameras, segments, the ledger and the audit log. Accounts: queries_accounts.py,
media: media_queries.py, holds: holds_queries.py. Each function takes the caller's connection and
never commits."""

from __future__ import annotations

import operator as operators
from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.access import Subject
from shared.clock import DAY_US, HOUR_US
from shared.db import rows, tables
from shared.domain import Camera
from shared.intervals import Interval

_camera, _zone, _segment = tables.camera, tables.zone, tables.segment
_audit, _gap = tables.audit, tables.gap
LONGEST_SEGMENT_US = HOUR_US
"""No segment is an hour long; bounds index ranges."""


async def _all(connection: AsyncConnection, query: sa.Select[Any]) -> Sequence[RowMapping]:
    found: Sequence[RowMapping] = (await connection.execute(query)).mappings().all()
    return found


async def _first(connection: AsyncConnection, query: sa.Select[Any]) -> RowMapping | None:
    row: RowMapping | None = (await connection.execute(query)).mappings().first()
    return row


async def camera(connection: AsyncConnection, camera_id: str) -> Camera | None:
    """A camera, deleted or not."""
    row = await _first(connection, sa.select(_camera).where(_camera.c.id == camera_id))
    return None if row is None else rows.camera_of(row)


class CameraFilter(NamedTuple):
    """What a list of cameras is narrowed to."""

    district: str | None = None
    site_kind: str | None = None
    enabled: bool | None = None
    deleted: bool = False
    name: str | None = None


def in_scope(subject: Subject) -> sa.ColumnElement[bool]:
    """The cameras a person is responsible for, as access.sees_camera judges it."""
    if subject.districts is None and subject.camera_ids is None:
        return sa.true()
    return sa.or_(
        _camera.c.district.in_(subject.districts or ()),
        _camera.c.id.in_(subject.camera_ids or ()),
    )


async def cameras(
    connection: AsyncConnection,
    subject: Subject | None,
    wanted: CameraFilter,
    after: str | None,
    limit: int,
) -> list[Camera]:
    """Cameras in order of id; `subject` None: all of them."""
    query = sa.select(_camera).order_by(_camera.c.id).limit(limit)
    if subject is not None:
        query = query.where(in_scope(subject))
    if after is not None:
        query = query.where(_camera.c.id > after)
    if not wanted.deleted:
        query = query.where(_camera.c.deleted_at_us.is_(None))
    if wanted.district is not None:
        query = query.where(_camera.c.district == wanted.district)
    if wanted.site_kind is not None:
        query = query.where(_camera.c.site_kind == wanted.site_kind)
    if wanted.enabled is not None:
        query = query.where(_camera.c.enabled.is_(wanted.enabled))
    if wanted.name is not None:
        query = query.where(_camera.c.name.icontains(wanted.name, autoescape=True))
    return [rows.camera_of(row) for row in await _all(connection, query)]


async def camera_switches(connection: AsyncConnection, limit: int) -> dict[str, bool]:
    """Every camera that was not deleted: whether it is enabled."""
    query = sa.select(_camera.c.id, _camera.c.enabled).where(_camera.c.deleted_at_us.is_(None))
    found = await connection.execute(query.order_by(_camera.c.id).limit(limit))
    return {row.id: bool(row.enabled) for row in found}


async def count_cameras(connection: AsyncConnection) -> int:
    query = sa.select(sa.func.count()).select_from(_camera)
    return int(await connection.scalar(query) or 0)


async def insert_camera(connection: AsyncConnection, values: dict[str, Any]) -> None:
    await connection.execute(sa.insert(_camera).values(**values))


async def update_camera(connection: AsyncConnection, values: dict[str, Any]) -> None:
    await connection.execute(
        sa.update(_camera).where(_camera.c.id == values["id"]).values(**values)
    )


async def zones(connection: AsyncConnection, camera_id: str) -> Sequence[RowMapping]:
    return await _all(
        connection,
        sa.select(_zone)
        .where(_zone.c.camera_id == camera_id)
        .order_by(_zone.c.created_at_us, _zone.c.id),
    )


async def zone(connection: AsyncConnection, camera_id: str, zone_id: str) -> RowMapping | None:
    return await _first(
        connection,
        sa.select(_zone).where(_zone.c.camera_id == camera_id, _zone.c.id == zone_id),
    )


async def insert_zone(connection: AsyncConnection, values: dict[str, Any]) -> None:
    await connection.execute(sa.insert(_zone).values(**values))


async def update_zone(connection: AsyncConnection, zone_id: str, values: dict[str, Any]) -> None:
    await connection.execute(sa.update(_zone).where(_zone.c.id == zone_id).values(**values))


async def delete_zone(connection: AsyncConnection, zone_id: str) -> None:
    await connection.execute(sa.delete(_zone).where(_zone.c.id == zone_id))


async def segments(
    connection: AsyncConnection,
    camera_ids: Sequence[str],
    start_us: int,
    end_us: int,
    after: tuple[int, str] | None = None,
    limit: int | None = None,
) -> Sequence[RowMapping]:
    """Segment rows that overlap [start, end) and are not claimed by a purge, in order of end."""
    query = (
        sa.select(_segment)
        .where(
            _segment.c.camera_id.in_(camera_ids),
            _segment.c.state == "live",
            _segment.c.end_us > start_us,
            _segment.c.end_us < end_us + LONGEST_SEGMENT_US,
            _segment.c.start_us < end_us,
        )
        .order_by(_segment.c.end_us, _segment.c.id)
    )
    if after is not None:
        query = query.where(sa.tuple_(_segment.c.end_us, _segment.c.id) > sa.tuple_(*after))
    if limit is not None:
        query = query.limit(limit)
    return await _all(connection, query)


async def segment(connection: AsyncConnection, segment_id: str) -> RowMapping | None:
    return await _first(
        connection,
        sa.select(_segment).where(_segment.c.id == segment_id, _segment.c.state == "live"),
    )


class SpanRow(NamedTuple):
    """A segment as the ledger needs it: its effective interval, the rest for the rule."""

    span: Interval
    recorded: Interval
    expires_at_us: int
    uncertainty_us: int
    purging: bool


async def ledger_spans(
    connection: AsyncConnection, camera_id: str, start_us: int, end_us: int
) -> list[SpanRow]:
    """Every row, claimed ones too, whose effective interval overlaps [start, end)."""
    c = _segment.c
    query = sa.select(
        c.effective_start_us,
        c.effective_end_us,
        c.start_us,
        c.end_us,
        c.expires_at_us,
        c.clock_uncertainty_us,
        c.state,
    ).where(
        c.camera_id == camera_id,
        c.end_us > start_us,
        c.end_us < end_us + LONGEST_SEGMENT_US,
        c.effective_end_us > start_us,
        c.effective_start_us < end_us,
    )
    return [
        SpanRow((row[0], row[1]), (row[2], row[3]), row[4], row[5], row[6] != "live")
        for row in (await connection.execute(query)).all()
    ]


async def ledger_gaps(
    connection: AsyncConnection, camera_id: str, start_us: int, end_us: int
) -> list[tuple[Interval, str]]:
    query = (
        sa.select(_gap.c.start_us, _gap.c.end_us, _gap.c.reason)
        .where(_gap.c.camera_id == camera_id, _gap.c.end_us > start_us, _gap.c.start_us < end_us)
        .order_by(_gap.c.start_us)
    )
    return [((row[0], row[1]), row[2]) for row in (await connection.execute(query)).all()]


async def ledger_purged(
    connection: AsyncConnection, camera_id: str, first: date, last: date
) -> list[Interval]:
    """What tombstones of these recording dates say was recorded."""
    t = tables.tombstone
    query = sa.select(t.c.segments).where(
        t.c.camera_id == camera_id, t.c.recording_date >= first, t.c.recording_date <= last
    )
    found: list[Interval] = []
    for (packed,) in (await connection.execute(query)).all():
        found.extend((item[1], item[2]) for item in msgspec.msgpack.decode(packed))
    return found


class RetentionCounts(NamedTuple):
    """How the purge stands."""

    due: int
    overdue: int
    oldest_end_us: int | None
    segments: int
    size_bytes: int
    purging: int


async def retention_counts(connection: AsyncConnection, now_us: int) -> RetentionCounts:
    """Counts over the segment table; held segments past expiry are counted as due here."""
    c = _segment.c
    due = await connection.scalar(sa.select(sa.func.count()).where(c.expires_at_us <= now_us))
    overdue = await connection.scalar(
        sa.select(sa.func.count()).where(c.expires_at_us <= now_us - DAY_US)
    )
    oldest = (
        await connection.execute(sa.select(c.end_us).order_by(c.expires_at_us).limit(1))
    ).scalar()
    totals = (
        await connection.execute(
            sa.select(
                sa.func.count(),
                sa.func.coalesce(sa.func.sum(c.size_bytes), 0),
                sa.func.coalesce(sa.func.sum(sa.case((c.state != "live", 1), else_=0)), 0),
            )
        )
    ).one()
    return RetentionCounts(due or 0, overdue or 0, oldest, totals[0], int(totals[1]), totals[2])


async def open_breaker(connection: AsyncConnection) -> RowMapping | None:
    t = tables.breaker
    return await _first(
        connection,
        sa.select(t).where(t.c.cleared_at_us.is_(None)).order_by(t.c.opened_at_us).limit(1),
    )


async def retention_runs(connection: AsyncConnection) -> Sequence[RowMapping]:
    """The last run of each purge worker, newest first."""
    t = tables.retention_run
    return await _all(connection, sa.select(t).order_by(t.c.at_us.desc()).limit(20))


async def purge_totals(connection: AsyncConnection) -> tuple[int, int, int | None]:
    """Segments and bytes purged ever, and when the last tombstone was written."""
    t = tables.tombstone
    row = (
        await connection.execute(
            sa.select(
                sa.func.coalesce(sa.func.sum(t.c.segment_count), 0),
                sa.func.coalesce(sa.func.sum(t.c.size_bytes), 0),
                sa.func.max(t.c.written_at_us),
            )
        )
    ).one()
    return int(row[0]), int(row[1]), row[2]


class AuditFilter(NamedTuple):
    """What a list of audit records is narrowed to."""

    actor_id: str | None = None
    action: str | None = None
    case_ref: str | None = None
    from_us: int | None = None
    until_us: int | None = None


async def audit_records(
    connection: AsyncConnection, wanted: AuditFilter, before: int | None, limit: int
) -> Sequence[RowMapping]:
    """Records, newest first."""
    query = sa.select(_audit).order_by(_audit.c.id.desc()).limit(limit)
    c = _audit.c
    for column, operator, value in (
        (c.id, operators.lt, before),
        (c.actor_id, operators.eq, wanted.actor_id),
        (c.action, operators.eq, wanted.action),
        (c.case_ref, operators.eq, wanted.case_ref),
        (c.at_us, operators.ge, wanted.from_us),
        (c.at_us, operators.lt, wanted.until_us),
    ):
        if value is not None:
            query = query.where(operator(column, value))
    return await _all(connection, query)


async def newest_audit_us(connection: AsyncConnection) -> int | None:
    """The time of the newest audit record: no true clock is before it."""
    query = sa.select(_audit.c.at_us).order_by(_audit.c.id.desc()).limit(1)
    found = await connection.scalar(query)
    return None if found is None else int(found)
