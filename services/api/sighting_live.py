"""Sightings as they happen, as server-sent events with the filters of a search.

Each update of a sighting that is a hit is an event: a hit as the search gives it, which also says
whether it has ended. Drawn figures, zones and lines count over the whole of it so far. How a stream
is resumed and bounded: services/api/event_stream.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from starlette.responses import StreamingResponse

from services.api import event_stream, problems, sighting_query
from services.api.access import Action
from services.api.deps import Granted, Requires, WhyQuery
from services.api.event_stream import Shown
from services.api.models_sightings import Show, encode
from services.api.queries_sightings import Candidate
from services.api.segments import policy_of
from services.api.sighting_filters import AskedQuery, matches
from services.api.sighting_query import Search
from services.api.sighting_scope import eye
from shared import metrics, retention, tracing
from shared.bus import Record
from shared.clock import DAY_US
from shared.errors import LamppostError
from shared.messages import SIGHTINGS, SightingUpdated, decode
from shared.retention import Policy

EVENT = "sighting"
router = APIRouter(tags=["sightings"], responses=problems.RESPONSES)


@router.get(
    "/v1/live/sightings",
    summary="Follow sightings",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def live_sightings(
    asked: AskedQuery,
    granted: Annotated[Granted, Depends(Requires(Action.SIGHTING_LIVE))],
    why: WhyQuery,
    last_event_id: Annotated[str | None, Header(max_length=12_000)] = None,
) -> StreamingResponse:
    """Server-sent events `sighting`: one when it is confirmed, about one a second while it goes on,
    and one with `ended`. With `Last-Event-ID` it goes on where the client was, up to 24 h ago.
    After 15 minutes the stream ends, and the client comes back by itself."""
    context = granted.context
    positions = None
    if last_event_id:
        positions = event_stream.read_positions(SIGHTINGS.name, last_event_id)
    event_stream.check_room(context)
    now_us = context.now_us()
    began_us = now_us if positions is None else max(0, now_us - DAY_US)
    span = (began_us, now_us + event_stream.MAX_STREAM_US)
    search = await sighting_query.begin(granted, asked, why, span)
    async with context.platform.database.read() as connection:
        policy = await policy_of(context, connection)
    to_events = Follower(search, policy).events
    return event_stream.reply(
        context, event_stream.stream(context, SIGHTINGS.name, positions, to_events)
    )


class Follower:
    """Turns records of topic `sightings` into the events of one stream."""

    def __init__(self, search: Search, policy: Policy) -> None:
        self._search = search
        self._policy = policy

    async def events(self, record: Record) -> AsyncIterator[Shown]:
        search = self._search
        if record.key not in search.scope.places:
            return
        try:
            event = decode(record.value, SightingUpdated)
        except LamppostError:
            metrics.BUS_POISON.labels(record.topic).inc()
            return
        sighting = event.sighting
        if sighting.camera_id not in search.scope.places:
            return
        if not matches(sighting, search.scope.filters, None):
            return
        expires_us = retention.expires_at_us(sighting.end_us, self._policy)
        row = Candidate(
            sighting.id,
            sighting.camera_id,
            sighting.start_us,
            sighting.end_us,
            expires_us,
            event.ended,
            b"",
        )
        if await self._expired(row):
            return
        clock = search.context.clock
        span = tracing.follow(record.headers, "serve", clock.now_us(), sighting=sighting.id)
        show = Show(search.context, search.why)
        yield EVENT, encode(show.hit(row, sighting, held=False, expires_us=expires_us))
        span.end(clock.now_us(), to="live")

    async def _expired(self, row: Candidate) -> bool:
        """Whether what a resumed stream brings has expired since; nothing new has."""
        context = self._search.context
        if row.expires_at_us > context.now_us() + DAY_US:
            return False
        span = (row.start_us, row.end_us)
        viewer_id = self._search.granted.principal.id
        async with context.platform.database.read() as connection:
            view = await eye(context, connection, viewer_id, (row.camera_id,), span)
        return view.expired(row)
