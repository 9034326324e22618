"""Every SQL statement of the media routes: what is recorded, who may see it, who opened what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.timeline import Recorded
from shared.clock import DAY_US, HOUR_US
from shared.db import holds as stored_holds
from shared.db import rows, tables
from shared.domain import Fragment, Gap, Hold
from shared.errors import Kind, LamppostError
from shared.intervals import Interval
from shared.retention import Facts

MAX_SEGMENTS = 5_000
MAX_GAPS = 5_000
_LONGEST_SEGMENT_US = HOUR_US
_CHUNK = 500


class SegmentRow(NamedTuple):
    """A segment row with what the retention rule needs of it."""

    recorded: Recorded
    facts: Facts
    purging: bool


async def segments(
    connection: AsyncConnection, camera_id: str, start_us: int, end_us: int
) -> list[SegmentRow]:
    """Rows that overlap [start, end), with their fragments, in order of end."""
    t = tables.segment
    query = (
        sa.select(t)
        .where(
            t.c.camera_id == camera_id,
            t.c.end_us > start_us,
            # Bounds the index range: no segment is an hour long.
            t.c.end_us < end_us + _LONGEST_SEGMENT_US,
            t.c.start_us < end_us,
        )
        .order_by(t.c.end_us)
        .limit(MAX_SEGMENTS + 1)
    )
    found = (await connection.execute(query)).mappings().all()
    if len(found) > MAX_SEGMENTS:
        raise LamppostError(
            Kind.TOO_LARGE,
            f"The range holds more than {MAX_SEGMENTS} segments.",
            fix="Ask for a shorter range.",
        )
    tables_of = await _fragments(connection, [row["id"] for row in found])
    return [_segment_row(row, tables_of.get(row["id"], ())) for row in found]


async def segment(connection: AsyncConnection, segment_id: str) -> SegmentRow | None:
    """One row with its fragments."""
    query = sa.select(tables.segment).where(tables.segment.c.id == segment_id)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        return None
    found = await _fragments(connection, [segment_id])
    return _segment_row(row, found.get(segment_id, ()))


def _segment_row(row: RowMapping, fragments: tuple[Fragment, ...]) -> SegmentRow:
    recorded = Recorded(
        rows.segment_of(row, fragments),
        (row["effective_start_us"], row["effective_end_us"]),
        key=row["key"],
    )
    return SegmentRow(recorded, rows.facts_of(row), row["state"] != "live")


async def first_expiry_us(connection: AsyncConnection, ids: Sequence[str]) -> int | None:
    """The earliest stored expiry of these segments; None when none has a row."""
    t = tables.segment.c
    found: list[int] = []
    for first in range(0, len(ids), _CHUNK):
        query = sa.select(sa.func.min(t.expires_at_us)).where(t.id.in_(ids[first : first + _CHUNK]))
        value = (await connection.execute(query)).scalar()
        if value is not None:
            found.append(int(value))
    return min(found, default=None)


async def _fragments(
    connection: AsyncConnection, ids: Sequence[str]
) -> dict[str, tuple[Fragment, ...]]:
    found: dict[str, tuple[Fragment, ...]] = {}
    t = tables.segment_fragments
    for first in range(0, len(ids), _CHUNK):
        query = sa.select(t).where(t.c.segment_id.in_(ids[first : first + _CHUNK]))
        for row in (await connection.execute(query)).mappings():
            found[row["segment_id"]] = rows.unpack_fragments(row["data"])
    return found


async def gaps(
    connection: AsyncConnection, camera_id: str, start_us: int, end_us: int
) -> list[Gap]:
    """Gap rows that overlap [start, end)."""
    t = tables.gap
    query = (
        sa.select(t)
        .where(t.c.camera_id == camera_id, t.c.end_us > start_us, t.c.start_us < end_us)
        .order_by(t.c.end_us)
        .limit(MAX_GAPS)
    )
    return [rows.gap_of(row) for row in (await connection.execute(query)).mappings()]


async def holds(
    connection: AsyncConnection, camera_id: str, start_us: int, end_us: int
) -> list[Hold]:
    """Holds near [start, end), over or in force: whether a later one binds depends on them."""
    return await stored_holds.load(
        connection, cameras=[camera_id], start_us=start_us - DAY_US, end_us=end_us + DAY_US
    )


async def newest_commit_us(connection: AsyncConnection) -> int | None:
    """When the newest segment was committed; None before the first."""
    t = tables.segment.c.committed_at_us
    found = (await connection.execute(sa.select(sa.func.max(t)))).scalar()
    return None if found is None else int(found)


async def add_session(connection: AsyncConnection, values: dict[str, Any]) -> None:
    """Write an opened session."""
    await connection.execute(sa.insert(tables.media_session).values(**values))


async def session(connection: AsyncConnection, session_id: str) -> RowMapping | None:
    """A session with its person's account and its camera as they are now."""
    user, cam = tables.user, tables.camera
    query = (
        sa.select(
            tables.media_session,
            user.c.name.label("user_name"),
            user.c.disabled.label("user_disabled"),
            user.c.roles.label("user_roles"),
            user.c.districts.label("user_districts"),
            user.c.camera_ids.label("user_camera_ids"),
            cam.c.config.label("camera_config"),
        )
        .join(user, user.c.id == tables.media_session.c.user_id, isouter=True)
        .join(cam, cam.c.id == tables.media_session.c.camera_id, isouter=True)
        .where(tables.media_session.c.id == session_id)
    )
    return (await connection.execute(query)).mappings().one_or_none()


async def expired_sessions(connection: AsyncConnection, now_us: int, limit: int) -> list[str]:
    """Ids of sessions past their expiry that are not closed yet, oldest first."""
    t = tables.media_session
    query = (
        sa.select(t.c.id)
        .where(t.c.closed_at_us.is_(None), t.c.expires_at_us <= now_us)
        .order_by(t.c.expires_at_us)
        .limit(limit)
    )
    return list((await connection.execute(query)).scalars())


async def add_delivered(
    connection: AsyncConnection, session_id: str, span: Interval | None, size: int
) -> None:
    """Count what was sent; also right when several processes serve one session."""
    t = tables.media_session.c
    values: dict[str, Any] = {"delivered_bytes": t.delivered_bytes + size}
    if span is not None:
        start, end = t.delivered_start_us, t.delivered_end_us
        values["delivered_start_us"] = sa.case(
            (sa.or_(start.is_(None), start > span[0]), span[0]), else_=start
        )
        values["delivered_end_us"] = sa.case(
            (sa.or_(end.is_(None), end < span[1]), span[1]), else_=end
        )
    await connection.execute(
        sa.update(tables.media_session).where(t.id == session_id).values(**values)
    )


async def close_session(connection: AsyncConnection, session_id: str, now_us: int) -> bool:
    """Mark it closed; false when it already was (the close is recorded once)."""
    t = tables.media_session
    result = await connection.execute(
        sa.update(t)
        .where(t.c.id == session_id, t.c.closed_at_us.is_(None))
        .values(closed_at_us=now_us)
    )
    return result.rowcount == 1
