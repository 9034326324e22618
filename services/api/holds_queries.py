"""All SQL of holds (services/api/holds.py)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from shared import civil
from shared.clock import DAY_US, HOUR_US
from shared.db import tables
from shared.db.holds import with_cameras
from shared.db.rows import gap_of, hold_row
from shared.domain import Gap, Hold, HoldKind
from shared.intervals import Interval
from shared.retention import MIN_UNCERTAINTY_US, HoldState, Policy
from shared.tombstones import unpack_segments

_hold, _segment, _gap = tables.hold, tables.segment, tables.gap
WIDEST_US = DAY_US
"""A camera's clock is doubted by at most so much when a request looks for what it covers."""
LONGEST_SEGMENT_US = HOUR_US

_COLUMNS = (
    _segment.c.id,
    _segment.c.camera_id,
    _segment.c.start_us,
    _segment.c.end_us,
    _segment.c.expires_at_us,
    _segment.c.clock_uncertainty_us,
    _segment.c.state,
    _segment.c.key,
    _segment.c.size_bytes,
)


async def known_cameras(connection: AsyncConnection, ids: Collection[str]) -> set[str]:
    """Those of `ids` that are or were a camera here: a deleted one stays holdable."""
    named = sa.select(tables.camera.c.id).where(tables.camera.c.id.in_(ids))
    filed = sa.select(_segment.c.camera_id).where(_segment.c.camera_id.in_(ids)).distinct()
    return set((await connection.execute(sa.union(named, filed))).scalars())


async def known_users(connection: AsyncConnection, ids: Collection[str]) -> set[str]:
    """Those of `ids` that are people here."""
    query = sa.select(tables.user.c.id).where(tables.user.c.id.in_(ids))
    return set((await connection.execute(query)).scalars())


async def segments(
    connection: AsyncConnection, cameras: Collection[str], start_us: int, end_us: int
) -> Sequence[RowMapping]:
    """Rows of segments that touch the range, each widened by its own clock uncertainty."""
    slack = sa.case(
        (_segment.c.clock_uncertainty_us > MIN_UNCERTAINTY_US, _segment.c.clock_uncertainty_us),
        else_=MIN_UNCERTAINTY_US,
    )
    query = (
        sa.select(*_COLUMNS)
        .where(
            _segment.c.camera_id.in_(sorted(cameras)),
            _segment.c.end_us > start_us - WIDEST_US,
            _segment.c.end_us < end_us + WIDEST_US + LONGEST_SEGMENT_US,
            _segment.c.end_us > start_us - slack,
            _segment.c.start_us < end_us + slack,
        )
        .order_by(_segment.c.camera_id, _segment.c.end_us)
    )
    return (await connection.execute(query)).mappings().all()


async def gaps(
    connection: AsyncConnection, cameras: Collection[str], start_us: int, end_us: int
) -> list[Gap]:
    """Gap rows that touch the range."""
    query = (
        sa.select(_gap)
        .where(
            _gap.c.camera_id.in_(sorted(cameras)),
            _gap.c.end_us > start_us,
            _gap.c.start_us < end_us,
        )
        .order_by(_gap.c.camera_id, _gap.c.start_us)
    )
    return [gap_of(row) for row in (await connection.execute(query)).mappings()]


async def purged(
    connection: AsyncConnection,
    cameras: Collection[str],
    start_us: int,
    end_us: int,
    policy: Policy,
) -> dict[str, list[Interval]]:
    """What tombstones say was recorded in the range and is gone, per camera."""
    table = tables.tombstone
    first = civil.local_date(start_us, policy.zone) - timedelta(days=1)
    last = civil.local_date(end_us, policy.zone) + timedelta(days=1)
    query = sa.select(table.c.camera_id, table.c.segments).where(
        table.c.camera_id.in_(sorted(cameras)), table.c.recording_date.between(first, last)
    )
    found: dict[str, list[Interval]] = {}
    for camera_id, packed in await connection.execute(query):
        found.setdefault(camera_id, []).extend(
            (segment.start_us, segment.end_us)
            for segment in unpack_segments(packed)
            if segment.start_us < end_us and segment.end_us > start_us
        )
    return found


async def insert(connection: AsyncConnection, hold: Hold) -> None:
    """A new hold and its cameras."""
    await connection.execute(sa.insert(_hold).values(hold_row(hold)))
    await connection.execute(
        sa.insert(tables.hold_camera),
        [{"hold_id": hold.id, "camera_id": camera_id} for camera_id in hold.camera_ids],
    )


async def save(connection: AsyncConnection, hold: Hold) -> None:
    """A hold as it is now; its cameras never change."""
    await connection.execute(sa.update(_hold).where(_hold.c.id == hold.id).values(hold_row(hold)))


async def forget_system(connection: AsyncConnection, hold_id: str, now_us: int) -> None:
    """Remove a system hold, and those whose program died: nothing ever depends on one that is
    over."""
    ids = sa.select(_hold.c.id).where(
        _hold.c.kind == HoldKind.SYSTEM.value,
        sa.or_(_hold.c.id == hold_id, _hold.c.lapses_at_us < now_us),
    )
    gone = list((await connection.execute(ids.limit(500))).scalars())
    cameras = tables.hold_camera
    await connection.execute(sa.delete(cameras).where(cameras.c.hold_id.in_(gone)))
    await connection.execute(sa.delete(_hold).where(_hold.c.id.in_(gone)))


async def page(
    connection: AsyncConnection,
    *,
    now_us: int,
    state: HoldState | None,
    camera_id: str | None,
    after: tuple[int, str] | None,
    limit: int,
) -> list[Hold]:
    """Officers' holds, newest first, after the place (placed_at_us, id)."""
    query = sa.select(_hold).where(_hold.c.kind == HoldKind.OFFICER.value)
    if state is not None:
        query = query.where(_in_state(state, now_us))
    if camera_id is not None:
        named = sa.select(tables.hold_camera.c.hold_id).where(
            tables.hold_camera.c.camera_id == camera_id
        )
        query = query.where(_hold.c.id.in_(named))
    if after is not None:
        placed_at_us, hold_id = after
        query = query.where(
            sa.or_(
                _hold.c.placed_at_us < placed_at_us,
                sa.and_(_hold.c.placed_at_us == placed_at_us, _hold.c.id < hold_id),
            )
        )
    query = query.order_by(_hold.c.placed_at_us.desc(), _hold.c.id.desc()).limit(limit)
    return await with_cameras(connection, (await connection.execute(query)).mappings().all())


def _in_state(state: HoldState, now_us: int) -> sa.ColumnElement[bool]:
    """`retention.hold_state` as a filter; a test compares the two."""
    never = sa.literal(2**62, sa.BigInteger)
    released = sa.func.coalesce(_hold.c.released_at_us, never)
    ended = sa.func.coalesce(_hold.c.ends_at_us, never)
    lapsed = sa.func.coalesce(_hold.c.lapses_at_us, never)
    if state is HoldState.IN_FORCE:
        return sa.and_(released > now_us, ended > now_us, lapsed > now_us)
    if state is HoldState.RELEASED:
        return sa.and_(released <= now_us, released <= ended, released <= lapsed)
    if state is HoldState.ENDED:
        return sa.and_(ended <= now_us, ended < released, ended <= lapsed)
    return sa.and_(lapsed <= now_us, lapsed < released, lapsed < ended)
