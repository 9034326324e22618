"""Routes of sightings: search, counts by hour, one sighting, its thumbnail and its boxes.

Every request names a purpose and is audited before anything is looked for; nothing past its expiry
is found, but by an officer of a hold that covers it. What is found is a search aid, never a finding
(docs/guide/analyst.md).
"""

from __future__ import annotations

import asyncio
from datetime import timedelta, timezone
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.responses import Response

from services.api import pagination, problems, queries_sightings, sighting_query
from services.api.access import Action, Why
from services.api.deps import Granted, Requires, WhyQuery
from services.api.footage import IN_DOUBT
from services.api.models import Text100
from services.api.models_sightings import (
    BoxesOut,
    CountsOut,
    Show,
    SightingOut,
    SightingPage,
    encode,
)
from services.api.queries_sightings import BUCKET_US, Candidate
from services.api.sighting_boxes import boxes_of
from services.api.sighting_filters import AskedQuery
from services.api.sighting_query import COUNTS, Hit, Search, Since, Until, cursor_of, when_of
from services.api.sighting_scope import Eye, eye
from shared import civil, retention
from shared.db.sighting_data import sighting_of
from shared.errors import Kind, LamppostError
from shared.intervals import Interval
from shared.retention import Policy

router = APIRouter(tags=["sightings"], responses=problems.RESPONSES)
Searches = Annotated[Granted, Depends(Requires(Action.SIGHTING_SEARCH))]
Reads = Annotated[Granted, Depends(Requires(Action.SIGHTING_READ))]
JSON = "application/json"


class Expiries:
    """The expiry that counts of each hit: worked out once a quarter hour of ends."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._known: dict[int, int] = {}

    def of(self, row: Candidate) -> int:
        if self._policy.basis == "instant":
            return retention.effective_expiry_us(row.expires_at_us, row.end_us, self._policy)
        quarter = (row.end_us - 1) // BUCKET_US
        if quarter not in self._known:
            self._known[quarter] = max(
                retention.expires_at_us(row.end_us, self._policy), self._policy.effective_from_us
            )
        return min(row.expires_at_us, self._known[quarter])


def shown(show: Show, view: Eye, expiries: Expiries, hit: Hit) -> dict[str, Any]:
    """A hit as a reply has it."""
    expires_us = expiries.of(hit.row)
    return show.hit(hit.row, hit.sighting, held=view.expired(hit.row), expires_us=expires_us)


@router.get("/v1/sightings", summary="Search sightings", response_model=SightingPage)
async def search_sightings(
    asked: AskedQuery,
    granted: Searches,
    why: WhyQuery,
    since: Since = None,
    until: Until = None,
    limit: pagination.Limit = pagination.LIMIT_DEFAULT,
    cursor: pagination.Cursor = None,
) -> Response:
    """Sightings that overlap [since, until), newest first, on the cameras named or on all that you
    may search. Drawn figures, zones and lines count within that time only."""
    context = granted.context
    when = when_of(context, since, until, cursor)
    search = await sighting_query.begin(granted, asked, why, when.span, cursor)
    async with context.platform.database.read() as connection:
        found = await sighting_query.page(search, connection, when.after, limit)
        covering = asyncio.create_task(
            sighting_query.covered(search, connection, found.view, found.looked)
        )
        try:
            await asyncio.sleep(0)  # It is asked for: the database works while the hits are put.
            expiries = Expiries(found.view.policy)
            show = Show(context, why)
            items = [shown(show, found.view, expiries, hit) for hit in found.hits]
        finally:
            coverage = await covering
    body = {
        "since": show.text(when.span[0]),
        "until": show.text(when.span[1]),
        "items": items,
        "next": cursor_of(found.next, when.span),
        "coverage": show.coverage(coverage, found.looked, len(search.scope.places)),
    }
    return Response(encode(body), media_type=JSON)


@router.get("/v1/sightings/counts", summary="Count sightings by hour", response_model=CountsOut)
async def count_sightings(
    asked: AskedQuery,
    granted: Searches,
    why: WhyQuery,
    since: Since = None,
    until: Until = None,
    cursor: pagination.Cursor = None,
) -> Response:
    """How many of the same sightings began in each local hour, zeros too; what began before `since`
    counts at `since`. An hour that daylight saving repeats is there twice, by its offsets."""
    context = granted.context
    when = when_of(context, since, until, cursor, COUNTS)
    search = await sighting_query.begin(granted, asked, why, when.span, cursor)
    async with context.platform.database.read() as connection:
        found = await sighting_query.count(search, connection, when.after)
        coverage = await sighting_query.covered(search, connection, found.view, found.looked)
    show = Show(context, why)
    hours = by_hour(search, found.quarters, found.looked)
    body = {
        "since": show.text(when.span[0]),
        "until": show.text(when.span[1]),
        "hours": [{"start": start, "count": number} for start, number in hours.items()],
        "total": sum(found.quarters.values()),
        "next": cursor_of(found.next, when.span, COUNTS),
        "coverage": show.coverage(coverage, found.looked, len(search.scope.places)),
    }
    return Response(encode(body), media_type=JSON)


def by_hour(search: Search, quarters: dict[int, int], looked: Interval) -> dict[str, int]:
    """Counts of quarter hours as counts of local hours, named by their begin and offset."""
    zone = search.context.zone
    first = looked[0] // BUCKET_US * BUCKET_US
    hours: dict[str, int] = {}
    for quarter in sorted({*range(first, looked[1], BUCKET_US), *quarters}):
        local = civil.to_datetime(quarter, zone)
        hour = local.replace(minute=0, tzinfo=timezone(local.utcoffset() or timedelta()))
        name = hour.isoformat(timespec="milliseconds")
        hours[name] = hours.get(name, 0) + quarters.get(quarter, 0)
    return hours


async def readable(granted: Granted, sighting_id: str, why: Why) -> tuple[Hit, Eye, Expiries]:
    """One sighting, once its reading is allowed and written down; GONE from its expiry on."""
    context = granted.context
    async with context.platform.database.read() as connection:
        row = await queries_sightings.one(connection, sighting_id)
    if row is None:
        raise LamppostError(Kind.NOT_FOUND, "There is no such sighting.")
    await granted.camera(row.camera_id, why)
    await granted.record(
        resource=f"sighting/{sighting_id}",
        camera_ids=(row.camera_id,),
        start_us=row.start_us,
        end_us=row.end_us,
        why=why,
    )
    span = (row.start_us, row.end_us)
    async with context.platform.database.read() as connection:
        view = await eye(context, connection, granted.principal.id, (row.camera_id,), span)
    sighting = sighting_of(row)
    closed = view.closed(row, sighting)
    if closed == IN_DOUBT:
        raise LamppostError(
            Kind.DOUBT,
            "The clocks disagree, and this sighting may have expired.",
            fix="The operator's `lamppost doctor` says which clock is wrong.",
        )
    if closed:
        raise LamppostError(Kind.GONE, "The sighting is past its expiry.")
    return Hit(row, sighting), view, Expiries(view.policy)


@router.get("/v1/sightings/{sighting_id}", summary="Get a sighting", response_model=SightingOut)
async def get_sighting(sighting_id: Text100, granted: Reads, why: WhyQuery) -> Response:
    """One sighting as it is now; it changes until `ended`."""
    hit, view, expiries = await readable(granted, sighting_id, why)
    body = shown(Show(granted.context, why), view, expiries, hit)
    return Response(encode(body), media_type=JSON)


@router.get(
    "/v1/sightings/{sighting_id}/thumbnail",
    summary="The small picture of a sighting",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}, "description": "The picture."}},
)
async def get_thumbnail(sighting_id: Text100, granted: Reads, why: WhyQuery) -> Response:
    """The best frame's cut-out, at most 160 pixels high, out of the masked picture."""
    await readable(granted, sighting_id, why)
    async with granted.context.platform.database.read() as connection:
        found = await queries_sightings.thumbnail(connection, sighting_id)
    if found is None:
        raise LamppostError(
            Kind.NOT_FOUND,
            "This sighting has no thumbnail.",
            fix="Its snapshot shows the whole picture.",
        )
    captured_us, jpeg = found
    headers = {
        "X-Lamppost-Capture-Time": civil.rfc3339(captured_us, granted.context.zone),
        "Cache-Control": "no-store",
    }
    return Response(jpeg, media_type="image/jpeg", headers=headers)


@router.get(
    "/v1/sightings/{sighting_id}/boxes",
    summary="The boxes of a sighting, frame by frame",
    response_model=BoxesOut,
)
async def get_boxes(sighting_id: Text100, granted: Reads, why: WhyQuery) -> Response:
    """Its box in each analysed frame. They are written a minute or so after the recording; what is
    not there yet is named in `missing`."""
    hit, _, _ = await readable(granted, sighting_id, why)
    body = await boxes_of(granted.context, hit.sighting)
    return Response(encode(body), media_type=JSON)
