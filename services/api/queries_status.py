"""The SQL of the status: today's gaps and what was recorded inside them, what waits in spools, the
newest of everything. Each query is bounded by today or by the number of cameras, so that a city of
615 is answered at once (tests/unit/api/test_status_cost.py)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.access import Subject
from services.api.filing import days_of
from services.api.queries import in_scope
from services.api.queries_coverage import LONGEST_RECORDING_US
from services.api.queries_sightings import on_days
from shared.clock import DAY_US
from shared.db import tables
from shared.db.coordination import spool_waiting as _waiting
from shared.db.one_of import any_of
from shared.intervals import Interval
from shared.outbox import SET_ASIDE

MAX_CAMERAS = 10_000
MAX_GAPS = 20_000
"""Of one day, the newest; an hour of a camera that comes and goes each two seconds has 900."""
MAX_WAITING = 50_000
MAX_INSIDE = 100_000
_camera, _segment, _gap = tables.camera, tables.segment, tables.gap
_sighting, _outbox, _delivery = tables.sighting, tables.outbox, tables.webhook_delivery


class CameraRow(NamedTuple):
    """What the status needs of a camera."""

    id: str
    name: str
    enabled: bool
    created_us: int


class GapRow(NamedTuple):
    camera_id: str
    start_us: int
    end_us: int
    reason: str

    @property
    def span(self) -> Interval:
        return self.start_us, self.end_us


class WaitingRow(NamedTuple):
    """A span that a recorder's spool alone has, by its last word at `at_us`."""

    recorder: str
    camera_id: str
    start_us: int
    end_us: int
    at_us: int


class Newest(NamedTuple):
    """The newest rows; None where there is none."""

    segment_end_us: int | None
    filed_us: int | None
    sighting_us: int | None
    audit_us: int | None


class Stuck(NamedTuple):
    """Events that wait for the bus: how many, since when; and those it will never take."""

    waiting: int
    oldest_us: int | None
    set_aside: int


async def cameras(connection: AsyncConnection, subject: Subject) -> list[CameraRow]:
    """Cameras in the person's scope that are not deleted, in order of id."""
    c = _camera.c
    query = (
        sa.select(c.id, c.name, c.enabled, c.created_at_us)
        .where(c.deleted_at_us.is_(None), in_scope(subject))
        .order_by(c.id)
        .limit(MAX_CAMERAS)
    )
    return [CameraRow(*row) for row in await connection.execute(query)]


async def gaps(connection: AsyncConnection, ids: Sequence[str], span: Interval) -> list[GapRow]:
    """Gaps of these cameras that touch the span, the newest first."""
    c = _gap.c
    query = (
        sa.select(c.camera_id, c.start_us, c.end_us, c.reason)
        .where(
            any_of(connection.dialect.name, c.camera_id, ids),
            c.end_us > span[0],
            c.start_us < span[1],
        )
        .order_by(c.end_us.desc())
        .limit(MAX_GAPS)
    )
    if days := days_of(connection, *span):
        query = query.where(c.recording_date >= days["first_day"])  # however long a gap is
    return [GapRow(*row) for row in await connection.execute(query)]


async def recorded_inside(
    connection: AsyncConnection, ids: Sequence[str], span: Interval
) -> dict[str, list[Interval]]:
    """What was recorded inside gaps of the span, by camera: another recorder had those seconds."""
    g, s = _gap.c, _segment.c
    query = (
        sa.select(s.camera_id, s.effective_start_us, s.effective_end_us)
        .select_from(_gap)
        .join(
            _segment,
            sa.and_(
                s.camera_id == g.camera_id,
                s.end_us > g.start_us,
                s.end_us < g.end_us + LONGEST_RECORDING_US,
                s.effective_end_us > g.start_us,
                s.effective_start_us < g.end_us,
            ),
        )
        .where(
            any_of(connection.dialect.name, g.camera_id, ids),
            g.end_us > span[0],
            g.start_us < span[1],
        )
        .limit(MAX_INSIDE)
    )
    values: dict[str, Any] = days_of(connection, span[0], span[1] + LONGEST_RECORDING_US)
    if values:
        query = query.where(on_days(_segment), g.recording_date >= values["first_day"])
    found: dict[str, list[Interval]] = {}
    for camera_id, start_us, end_us in await connection.execute(query, values):
        found.setdefault(camera_id, []).append((start_us, end_us))
    return found


async def waiting(connection: AsyncConnection, ids: Sequence[str]) -> list[WaitingRow]:
    """What recorders said that their spools alone hold."""
    c = _waiting.c
    query = (
        sa.select(c.recorder, c.camera_id, c.start_us, c.end_us, c.at_us)
        .where(any_of(connection.dialect.name, c.camera_id, ids))
        .limit(MAX_WAITING)
    )
    return [WaitingRow(*row) for row in await connection.execute(query)]


async def newest(connection: AsyncConnection, ids: Sequence[str], now_us: int) -> Newest:
    """The newest segment and audit record of all, and the newest sighting of these cameras that
    began within a day."""
    c = _segment.c
    filed = (
        await connection.execute(
            sa.select(c.end_us, c.committed_at_us).order_by(c.committed_at_us.desc()).limit(1)
        )
    ).first()
    a = tables.audit.c
    audit_us = await connection.scalar(sa.select(a.at_us).order_by(a.id.desc()).limit(1))
    return Newest(
        filed[0] if filed else None,
        filed[1] if filed else None,
        await _newest_sighting(connection, ids, now_us),
        audit_us,
    )


async def _newest_sighting(
    connection: AsyncConnection, ids: Sequence[str], now_us: int
) -> int | None:
    """One look into the index of searches a camera, and none at a row."""
    s = _sighting.c
    last = (
        sa.select(s.end_us)
        .where(s.camera_id == _camera.c.id, s.start_us >= now_us - DAY_US)
        .order_by(s.start_us.desc())
        .limit(1)
    )
    values: dict[str, Any] = days_of(connection, now_us - DAY_US, now_us)
    if values:
        last = last.where(on_days(_sighting))
        values["last_day"] += timedelta(days=1)
    each = sa.select(last.scalar_subquery().label("end_us")).where(
        any_of(connection.dialect.name, _camera.c.id, ids)
    )
    found = each.subquery()
    latest: int | None = await connection.scalar(sa.select(sa.func.max(found.c.end_us)), values)
    return latest


async def outbox(connection: AsyncConnection) -> Stuck:
    """Over all services. Counted in the index; a row is read for each service alone."""
    c = _outbox.c
    query = sa.select(c.service, sa.func.count(), sa.func.min(c.id)).group_by(c.service)
    rows = (await connection.execute(query)).all()
    going = [row for row in rows if not row[0].startswith(SET_ASIDE)]
    oldest_us = None
    if going:
        first = sa.select(sa.func.min(c.created_at_us)).where(c.id.in_([row[2] for row in going]))
        oldest_us = await connection.scalar(first)
    aside = sum(row[1] for row in rows if row[0].startswith(SET_ASIDE))
    return Stuck(sum(row[1] for row in going), oldest_us, aside)


async def deliveries(connection: AsyncConnection) -> dict[str, int]:
    """Webhook deliveries by state."""
    c = _delivery.c
    query = sa.select(c.state, sa.func.count()).group_by(c.state)
    return {row[0]: row[1] for row in await connection.execute(query)}
