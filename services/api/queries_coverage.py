"""The SQL of a search's coverage: how much of the camera time anybody looked at.

Index `ix_segment_camera_end` holds all the columns that are added up. On PostgreSQL
`ix_segment_end` does so in the order of time, for a search of all cameras: its newest page looks
through some seconds, for which each camera of a city would be looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.filing import ANY_ZONE, Filing, days_of
from services.api.queries_sightings import on_days
from shared.clock import SECOND_US
from shared.coverage import PENDING_US, Coverage
from shared.db import tables
from shared.db.one_of import any_of, one_of, texts
from shared.intervals import Interval

LONGEST_RECORDING_US = 900 * SECOND_US
"""A segment is 600 s long at most (setting ingest.segment_s) and ends at a key frame. Each camera's
index is read so far past the time asked, so that a looser bound would cost more than the rest."""
_segment, _gap = tables.segment, tables.gap


@cache
def _coverage_query(dialect: str, *, count: int, near: bool) -> sa.Select[Any]:
    """Recorded, analysed, gated, dropped and coming microseconds of [start, end), of one camera, of
    several (`count` 2) or of every one (0); near the present a row a camera, with it and its newest
    end. Made once: making it costs more than running it for an hour of one camera."""
    c = _segment.c
    start = sa.bindparam("start_us", type_=sa.BigInteger)
    end = sa.bindparam("end_us", type_=sa.BigInteger)
    length = sa.case((c.effective_end_us > end, end), else_=c.effective_end_us) - sa.case(
        (c.effective_start_us < start, start), else_=c.effective_start_us
    )
    whole = c.end_us - c.start_us
    decided = c.analysed_us.is_not(None)

    def shared(column: Any) -> Any:
        part = sa.case((length == whole, column), else_=column * 1.0 * length / whole)
        return sa.func.sum(sa.case((decided, sa.cast(part, sa.Float)), else_=0.0))

    coming = sa.and_(c.analysed_us.is_(None), c.end_us > sa.bindparam("coming_us"))
    found = [
        sa.func.sum(sa.cast(length, sa.Float)),
        shared(c.analysed_us),
        shared(c.gated_us),
        shared(c.dropped_us),
        sa.func.sum(sa.case((coming, sa.cast(length, sa.Float)), else_=0.0)),
    ]
    query = sa.select(*found, *((c.camera_id, sa.func.max(c.effective_end_us)) if near else ()))
    query = query.where(
        one_of(dialect, c.camera_id, "cameras", count) if count else sa.true(),
        c.state == "live",
        c.end_us > start,
        c.end_us < sa.bindparam("limit_us"),
        c.effective_end_us > start,
        c.effective_start_us < end,
        c.expires_at_us > sa.bindparam("open_us"),
    )
    if dialect == "postgresql":
        query = query.where(on_days(_segment))
    return query.group_by(c.camera_id) if near else query


async def covered(
    connection: AsyncConnection,
    camera_ids: Sequence[str],
    span: Interval,
    now_us: int,
    open_after_us: int | None,
    filing: Filing = ANY_ZONE,
    *,
    every: bool = False,
) -> Coverage:
    """The cameras' coverage of the span, summed in SQL; the same rule as shared.coverage, which is
    for one camera's rows. Effective intervals of a camera's segments do not overlap. `every`: these
    are all the cameras there are."""
    start_us, end_us = span[0], min(span[1], now_us)
    if end_us <= start_us or not camera_ids:
        return Coverage()
    dialect, near = connection.dialect.name, end_us > now_us - PENDING_US
    by_time = every and dialect == "postgresql"
    values = {
        **({} if by_time else {"cameras": texts(dialect, camera_ids)}),
        "start_us": start_us,
        "end_us": end_us,
        "limit_us": end_us + LONGEST_RECORDING_US,
        "coming_us": now_us - PENDING_US,
        "open_us": -1 if open_after_us is None else open_after_us,
        **days_of(connection, start_us, end_us + LONGEST_RECORDING_US, filing),
    }
    count = 0 if by_time else min(2, len(camera_ids))
    query = _coverage_query(dialect, count=count, near=near)
    rows = (await connection.execute(query, values)).all()
    sums = [sum(row[at] or 0.0 for row in rows) for at in range(5)]
    recorded, analysed, gated, dropped, pending = map(round, sums)
    tail = 0
    if near:
        newest = {row[5]: int(row[6]) for row in rows}
        tail = await _tail(connection, camera_ids, (start_us, end_us), now_us, newest, filing)
    asked = len(camera_ids) * (end_us - start_us)
    return Coverage(
        analysed_us=analysed,
        gated_us=gated,
        dropped_us=dropped,
        pending_us=pending + tail,
        unknown_us=max(0, recorded - analysed - gated - dropped - pending),
        not_recorded_us=max(0, asked - recorded - tail),
    )


async def _tail(
    connection: AsyncConnection,
    camera_ids: Sequence[str],
    span: Interval,
    now_us: int,
    newest: dict[str, int],
    filing: Filing,
) -> int:
    """Camera time after each camera's newest row whose own row is still to come."""
    start_us, end_us = span
    c = _gap.c
    chosen = any_of(connection.dialect.name, c.camera_id, camera_ids)
    query = (
        sa.select(c.camera_id, sa.func.max(c.end_us))
        .where(chosen, c.end_us > start_us, c.start_us < end_us)
        .group_by(c.camera_id)
    )
    days = days_of(connection, start_us, now_us, filing)
    if days:
        query = query.where(c.recording_date >= days["first_day"])  # however long a gap is
    gaps = {row[0]: int(row[1]) for row in (await connection.execute(query)).all()}
    earliest_us = max(start_us, now_us - PENDING_US)
    return sum(
        max(0, end_us - max(earliest_us, newest.get(name, 0), gaps.get(name, 0)))
        for name in camera_ids
    )
