"""How retention stands: what is due, overdue, held, purged, and why it is stopped. Read only.

Asked by the api, the live table, `check` and retention's own gauges, so it stands in `shared`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from shared import retention
from shared.clock import DAY_US
from shared.db import holds as stored
from shared.db import tables
from shared.db.rows import facts_of
from shared.domain import Hold, HoldKind
from shared.platform import Platform
from shared.retention import HoldState, Protection

RESTORED = "restored"
"""Kind of a breaker that is open because the database has forgotten purges: until the tombstones
are replayed it may name what has to be gone, and let in whom it should not."""
OVERDUE_US = DAY_US
SOON_US = DAY_US
PAGE = 5_000
_segment = tables.segment


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One moment's figures; times UTC microseconds, None where there is none."""

    at_us: int
    policy_version: int | None
    retention_days: int | None
    basis: str | None
    timezone: str | None
    oldest_us: int | None
    """End of the oldest segment that is there."""
    due_segments: int
    """Past expiry, kept by nothing, not gone."""
    overdue_segments: int
    """Due for over 24 h."""
    held_segments: int
    """Past expiry and kept by a hold or its grace."""
    held_bytes: int
    holds_active: int
    holds_ending_soon: tuple[str, ...]
    """Holds that lapse or end within a day: renew them, or let them go knowingly."""
    purged_segments: int
    purged_bytes: int
    last_run_us: int | None
    stopped: str
    """Empty, `doubt`, `breaker` or `error`, by the newest run."""
    stopped_detail: str


async def read(platform: Platform) -> Standing:
    """The figures now. Costs a pass over what is past expiry, which is what holds keep."""
    now_us = platform.clock.now_us()
    async with platform.database.read() as connection:
        policy = tables.policy
        newest = (
            (await connection.execute(sa.select(policy).order_by(policy.c.version.desc()).limit(1)))
            .mappings()
            .one_or_none()
        )
        tally = await _tally(connection, now_us)
        officers = [
            hold for hold in await _in_force(connection, now_us) if hold.kind is HoldKind.OFFICER
        ]
        stone = tables.tombstone
        totals = (
            await connection.execute(
                sa.select(
                    sa.func.coalesce(sa.func.sum(stone.c.segment_count), 0),
                    sa.func.coalesce(sa.func.sum(stone.c.size_bytes), 0),
                )
            )
        ).one()
        stopped = await _stopped(connection)
        oldest = (
            await connection.execute(
                sa.select(_segment.c.end_us).order_by(_segment.c.recording_date).limit(1)
            )
        ).scalar()
    return Standing(
        at_us=now_us,
        policy_version=newest["version"] if newest else None,
        retention_days=newest["retention_days"] if newest else None,
        basis=newest["basis"] if newest else None,
        timezone=newest["timezone"] if newest else None,
        oldest_us=oldest,
        due_segments=tally[0],
        overdue_segments=tally[1],
        held_segments=tally[2],
        held_bytes=tally[3],
        holds_active=len(officers),
        holds_ending_soon=tuple(hold.id for hold in officers if ends_soon(hold, now_us)),
        purged_segments=int(totals[0]),
        purged_bytes=int(totals[1]),
        last_run_us=stopped[0],
        stopped=stopped[1],
        stopped_detail=stopped[2],
    )


async def forgotten(connection: AsyncConnection) -> bool:
    """Whether the database is known to have forgotten purges, and was not told of them yet."""
    breaker = tables.breaker
    query = sa.select(breaker.c.id).where(
        breaker.c.cleared_at_us.is_(None), breaker.c.kind == RESTORED
    )
    return (await connection.execute(query.limit(1))).scalar() is not None


def ends_soon(hold: Hold, now_us: int) -> bool:
    """Whether a hold in force ends within a day by itself."""
    end = retention.hold_end_us(hold)
    return end is not None and end <= now_us + SOON_US


async def _tally(connection: AsyncConnection, now_us: int) -> tuple[int, int, int, int]:
    """Due, overdue, held and held bytes, over everything past its expiry."""
    due = overdue = held = held_bytes = 0
    after: tuple[int, str, str] | None = None
    holds: dict[str, list[Hold]] = {}
    while rows := await _expired_page(connection, now_us, after):
        if after is None:
            for hold in await stored.load(connection):
                for camera_id in hold.camera_ids:
                    holds.setdefault(camera_id, []).append(hold)
        for row in rows:
            facts = facts_of(row)
            relevant = holds.get(facts.camera_id, ())
            kept = retention.protection(facts, relevant, now_us)[0] if relevant else Protection.NONE
            if kept is not Protection.NONE and row["state"] == "live":
                held += 1
                held_bytes += row["size_bytes"]
                continue
            due += 1
            overdue += retention.due_since_us(facts, relevant) <= now_us - OVERDUE_US
        last = rows[-1]
        after = (last["expires_at_us"], last["camera_id"], last["id"])
    return due, overdue, held, held_bytes


async def _expired_page(
    connection: AsyncConnection, now_us: int, after: tuple[int, str, str] | None
) -> Sequence[RowMapping]:
    order = (_segment.c.expires_at_us, _segment.c.camera_id, _segment.c.id)
    query = (
        sa.select(
            *order,
            _segment.c.start_us,
            _segment.c.end_us,
            _segment.c.clock_uncertainty_us,
            _segment.c.size_bytes,
            _segment.c.state,
        )
        .where(_segment.c.expires_at_us <= now_us)
        .order_by(*order)
        .limit(PAGE)
    )
    if after is not None:
        query = query.where(
            _segment.c.expires_at_us >= after[0],
            sa.tuple_(*order) > sa.tuple_(*(sa.literal(part) for part in after)),
        )
    return (await connection.execute(query)).mappings().all()


async def _in_force(connection: AsyncConnection, now_us: int) -> list[Hold]:
    table = tables.hold
    query = sa.select(table).where(
        table.c.released_at_us.is_(None),
        sa.or_(table.c.lapses_at_us.is_(None), table.c.lapses_at_us > now_us),
        sa.or_(table.c.ends_at_us.is_(None), table.c.ends_at_us > now_us),
    )
    rows = (await connection.execute(query)).mappings().all()
    found = await stored.with_cameras(connection, rows)
    return [hold for hold in found if retention.hold_state(hold, now_us) is HoldState.IN_FORCE]


async def _stopped(connection: AsyncConnection) -> tuple[int | None, str, str]:
    """When the newest run was, and what stopped it; an open breaker counts before all."""
    run, breaker = tables.retention_run, tables.breaker
    last = (
        (await connection.execute(sa.select(run).order_by(run.c.at_us.desc()).limit(1)))
        .mappings()
        .one_or_none()
    )
    cause = (
        await connection.execute(
            sa.select(breaker.c.cause).where(breaker.c.cleared_at_us.is_(None)).limit(1)
        )
    ).scalar()
    at_us = last["at_us"] if last else None
    if cause is not None:
        return at_us, "breaker", str(cause)
    return (at_us, last["stopped"], last["detail"]) if last else (None, "", "")
