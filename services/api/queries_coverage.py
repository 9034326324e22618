"""The SQL of a search's coverage: how much of the camera time anybody looked at, summed by camera.

Index `ix_segment_camera_end` holds all the columns that are added up, so that no row is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.queries_sightings import days_of, ids_json, on_days, one_of
from shared.clock import SECOND_US
from shared.coverage import PENDING_US, Coverage
from shared.db import tables
from shared.intervals import Interval

LONGEST_RECORDING_US = 900 * SECOND_US
"""A segment is 600 s long at most (setting ingest.segment_s) and ends at a key frame. Each camera's
index is read so far past the time asked, so that a looser bound would cost more than the rest."""
_segment, _gap = tables.segment, tables.gap


def _coverage_query() -> sa.Select[Any]:
    """By camera: recorded, analysed, gated, dropped and coming microseconds of [start, end), and
    the newest end. Made once: making it costs more than running it for an hour of one camera."""
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
        return sa.func.coalesce(sa.func.sum(sa.case((decided, part), else_=0)), 0)

    coming = sa.and_(c.analysed_us.is_(None), c.end_us > sa.bindparam("coming_us"))
    return (
        sa.select(
            c.camera_id,
            sa.func.sum(length),
            shared(c.analysed_us),
            shared(c.gated_us),
            shared(c.dropped_us),
            sa.func.sum(sa.case((coming, length), else_=0)),
            sa.func.max(c.effective_end_us),
        )
        .where(
            one_of(c.camera_id, sa.bindparam("cameras", type_=sa.Text)),
            c.state == "live",
            c.end_us > start,
            c.end_us < sa.bindparam("limit_us"),
            c.effective_end_us > start,
            c.effective_start_us < end,
            c.expires_at_us > sa.bindparam("open_us"),
        )
        .group_by(c.camera_id)
    )


_COVERAGE = {
    "sqlite": _coverage_query(),
    "postgresql": _coverage_query().where(on_days(_segment)),
}


async def covered(
    connection: AsyncConnection,
    camera_ids: Sequence[str],
    span: Interval,
    now_us: int,
    open_after_us: int | None,
) -> Coverage:
    """The cameras' coverage of the span, summed in SQL; the same rule as shared.coverage, which is
    for one camera's rows. Effective intervals of a camera's segments do not overlap."""
    start_us, end_us = span[0], min(span[1], now_us)
    if end_us <= start_us or not camera_ids:
        return Coverage()
    values = {
        "cameras": ids_json(camera_ids),
        "start_us": start_us,
        "end_us": end_us,
        "limit_us": end_us + LONGEST_RECORDING_US,
        "coming_us": now_us - PENDING_US,
        "open_us": -1 if open_after_us is None else open_after_us,
        **days_of(connection, start_us, end_us + LONGEST_RECORDING_US),
    }
    newest: dict[str, int] = {}
    recorded = analysed = gated = dropped = pending = 0
    found = await connection.execute(_COVERAGE[connection.dialect.name], values)
    for row in found.all():
        newest[row[0]] = int(row[6])
        recorded += int(row[1])
        analysed, gated, dropped = (
            analysed + int(row[2]),
            gated + int(row[3]),
            dropped + int(row[4]),
        )
        pending += int(row[5])
    tail = await _tail(connection, camera_ids, (start_us, end_us), now_us, newest)
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
) -> int:
    """Camera time after each camera's newest row whose own row is still to come."""
    start_us, end_us = span
    if end_us <= now_us - PENDING_US:
        return 0
    c = _gap.c
    query = (
        sa.select(c.camera_id, sa.func.max(c.end_us))
        .where(one_of(c.camera_id, ids_json(camera_ids)), c.end_us > start_us, c.start_us < end_us)
        .group_by(c.camera_id)
    )
    days = days_of(connection, start_us, now_us)
    if days:
        query = query.where(c.recording_date >= days["first_day"])  # however long a gap is
    gaps = {row[0]: int(row[1]) for row in (await connection.execute(query)).all()}
    earliest_us = max(start_us, now_us - PENDING_US)
    return sum(
        max(0, end_us - max(earliest_us, newest.get(name, 0), gaps.get(name, 0)))
        for name in camera_ids
    )
