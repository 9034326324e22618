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

# Written once, for the same few questions come with every request of a player.
_segment, _gap, _session = tables.segment, tables.gap, tables.media_session
_user, _camera = tables.user, tables.camera
_SEGMENTS = (
    sa.select(_segment)
    .where(
        _segment.c.camera_id == sa.bindparam("camera"),
        _segment.c.end_us > sa.bindparam("start"),
        # Bounds the index range: no segment is an hour long.
        _segment.c.end_us < sa.bindparam("latest"),
        _segment.c.start_us < sa.bindparam("end"),
    )
    .order_by(_segment.c.end_us)
    .limit(MAX_SEGMENTS + 1)
)
_SEGMENT = sa.select(_segment).where(_segment.c.id == sa.bindparam("id"))
_FRAGMENTS = sa.select(tables.segment_fragments).where(
    tables.segment_fragments.c.segment_id.in_(sa.bindparam("ids", expanding=True))
)
_GAPS = (
    sa.select(_gap)
    .where(
        _gap.c.camera_id == sa.bindparam("camera"),
        _gap.c.end_us > sa.bindparam("start"),
        _gap.c.start_us < sa.bindparam("end"),
    )
    .order_by(_gap.c.end_us)
    .limit(MAX_GAPS)
)
_SESSION = (
    sa.select(
        _session,
        _user.c.name.label("user_name"),
        _user.c.disabled.label("user_disabled"),
        _user.c.roles.label("user_roles"),
        _user.c.districts.label("user_districts"),
        _user.c.camera_ids.label("user_camera_ids"),
        _camera.c.config.label("camera_config"),
    )
    .join(_user, _user.c.id == _session.c.user_id, isouter=True)
    .join(_camera, _camera.c.id == _session.c.camera_id, isouter=True)
    .where(_session.c.id == sa.bindparam("id"))
)


class SegmentRow(NamedTuple):
    """A segment row with what the retention rule needs of it."""

    recorded: Recorded
    facts: Facts
    purging: bool


async def segments(
    connection: AsyncConnection, camera_id: str, start_us: int, end_us: int
) -> list[SegmentRow]:
    """Rows that overlap [start, end), with their fragments, in order of end."""
    latest = end_us + _LONGEST_SEGMENT_US
    span = {"camera": camera_id, "start": start_us, "end": end_us, "latest": latest}
    found = (await connection.execute(_SEGMENTS, span)).mappings().all()
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
    row = (await connection.execute(_SEGMENT, {"id": segment_id})).mappings().one_or_none()
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
    for first in range(0, len(ids), _CHUNK):
        some = {"ids": list(ids[first : first + _CHUNK])}
        for row in (await connection.execute(_FRAGMENTS, some)).mappings():
            found[row["segment_id"]] = rows.unpack_fragments(row["data"])
    return found


async def gaps(
    connection: AsyncConnection, camera_id: str, start_us: int, end_us: int
) -> list[Gap]:
    """Gap rows that overlap [start, end)."""
    span = {"camera": camera_id, "start": start_us, "end": end_us}
    return [rows.gap_of(row) for row in (await connection.execute(_GAPS, span)).mappings()]


async def holds(
    connection: AsyncConnection, camera_id: str, start_us: int, end_us: int
) -> list[Hold]:
    """Holds near [start, end), over or in force: whether a later one binds depends on them."""
    return await stored_holds.load(
        connection, cameras=[camera_id], start_us=start_us - DAY_US, end_us=end_us + DAY_US
    )


async def add_session(connection: AsyncConnection, values: dict[str, Any]) -> None:
    """Write an opened session."""
    await connection.execute(sa.insert(tables.media_session).values(**values))


async def session(connection: AsyncConnection, session_id: str) -> RowMapping | None:
    """A session with its person's account and its camera as they are now."""
    return (await connection.execute(_SESSION, {"id": session_id})).mappings().one_or_none()


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
