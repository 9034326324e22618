"""What the routes of playback and clips have in common: how a session is opened, how its addresses
are guarded, and how bytes are answered (docs/architecture.md, "Playback and live").
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Annotated, Any, NamedTuple, TypeVar

from fastapi import APIRouter, Depends, Path
from starlette.requests import Request
from starlette.responses import Response

from services.api import byte_ranges, media, times
from services.api.access import Action, Why
from services.api.byte_ranges import Slice
from services.api.context import ApiContext
from services.api.deps import Granted, TokenRule
from services.api.footage import IN_DOUBT
from services.api.media_sessions import Asked, MediaSession, SessionKind
from services.api.models import CameraId, Reply, TimeText, WhyBody, example
from services.api.timeline import Recorded, Timeline
from shared.domain import Camera
from shared.errors import Kind, LamppostError
from shared.intervals import Interval

MP4 = "video/mp4"
Token = Annotated[str, Path(min_length=20, max_length=100, description="The session's token.")]
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class MediaToken(TokenRule):
    """Open to whoever holds the token; the route checks it with `sessions.check`."""

    async def __call__(self) -> None:
        return None


class RangeBody(WhyBody):
    """A camera's range, and why it is watched."""

    model_config = example(
        camera="mk-argyle-01",
        start="2026-11-25T14:02:00+08:00",
        end="2026-11-25T14:05:00+08:00",
        purpose="crime_investigation",
        case_ref="MK-2026-1234",
    )
    camera: CameraId
    start: TimeText
    end: TimeText

    @property
    def why(self) -> Why:
        return Why(self.purpose, self.case_ref, self.reason)


class HoleReply(Reply):
    """Seconds of the range with nothing to show, and why."""

    start: str
    end: str
    reason: str


class Opened(NamedTuple):
    """A session that was just opened, and what it can show."""

    token: str
    session: MediaSession
    line: Timeline


def media_routes(
    router: APIRouter, path: str, action: Action, summary: str
) -> Callable[[Endpoint], Endpoint]:
    """Register an endpoint under `/v1/media/{token}` for GET and HEAD, guarded by the token."""

    def register(endpoint: Endpoint) -> Endpoint:
        guarded: Any = {
            "path": "/v1/media/{token}" + path,
            "endpoint": endpoint,
            "response_class": Response,
            "dependencies": [Depends(MediaToken(action))],
        }
        router.add_api_route(**guarded, methods=["HEAD"], include_in_schema=False)
        router.add_api_route(**guarded, methods=["GET"], summary=summary)
        return endpoint

    return register


def asked_of(
    kind: SessionKind, camera_id: str, span: Interval | None, granted: Granted, why: Why
) -> Asked:
    """What is asked, as the session stores it; call after `granted.camera` allowed it."""
    assert why.purpose is not None
    start, end = span or (None, None)
    return Asked(kind, camera_id, start, end, why.purpose.value, why.case_ref, why.reason)


async def open_range(
    granted: Granted,
    kind: SessionKind,
    camera: Camera,
    span: Interval,
    why: Why,
    *,
    may_be_empty: bool = False,
) -> Opened:
    """Open a session on the camera's range: audited and committed before its token exists. Raises,
    after recording that it was asked, when nothing of the range can be shown."""
    context, actor = granted.context, granted.principal.actor
    asked = asked_of(kind, camera.id, span, granted, why)
    line = await context.media.footage.timeline(camera.id, *span, granted.principal.id)
    try:
        if not may_be_empty:
            media.check_viewable(line)
    except LamppostError as error:
        await context.media.sessions.refused(actor, asked, error.kind, granted.request_id)
        raise
    token, session = await context.media.sessions.open(actor, asked, granted.request_id)
    return Opened(token, session, line)


async def line_of(session: MediaSession, context: ApiContext) -> Timeline:
    """What the session can show now."""
    return await context.media.footage.timeline(
        session.asked.camera_id, *session.span, session.actor.id
    )


def holes_of(line: Timeline, context: ApiContext) -> list[HoleReply]:
    """The holes with the site's local times."""
    return [
        HoleReply(
            start=times.text(hole.start_us, context.zone),
            end=times.text(hole.end_us, context.zone),
            reason=hole.reason,
        )
        for hole in line.holes
    ]


def check_open(recorded: Recorded) -> None:
    """Raise when the viewer may not see the segment now, whatever the playlist said before."""
    if recorded.closed == IN_DOUBT:
        raise LamppostError(Kind.DOUBT, "The clocks disagree, and this footage may have expired.")
    if recorded.closed:
        raise LamppostError(Kind.GONE, "This footage is past its expiry.")


def unchanged(request: Request, etag: str) -> Response | None:
    """The answer to a reader who has these bytes already."""
    if byte_ranges.unchanged(etag, request.headers.get("if-none-match")):
        return Response(status_code=304, headers={"ETag": etag, "Cache-Control": "no-store"})
    return None


def head_of(piece: Slice, headers: Mapping[str, str]) -> Response:
    """The answer to HEAD."""
    return Response(status_code=status_of(piece), headers=dict(headers), media_type=MP4)


def status_of(piece: Slice) -> int:
    return 206 if piece.partial else 200


async def begun(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same, once its first piece is there: until then a failure can still be answered."""
    try:
        first = await anext(pieces)
    except StopAsyncIteration:
        raise LamppostError(Kind.NOT_FOUND, "The footage is no longer there.") from None

    async def chained() -> AsyncGenerator[bytes, None]:
        async with aclosing(pieces):
            yield first
            async for data in pieces:
                yield data

    return chained()
