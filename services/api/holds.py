"""Holds: placed, renewed, released, listed, reported (docs/retention.md, "Holds").

Functions on a `Platform`, without HTTP: the routes call them, and so do `simulate` and the tests. A
hold is a predicate and is in force at the commit of its row. Placement takes the locks of its
cameras, as a purge's claim does, so each segment is either kept or already claimed, never both.
Two-person approval is not built: holds are provisional, and what needs a second person is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api import hold_report, holds_queries
from services.api.hold_report import HoldReport, Rows
from shared import audit, civil, ids, log, retention
from shared.audit import Actor
from shared.blobs import HELD
from shared.clock import DAY_US, HOUR_US
from shared.db import holds as stored
from shared.db import policies
from shared.domain import Hold, HoldKind, HoldReason, Purpose
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.retention import HoldState, Policy
from shared.settings import Settings

MAX_CAMERAS = 4
MAX_SPAN_US = 2 * HOUR_US
MAX_OFFICERS = 20
REVIEW_DEFAULT_US = 30 * DAY_US
PAGE_MAX = 200
TAG_BATCH = 500
PURPOSES: dict[HoldReason, Purpose] = {
    HoldReason.CRIMINAL_INVESTIGATION: Purpose.CRIME_INVESTIGATION,
    HoldReason.COURT_ORDER: Purpose.COURT_ORDER,
    HoldReason.COMPLAINT: Purpose.COMPLAINT,
    HoldReason.DATA_ACCESS_REQUEST: Purpose.DATA_ACCESS_REQUEST,
    HoldReason.CORONER: Purpose.COURT_ORDER,
}
"""A hold's reason is its purpose. Keeping is not viewing: a camera's purposes do not limit it."""

_log = log.get("api.holds")


class HoldRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What an officer asks for; its exact form is hashed and stored with the hold."""

    camera_ids: tuple[str, ...]
    start_us: int
    end_us: int
    case_ref: str
    reason: HoldReason
    note: str = ""
    officers: tuple[str, ...] = ()
    """Others who may view after expiry, renew and release; the requester is always one."""
    review_at_us: int | None = None
    """At most 90 days ahead; 30 when not named."""
    ends_at_us: int | None = None


async def place(
    platform: Platform,
    settings: Settings,
    actor: Actor,
    request: HoldRequest,
    *,
    request_id: str = "",
) -> HoldReport:
    """Place a provisional hold: in force when its row commits, for 72 h.

    Raises INVALID, NOT_FOUND (camera), NOT_BUILT (over 4 cameras x 2 h) and GONE when everything
    asked for is past its expiry. When only a part is, the rest is kept and the report is `partial`.
    """
    check(request, platform.clock.now_us())
    async with platform.database.write(sorted(request.camera_ids)) as connection:
        now_us = platform.clock.now_us()
        policy = await _policy(connection, settings)
        await _check_names(connection, request, actor)
        hold = _hold_of(request, actor, now_us)
        rows = await _rows(connection, hold, policy)
        rows = rows._replace(holds=(*rows.holds, hold))
        if not hold_report.bound(hold, rows, policy) and hold.end_us <= retention.expired_before_us(
            now_us, policy
        ):
            raise LamppostError(
                Kind.GONE,
                "Everything asked for is past its expiry and is not kept.",
                fix="Only a court order with two people may hold it; that is not built.",
            )
        await holds_queries.insert(connection, hold)
        await audit.append(connection, _entry("hold.place", actor, hold, now_us, request_id))
    missing, pending = await _tag(platform, hold, rows, policy)
    return hold_report.compose(hold, rows, policy, now_us, missing, pending)


def check(request: HoldRequest, now_us: int) -> None:
    """Refuse a request whose form is wrong, before anything is looked up."""
    wrong = _problem(request, now_us)
    if wrong:
        raise LamppostError(Kind.INVALID, wrong)
    span_us = request.end_us - request.start_us
    if len(request.camera_ids) > MAX_CAMERAS or span_us > MAX_SPAN_US:
        raise LamppostError(
            Kind.NOT_BUILT,
            "A request over 4 cameras or 2 hours needs a higher approver, which is not built.",
            fix="Ask in several requests of at most 4 cameras and 2 hours each.",
        )


def _problem(request: HoldRequest, now_us: int) -> str:
    """The first thing that is wrong with the form, or nothing."""
    review_us = request.review_at_us
    officers = (*request.officers, "")
    rules = (
        (not request.camera_ids, "Name at least one camera."),
        (len(set(request.camera_ids)) < len(request.camera_ids), "A camera is named twice."),
        (request.start_us >= request.end_us, "The end must lie after the start."),
        (request.start_us < 0, "The start lies before 1970."),
        (
            request.end_us > now_us + retention.FUTURE_MAX_US,
            "A hold reaches at most 24 hours into the future.",
        ),
        (not 1 <= len(request.case_ref.strip()) <= 100, "Name the case, in up to 100 characters."),
        (request.reason is HoldReason.SENDING, "That reason is the program's own."),
        (len(request.note) > 1000, "The note may have up to 1000 characters."),
        (len(request.officers) > MAX_OFFICERS, "A hold has at most 20 officers."),
        (max(map(len, officers)) > 64, "An officer's id is too long."),
        (review_us is not None and review_us <= now_us, "The review date has passed."),
        (
            review_us is not None and review_us > now_us + retention.REVIEW_MAX_US,
            "The review date may lie at most 90 days ahead.",
        ),
        (
            request.ends_at_us is not None and request.ends_at_us <= now_us,
            "The hold would end before it begins.",
        ),
    )
    return next((text for is_wrong, text in rules if is_wrong), "")


async def renew(
    platform: Platform,
    actor: Actor,
    hold_id: str,
    *,
    review_at_us: int | None = None,
    request_id: str = "",
) -> Hold:
    """Another 72 h from now, by one of the hold's officers, while it is in force.

    Past its review date a new one must be named, at most 90 days ahead. CONFLICT once it is over:
    a lapse is not undone, because what it covered may be claimed already.
    """
    async with _changed(platform, actor, hold_id) as (connection, hold, now_us):
        review_us = review_at_us or hold.review_at_us
        if review_us is None or not now_us < review_us <= now_us + retention.REVIEW_MAX_US:
            raise LamppostError(
                Kind.INVALID,
                "The hold is due for review, or the review date is too far.",
                fix="Name a review date within the next 90 days.",
            )
        renewed = msgspec.structs.replace(
            hold,
            lapses_at_us=max(hold.lapses_at_us or 0, now_us + retention.PROVISIONAL_US),
            renewed_at_us=now_us,
            review_at_us=review_us,
        )
        await holds_queries.save(connection, renewed)
        await audit.append(connection, _entry("hold.renew", actor, renewed, now_us, request_id))
    return renewed


async def release(
    platform: Platform, actor: Actor, hold_id: str, note: str, *, request_id: str = ""
) -> Hold:
    """End the hold, by one of its officers. What is past its expiry waits 72 h, not viewable."""
    if not 1 <= len(note.strip()) <= 1000:
        raise LamppostError(Kind.INVALID, "Say why it is released, in up to 1000 characters.")
    async with _changed(platform, actor, hold_id) as (connection, hold, now_us):
        released = msgspec.structs.replace(
            hold, released_at_us=now_us, released_by=actor.id, release_note=note
        )
        await holds_queries.save(connection, released)
        await audit.append(
            connection, _entry("hold.release", actor, released, now_us, request_id, note)
        )
    return released


@asynccontextmanager
async def _changed(
    platform: Platform, actor: Actor, hold_id: str
) -> AsyncIterator[tuple[AsyncConnection, Hold, int]]:
    """The hold in force, in a transaction with its cameras' locks, for one of its officers."""
    cameras = (await get(platform, hold_id)).camera_ids
    async with platform.database.write(sorted(cameras)) as connection:
        hold = _found(await stored.get(connection, hold_id), hold_id)
        if actor.id not in (hold.requester_id, *hold.officers):
            raise LamppostError(
                Kind.FORBIDDEN,
                "Only one of the hold's own officers may do that.",
                fix="Ask the requester, or an officer whom the hold names.",
            )
        now_us = platform.clock.now_us()
        state = retention.hold_state(hold, now_us)
        if state is not HoldState.IN_FORCE:
            raise LamppostError(
                Kind.CONFLICT,
                f"The hold is {state.value}.",
                fix="Place a new hold; what is kept by grace can still be held.",
            )
        yield connection, hold, now_us


async def get(platform: Platform, hold_id: str) -> Hold:
    """The officers' hold of that id; NOT_FOUND."""
    async with platform.database.read() as connection:
        return _found(await stored.get(connection, hold_id), hold_id)


async def list_page(
    platform: Platform,
    *,
    state: HoldState | None = None,
    camera_id: str | None = None,
    after: tuple[int, str] | None = None,
    limit: int = 50,
) -> list[Hold]:
    """Officers' holds, newest first. The next page's `after` is (placed_at_us, id) of the last."""
    async with platform.database.read() as connection:
        return await holds_queries.page(
            connection,
            now_us=platform.clock.now_us(),
            state=state,
            camera_id=camera_id,
            after=after,
            limit=max(1, min(limit, PAGE_MAX)),
        )


async def report(platform: Platform, settings: Settings, hold_id: str) -> HoldReport:
    """What the hold keeps now. While it is in force, tags that are not set yet are set first."""
    hold = await get(platform, hold_id)
    async with platform.database.read() as connection:
        policy = await _policy(connection, settings)
        rows = await _rows(connection, hold, policy)
    now_us = platform.clock.now_us()
    missing: set[str] = set()
    pending: set[str] = set()
    if retention.hold_state(hold, now_us) is HoldState.IN_FORCE:
        missing, pending = await _tag(platform, hold, rows, policy)
    return hold_report.compose(hold, rows, policy, now_us, missing, pending)


@asynccontextmanager
async def sending(
    platform: Platform, actor: Actor, camera_ids: Sequence[str], start_us: int, end_us: int
) -> AsyncIterator[Hold]:
    """Keep what a clip is made of while it is sent, 2 h at most (edge case 18).

    The caller has checked access already. The purge waits; nobody may view by this hold, and it
    gives no grace.
    """
    async with platform.database.write(sorted(camera_ids)) as connection:
        now_us = platform.clock.now_us()
        hold = Hold(
            id=ids.new_id(),
            kind=HoldKind.SYSTEM,
            camera_ids=tuple(sorted(set(camera_ids))),
            start_us=start_us,
            end_us=end_us,
            case_ref="sending",
            reason=HoldReason.SENDING,
            requester_id=actor.id,
            placed_at_us=now_us,
            lapses_at_us=now_us + retention.SYSTEM_HOLD_MAX_US,
        )
        await holds_queries.insert(connection, hold)
    try:
        yield hold
    finally:
        try:
            async with platform.database.write(sorted(camera_ids)) as connection:
                await holds_queries.forget_system(connection, hold.id, platform.clock.now_us())
        except LamppostError as error:
            # It lapses by itself; the next clip removes the row.
            _log.warning("a clip's hold could not be removed", cause=str(error))


async def _policy(connection: AsyncConnection, settings: Settings) -> Policy:
    """The policy in force, or what the settings will make it before retention first starts."""
    found = await policies.newest(connection)
    return found or Policy(
        0, settings.retention.days, settings.retention.basis, settings.site.timezone
    )


async def _check_names(connection: AsyncConnection, request: HoldRequest, actor: Actor) -> None:
    unknown = set(request.camera_ids) - await holds_queries.known_cameras(
        connection, request.camera_ids
    )
    if unknown:
        raise LamppostError(Kind.NOT_FOUND, f"There is no camera {', '.join(sorted(unknown))}.")
    others = set(request.officers) - {actor.id}
    strangers = others - await holds_queries.known_users(connection, others) if others else others
    if strangers:
        raise LamppostError(
            Kind.INVALID,
            f"Nobody here has the id {', '.join(sorted(strangers))}.",
            fix="Name officers by their user id.",
        )


def _hold_of(request: HoldRequest, actor: Actor, now_us: int) -> Hold:
    return Hold(
        id=ids.new_id(),
        camera_ids=tuple(sorted(request.camera_ids)),
        start_us=request.start_us,
        end_us=request.end_us,
        case_ref=request.case_ref.strip(),
        reason=request.reason,
        note=request.note,
        requester_id=actor.id,
        officers=tuple(sorted({actor.id, *request.officers})),
        request_sha256=hashlib.sha256(msgspec.json.encode(request)).hexdigest(),
        placed_at_us=now_us,
        lapses_at_us=now_us + retention.PROVISIONAL_US,
        review_at_us=request.review_at_us or now_us + REVIEW_DEFAULT_US,
        ends_at_us=request.ends_at_us,
    )


async def _rows(connection: AsyncConnection, hold: Hold, policy: Policy) -> Rows:
    span = (hold.start_us, hold.end_us)
    segments = await holds_queries.segments(connection, hold.camera_ids, *span)
    first = min([hold.start_us, *(row["start_us"] for row in segments)])
    last = max([hold.end_us, *(row["end_us"] for row in segments)])
    slack = max([retention.MIN_UNCERTAINTY_US, *(row["clock_uncertainty_us"] for row in segments)])
    return Rows(
        segments,
        await holds_queries.gaps(connection, hold.camera_ids, *span),
        await holds_queries.purged(connection, hold.camera_ids, *span, policy),
        await stored.load(
            connection, cameras=hold.camera_ids, start_us=first - slack, end_us=last + slack
        ),
    )


async def _tag(
    platform: Platform, hold: Hold, rows: Rows, policy: Policy
) -> tuple[set[str], set[str]]:
    """Tag what the hold keeps `held`; keys without bytes, and keys whose tag is not confirmed.

    A store that is away undoes nothing: the row is committed and blocks the purge. Retention tags
    what is left at its next run.
    """
    keys = [row["key"] for row in hold_report.bound(hold, rows, policy)]
    missing: set[str] = set()
    pending: set[str] = set()
    for first in range(0, len(keys), TAG_BATCH):
        batch = keys[first : first + TAG_BATCH]
        try:
            missing.update(await platform.blobs.set_tags(batch, HELD))
            await platform.blobs.set_tags([ids.boxes_key(key) for key in batch], HELD)
        except LamppostError as error:
            _log.warning("tags of a hold wait", hold=hold.id, cause=str(error))
            pending.update(batch)
    return missing, pending


def _found(hold: Hold | None, hold_id: str) -> Hold:
    if hold is None or hold.kind is not HoldKind.OFFICER:
        raise LamppostError(Kind.NOT_FOUND, f"There is no hold {hold_id}.")
    return hold


def _entry(
    action: str, actor: Actor, hold: Hold, now_us: int, request_id: str, reason: str = ""
) -> audit.Entry:
    lapse = civil.rfc3339(hold.lapses_at_us) if hold.lapses_at_us is not None else None
    return audit.Entry(
        at_us=now_us,
        actor=actor,
        action=action,
        resource=f"hold/{hold.id}",
        camera_ids=hold.camera_ids,
        start_us=hold.start_us,
        end_us=hold.end_us,
        purpose=PURPOSES[hold.reason].value if hold.reason in PURPOSES else "",
        case_ref=hold.case_ref,
        reason=reason or hold.reason.value,
        request_id=request_id,
        detail={"request_sha256": hold.request_sha256, "lapses_at": lapse},
    )
