"""Routes of holds on services/api/holds.py. A hold that keeps less than was asked for answers 207,
never plain success."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.api import etags, holds, pagination, problems, times
from services.api.access import Action, Resource, Why
from services.api.context import ApiContext
from services.api.deps import Granted, Requires
from services.api.hold_report import HoldReport, Part, Unkept
from services.api.models import Body, CameraId, Page, Reply, Text100, Text1000, TimeText, example
from shared import retention
from shared.domain import Hold, HoldReason, Purpose
from shared.errors import Kind, LamppostError
from shared.retention import HoldState

router = APIRouter(tags=["holds"], responses=problems.RESPONSES)
Places = Annotated[Granted, Depends(Requires(Action.HOLD_PLACE))]
Reads = Annotated[Granted, Depends(Requires(Action.HOLD_READ))]
Renews = Annotated[Granted, Depends(Requires(Action.HOLD_RENEW))]
Releases = Annotated[Granted, Depends(Requires(Action.HOLD_RELEASE))]


class HoldIn(Body):
    """What is to be kept, and why."""

    model_config = example(
        camera_ids=["mk-argyle-01"],
        start="2026-11-25T14:00:00+08:00",
        end="2026-11-25T14:30:00+08:00",
        case_ref="MK-2026-11873",
        reason="criminal_investigation",
    )
    camera_ids: Annotated[list[CameraId], Field(min_length=1, max_length=50)]
    start: TimeText
    end: TimeText
    case_ref: Text100
    reason: HoldReason
    note: Text1000 = ""
    officers: Annotated[list[Text100], Field(default_factory=list, max_length=20)]
    review_at: TimeText | None = None
    ends_at: TimeText | None = None


class RenewIn(Body):
    """Another 72 hours."""

    model_config = example(review_at="2026-12-20T09:00", reason="Forensics not finished.")
    review_at: TimeText | None = None
    reason: Text1000 = ""


class ReleaseIn(Body):
    """Why it is no longer needed."""

    model_config = example(note="Case closed, exhibit returned.")
    note: Text1000


class PartOut(Reply):
    camera_id: str
    start: str
    end: str
    reason: str | None = None


class HoldOut(Reply):
    """A hold as it stands."""

    id: str
    state: str
    camera_ids: list[str]
    start: str
    end: str
    case_ref: str
    reason: str
    note: str
    requester_id: str
    officers: list[str]
    request_sha256: str
    placed_at: str
    lapses_at: str | None
    review_at: str | None
    ends_at: str | None
    renewed_at: str | None
    released_at: str | None
    released_by: str | None
    release_note: str


class ReportOut(Reply):
    """What was asked for, what is kept, which gaps there are and why, and what was gone."""

    hold: HoldOut
    at: str
    partial: bool
    asked: list[PartOut]
    preserved: list[PartOut]
    margin: list[PartOut]
    gaps: list[PartOut]
    not_preserved: list[PartOut]
    segments: int
    size_bytes: int


def hold_out(hold: Hold, context: ApiContext, now_us: int) -> HoldOut:
    zone = context.zone
    return HoldOut(
        id=hold.id,
        state=retention.hold_state(hold, now_us).value,
        camera_ids=list(hold.camera_ids),
        start=times.text(hold.start_us, zone),
        end=times.text(hold.end_us, zone),
        case_ref=hold.case_ref,
        reason=hold.reason.value,
        note=hold.note,
        requester_id=hold.requester_id,
        officers=list(hold.officers),
        request_sha256=hold.request_sha256,
        placed_at=times.text(hold.placed_at_us, zone),
        lapses_at=times.maybe_text(hold.lapses_at_us, zone),
        review_at=times.maybe_text(hold.review_at_us, zone),
        ends_at=times.maybe_text(hold.ends_at_us, zone),
        renewed_at=times.maybe_text(hold.renewed_at_us, zone),
        released_at=times.maybe_text(hold.released_at_us, zone),
        released_by=hold.released_by,
        release_note=hold.release_note,
    )


def _parts(found: Iterable[Part | Unkept], context: ApiContext) -> list[PartOut]:
    return [
        PartOut(
            camera_id=part.camera_id,
            start=times.text(part.start_us, context.zone),
            end=times.text(part.end_us, context.zone),
            reason=part.reason if isinstance(part, Unkept) else None,
        )
        for part in found
    ]


def report_out(report: HoldReport, context: ApiContext) -> ReportOut:
    return ReportOut(
        hold=hold_out(report.hold, context, report.at_us),
        at=times.text(report.at_us, context.zone),
        partial=report.partial,
        asked=_parts(report.asked, context),
        preserved=_parts(report.preserved, context),
        margin=_parts(report.margin, context),
        gaps=_parts(report.gaps, context),
        not_preserved=_parts(report.not_preserved, context),
        segments=report.segments,
        size_bytes=report.size_bytes,
    )


def _json(model: Reply, status: int) -> Response:
    return JSONResponse(model.model_dump(mode="json"), status)


def _us(text: str | None, context: ApiContext) -> int | None:
    return None if text is None else times.instant(text, context.zone)


async def _mine(granted: Granted, hold_id: str) -> Hold:
    """The hold, if the person may read it."""
    hold = await holds.get(granted.context.platform, hold_id)
    granted.check(Resource(officers=(hold.requester_id, *hold.officers)))
    return hold


def _why(hold: Hold, reason: str = "") -> Why:
    return Why(holds.PURPOSES.get(hold.reason, Purpose.AUDIT), hold.case_ref, reason)


@router.post(
    "/v1/holds",
    summary="Place a hold",
    status_code=201,
    response_model=ReportOut,
    responses={207: {"description": "Some of it is not preserved.", "model": ReportOut}},
)
async def post_hold(body: HoldIn, granted: Places) -> Response:
    """In force at once, for 72 h unless renewed. 201: all that was recorded is kept. 207: some of
    it is not; `not_preserved` says what and why. 410: everything is past its expiry."""
    context = granted.context
    if body.reason not in holds.PURPOSES:
        raise LamppostError(Kind.INVALID, "That reason is the program's own.")
    start_us, end_us = times.interval(body.start, body.end, context.zone)
    for camera_id in body.camera_ids:
        await granted_camera(granted, camera_id)
    granted.check(Resource(), Why(holds.PURPOSES[body.reason], body.case_ref))
    request = holds.HoldRequest(
        camera_ids=tuple(body.camera_ids),
        start_us=start_us,
        end_us=end_us,
        case_ref=body.case_ref,
        reason=body.reason,
        note=body.note,
        officers=tuple(body.officers),
        review_at_us=_us(body.review_at, context),
        ends_at_us=_us(body.ends_at, context),
    )
    try:
        report = await holds.place(
            context.platform,
            context.settings,
            granted.principal.actor,
            request,
            request_id=granted.request_id,
        )
    except LamppostError as error:
        if error.kind is not Kind.NOT_BUILT:
            raise
        # More than one officer may hold: a matter of rights, not a fault of the server.
        raise LamppostError(Kind.FORBIDDEN, error.message, fix=error.fix) from error
    return _json(report_out(report, context), 207 if report.partial else 201)


async def granted_camera(granted: Granted, camera_id: str) -> None:
    """The camera exists and lies in the person's scope; its purposes do not limit keeping."""
    reader = Granted(granted.context, granted.principal, Action.CAMERA_READ, granted.request_id)
    await reader.camera(camera_id)


@router.get("/v1/holds", summary="List holds")
async def list_holds(
    granted: Reads,
    state: HoldState | None = None,
    camera: Annotated[CameraId | None, Query()] = None,
    limit: pagination.Limit = pagination.LIMIT_DEFAULT,
    cursor: pagination.Cursor = None,
) -> Page[HoldOut]:
    """Newest first. Investigators see the holds they are officers of, so a page may hold fewer than
    `limit` and still have a `next`."""
    context = granted.context
    key = pagination.decode("holds", cursor, int, str)
    limit = min(limit, holds.PAGE_MAX)
    found = await holds.list_page(
        context.platform,
        state=state,
        camera_id=camera,
        after=(int(key[0]), str(key[1])) if key else None,
        limit=limit,
    )
    shown = [hold for hold in found if _may_read(granted, hold)]
    more = None
    if len(found) == limit:
        more = pagination.encode("holds", found[-1].placed_at_us, found[-1].id)
    now_us = context.now_us()
    return Page(items=[hold_out(hold, context, now_us) for hold in shown], next=more)


def _may_read(granted: Granted, hold: Hold) -> bool:
    try:
        granted.check(Resource(officers=(hold.requester_id, *hold.officers)))
    except LamppostError:
        return False
    return True


@router.get("/v1/holds/{hold_id}", summary="Get a hold", response_model=HoldOut)
async def get_hold(hold_id: Text100, granted: Reads, request: Request) -> Response:
    """The hold as it stands."""
    hold = await _mine(granted, hold_id)
    context = granted.context
    return etags.reply(request, hold_out(hold, context, context.now_us()))


@router.get("/v1/holds/{hold_id}/report", summary="What a hold keeps")
async def get_report(hold_id: Text100, granted: Reads) -> ReportOut:
    """Asked for, preserved, gaps with reasons, not preserved, as of now."""
    await _mine(granted, hold_id)
    context = granted.context
    return report_out(await holds.report(context.platform, context.settings, hold_id), context)


@router.post("/v1/holds/{hold_id}/renew", summary="Renew a hold")
async def renew_hold(hold_id: Text100, body: RenewIn, granted: Renews) -> HoldOut:
    """Another 72 h from now, by one of its officers while it is in force."""
    context = granted.context
    hold = await holds.get(context.platform, hold_id)
    granted.check(Resource(officers=(hold.requester_id, *hold.officers)), _why(hold, body.reason))
    renewed = await holds.renew(
        context.platform,
        granted.principal.actor,
        hold_id,
        review_at_us=_us(body.review_at, context),
        request_id=granted.request_id,
    )
    return hold_out(renewed, context, context.now_us())


@router.post("/v1/holds/{hold_id}/release", summary="Release a hold")
async def release_hold(hold_id: Text100, body: ReleaseIn, granted: Releases) -> HoldOut:
    """By one of its officers. What is past its expiry waits 72 h, not viewable, then is purged."""
    context = granted.context
    hold = await holds.get(context.platform, hold_id)
    granted.check(Resource(officers=(hold.requester_id, *hold.officers)), _why(hold, body.note))
    released = await holds.release(
        context.platform,
        granted.principal.actor,
        hold_id,
        body.note,
        request_id=granted.request_id,
    )
    return hold_out(released, context, context.now_us())
