"""The ledger's route: a camera's day with each second counted once (shared/ledger.py).

It says when something was recorded and why not, never what, so it needs no purpose.
"""

from __future__ import annotations

from datetime import date as Date
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api import problems, queries, queries_waiting, times
from services.api.access import Action
from services.api.context import ApiContext
from services.api.deps import Granted, Requires
from services.api.models import CameraId, Reply
from services.api.segments import policy_of
from shared import civil, ledger, retention
from shared.clock import SECOND_US
from shared.db import holds as stored_holds
from shared.domain import Camera
from shared.intervals import Interval
from shared.ledger import Facts, Ledger
from shared.retention import Protection

MAX_ENTRIES = 5_000
router = APIRouter(tags=["ledger"], responses=problems.RESPONSES)


class LedgerEntry(Reply):
    """A stretch of one kind. `reason`: of a gap, or the recorder whose spool a pending stretch is
    in."""

    start: str
    end: str
    kind: str
    reason: str = ""


class LedgerOut(Reply):
    """A camera's day. The seconds of all kinds add up to `day_s`, to the microsecond."""

    camera_id: str
    date: str
    start: str
    end: str
    day_s: float
    recorded_s: float
    held_s: float
    expired_s: float
    gap_s: float
    gaps_by_reason_s: dict[str, float]
    future_s: float
    inactive_s: float
    pending_s: float
    pending_on_s: dict[str, float]
    """By recorder: its spool has them, and nobody filed them yet."""
    unaccounted_s: float
    entries: list[LedgerEntry]
    truncated: bool


def pending_us(context: ApiContext) -> int:
    """How long a recorded second may be on its way: its segment is open, then waits its turn."""
    return round((2 * context.settings.ingest.segment_s + 30) * SECOND_US)


async def facts_of_day(
    context: ApiContext, connection: AsyncConnection, camera: Camera, start_us: int, end_us: int
) -> Facts:
    """What the database says of a camera in [start, end)."""
    now_us = await context.expiry_now_us(connection)
    policy = await policy_of(context, connection)
    spans = await queries.ledger_spans(connection, camera.id, start_us, end_us)
    slack_us = max((span.uncertainty_us for span in spans), default=0) + SECOND_US * 2
    holds = await stored_holds.load(
        connection,
        cameras=[camera.id],
        start_us=start_us - queries.LONGEST_SEGMENT_US - slack_us,
        end_us=end_us + queries.LONGEST_SEGMENT_US + slack_us,
    )
    recorded: list[Interval] = []
    held: list[Interval] = []
    expired: list[Interval] = []
    for span in spans:
        begin, end = span.recorded
        expiry_us = retention.effective_expiry_us(span.expires_at_us, end, policy)
        facts = retention.Facts(camera.id, begin, end, expiry_us, span.uncertainty_us)
        if span.purging:
            expired.append(span.span)
        elif now_us < expiry_us:
            recorded.append(span.span)
        elif retention.protection(facts, holds, now_us)[0] is Protection.HELD:
            held.append(span.span)
        else:
            expired.append(span.span)
    first = civil.local_date(start_us, policy.zone) - timedelta(days=1)
    last = civil.local_date(end_us, policy.zone) + timedelta(days=1)
    expired += await queries.ledger_purged(connection, camera.id, first, last)
    gaps = await queries.ledger_gaps(connection, camera.id, start_us, end_us)
    waiting = [
        (span, recorder)
        for span, recorder in await queries_waiting.waiting(connection, camera.id, start_us, end_us)
        if now_us < retention.expires_at_us(span[1], policy)
    ]
    # Footage may be older than its camera's row (a restored or replayed one): what is there counts.
    return Facts(recorded, held, expired, gaps, camera.created_at_us, camera.deleted_at_us, waiting)


async def day_ledger(
    context: ApiContext, connection: AsyncConnection, camera: Camera, day: Date
) -> Ledger:
    """The ledger of a camera's local day."""
    start_us, end_us = civil.day_bounds_us(day, context.zone)
    facts = await facts_of_day(context, connection, camera, start_us, end_us)
    return ledger.account(
        start_us, end_us, facts, now_us=context.now_us(), pending_us=pending_us(context)
    )


@router.get("/v1/cameras/{camera_id}/ledger", summary="A camera's day")
async def get_ledger(
    camera_id: CameraId,
    granted: Annotated[Granted, Depends(Requires(Action.LEDGER_READ))],
    date: Annotated[
        str | None,
        Query(max_length=10, examples=["2026-11-25"], description="Local date; today without it."),
    ] = None,
) -> LedgerOut:
    """Recorded and unexpired, held past expiry, expired, gaps by reason, still to come, before or
    after the camera's life, pending, and unaccounted."""
    context = granted.context
    camera = await granted.camera(camera_id)
    day = times.day(date) if date else civil.local_date(context.now_us(), context.zone)
    async with context.platform.database.read() as connection:
        found = await day_ledger(context, connection, camera, day)
    zone, kinds = context.zone, ledger.Kind
    return LedgerOut(
        camera_id=camera_id,
        date=day.isoformat(),
        start=times.text(found.start_us, zone),
        end=times.text(found.end_us, zone),
        day_s=(found.end_us - found.start_us) / SECOND_US,
        recorded_s=found.total_us(kinds.RECORDED) / SECOND_US,
        held_s=found.total_us(kinds.HELD) / SECOND_US,
        expired_s=found.total_us(kinds.EXPIRED) / SECOND_US,
        gap_s=found.total_us(kinds.GAP) / SECOND_US,
        gaps_by_reason_s={k: v / SECOND_US for k, v in sorted(found.gaps_us().items())},
        future_s=found.total_us(kinds.FUTURE) / SECOND_US,
        inactive_s=found.total_us(kinds.INACTIVE) / SECOND_US,
        pending_s=found.total_us(kinds.PENDING) / SECOND_US,
        pending_on_s={k: v / SECOND_US for k, v in sorted(found.pending_us().items()) if k},
        unaccounted_s=found.total_us(kinds.UNACCOUNTED) / SECOND_US,
        entries=[
            LedgerEntry(
                start=times.text(entry.start_us, zone),
                end=times.text(entry.end_us, zone),
                kind=entry.kind.value,
                reason=entry.reason,
            )
            for entry in found.entries[:MAX_ENTRIES]
        ],
        truncated=len(found.entries) > MAX_ENTRIES,
    )
