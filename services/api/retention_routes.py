"""How the 30-day rule stands: the policy, what is due, the breaker, and what was purged."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from services.api import pagination, problems, queries, times
from services.api.access import Action
from services.api.deps import Granted, Requires
from services.api.models import Page, Reply, Text100
from services.api.segments import policy_of
from shared.db import holds as stored_holds
from shared.domain import HoldKind
from shared.retention import HoldState, hold_state

router = APIRouter(tags=["retention"], responses=problems.RESPONSES)


class PolicyOut(Reply):
    version: int
    retention_days: int
    basis: str
    timezone: str


class BreakerOut(Reply):
    opened_at: str
    cause: str


class RunOut(Reply):
    """The last run of a purge worker; `stopped` says what kept it from purging."""

    worker: str
    at: str
    purged: int
    stopped: str
    detail: str


class RetentionOut(Reply):
    """The state of retention now."""

    policy: PolicyOut
    segments: int
    size_bytes: int
    oldest_footage: str | None
    past_expiry_segments: int
    """Past expiry and not purged yet; held ones are among them."""
    past_expiry_24h_segments: int
    purging_segments: int
    holds_in_force: int
    breaker: BreakerOut | None
    runs: list[RunOut]
    purged_segments: int
    purged_bytes: int
    last_purge: str | None


@router.get("/v1/retention", summary="Retention status")
async def get_retention(
    granted: Annotated[Granted, Depends(Requires(Action.RETENTION_READ))],
) -> RetentionOut:
    """Policy, what is due, holds in force, the breaker, and what was purged."""
    context = granted.context
    zone, now_us = context.zone, context.now_us()
    async with context.platform.database.read() as connection:
        policy = await policy_of(context, connection)
        counts = await queries.retention_counts(connection, now_us)
        breaker = await queries.open_breaker(connection)
        runs = await queries.retention_runs(connection)
        purged, purged_bytes, last_us = await queries.purge_totals(connection)
        held = [
            hold
            for hold in await stored_holds.load(connection)
            if hold.kind is HoldKind.OFFICER and hold_state(hold, now_us) is HoldState.IN_FORCE
        ]
    return RetentionOut(
        policy=PolicyOut(
            version=policy.version,
            retention_days=policy.retention_days,
            basis=policy.basis,
            timezone=policy.timezone,
        ),
        segments=counts.segments,
        size_bytes=counts.size_bytes,
        oldest_footage=times.maybe_text(counts.oldest_end_us, zone),
        past_expiry_segments=counts.due,
        past_expiry_24h_segments=counts.overdue,
        purging_segments=counts.purging,
        holds_in_force=len(held),
        breaker=BreakerOut(
            opened_at=times.text(breaker["opened_at_us"], zone), cause=breaker["cause"]
        )
        if breaker
        else None,
        runs=[
            RunOut(
                worker=row["worker"],
                at=times.text(row["at_us"], zone),
                purged=row["purged"],
                stopped=row["stopped"],
                detail=row["detail"],
            )
            for row in runs
        ],
        purged_segments=purged,
        purged_bytes=purged_bytes,
        last_purge=times.maybe_text(last_us, zone),
    )


class AuditOut(Reply):
    """One record of the audit log."""

    id: int
    at: str
    actor_id: str
    actor_name: str
    action: str
    resource: str
    camera_ids: list[str]
    start: str | None
    end: str | None
    purpose: str
    case_ref: str
    reason: str
    result: str
    request_id: str
    detail: dict[str, object] | None


@router.get("/v1/audit", summary="Read the audit log", tags=["audit"])
async def list_audit(
    granted: Annotated[Granted, Depends(Requires(Action.AUDIT_READ))],
    actor_id: Annotated[Text100 | None, Query()] = None,
    action: Annotated[Text100 | None, Query(examples=["playback.open"])] = None,
    case_ref: Annotated[Text100 | None, Query()] = None,
    start: Annotated[str | None, Query(max_length=40, alias="from")] = None,
    end: Annotated[str | None, Query(max_length=40, alias="until")] = None,
    limit: pagination.Limit = pagination.LIMIT_DEFAULT,
    cursor: pagination.Cursor = None,
) -> Page[AuditOut]:
    """Newest first. Reading it is recorded too."""
    context = granted.context
    zone = context.zone
    key = pagination.decode("audit", cursor, int)
    wanted = queries.AuditFilter(
        actor_id,
        action,
        case_ref,
        None if start is None else times.instant(start, zone),
        None if end is None else times.instant(end, zone),
    )
    await granted.record(start_us=wanted.from_us, end_us=wanted.until_us)
    async with context.platform.database.read() as connection:
        rows = await queries.audit_records(
            connection, wanted, int(key[0]) if key else None, limit + 1
        )
    items = [
        AuditOut(
            **{name: row[name] for name in _AUDIT_FIELDS},
            at=times.text(row["at_us"], zone),
            start=times.maybe_text(row["start_us"], zone),
            end=times.maybe_text(row["end_us"], zone),
        )
        for row in rows[:limit]
    ]
    more = pagination.encode("audit", rows[limit - 1]["id"]) if len(rows) > limit else None
    return Page(items=items, next=more)


_AUDIT_FIELDS = (
    "id",
    "actor_id",
    "actor_name",
    "action",
    "resource",
    "camera_ids",
    "purpose",
    "case_ref",
    "reason",
    "result",
    "request_id",
    "detail",
)
