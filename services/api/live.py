"""Live pictures: the recorder's own fragments, passed on as they are closed.

Fragmented MP4 for Media Source Extensions, from the newest key frame on. Nothing is buffered here:
a client that does not keep up is dropped, and comes back at the newest key frame
(docs/architecture.md, "Playback and live").
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, Any

import httpx2
from fastapi import APIRouter, Depends
from starlette.responses import Response

from services.api import problems, times
from services.api.access import Action, Why
from services.api.deps import Context, Granted, Requires
from services.api.media import MAX_LIVE
from services.api.media_response import MediaStream
from services.api.media_routes import MediaToken, Token, asked_of
from services.api.media_sessions import Asked, MediaSession, SessionKind
from services.api.models import CameraId, Reply, WhyBody, example
from shared.clock import SECOND_US
from shared.domain import Purpose
from shared.errors import Kind, LamppostError

router = APIRouter(tags=["live"], responses=problems.RESPONSES)

CODEC_HEADER = "X-Lamppost-Codec"
STALL_S = 5.0
RECHECK_US = 5 * SECOND_US
FIRST_PIECE_S = 10.0


class LiveBody(WhyBody):
    """A camera to watch now, and why."""

    model_config = example(
        camera="mk-argyle-01", purpose="public_safety", reason="Crowd at the crossing"
    )
    camera: CameraId


class LiveReply(Reply):
    """An opened live session."""

    record: int
    camera: str
    expires_at: str
    token: str
    url: str
    renew_url: str
    close_url: str


@router.post("/v1/live-sessions", status_code=201, summary="Open a live session")
async def open_live(
    body: LiveBody,
    granted: Annotated[Granted, Depends(Requires(Action.LIVE_OPEN))],
) -> LiveReply:
    """Watch a camera now, 15 minutes at most; then renew. The stream is fragmented MP4 for Media
    Source Extensions; its header `X-Lamppost-Codec` names the codec for `addSourceBuffer`."""
    why = Why(body.purpose, body.case_ref, body.reason)
    camera = await granted.camera(body.camera, why)
    if not camera.enabled or camera.deleted_at_us is not None:
        raise LamppostError(Kind.CONFLICT, "The camera is not in use.", fix="Enable it first.")
    return await _opened(granted, asked_of(SessionKind.LIVE, camera.id, None, granted, why))


@router.post("/v1/live-sessions/{token}/renew", status_code=201, summary="Renew a live session")
async def renew(
    token: Token, granted: Annotated[Granted, Depends(Requires(Action.LIVE_OPEN))]
) -> LiveReply:
    """A new session like the one of this token, with its own audit record and addresses. The old
    stream goes on until its own expiry."""
    try:
        session = await granted.context.media.sessions.check(token, SessionKind.LIVE)
    except LamppostError as error:
        if error.kind is not Kind.UNAUTHENTICATED:
            raise
        # The person is signed in; it is the token that nobody was given.
        raise LamppostError(Kind.NOT_FOUND, error.message, fix=error.fix) from error
    if session.actor.id != granted.principal.id:
        raise LamppostError(Kind.FORBIDDEN, "This is another person's session.")
    asked = session.asked
    await granted.camera(asked.camera_id, Why(Purpose(asked.purpose), asked.case_ref, asked.reason))
    return await _opened(granted, asked)


async def _opened(granted: Granted, asked: Asked) -> LiveReply:
    context = granted.context
    token, session = await context.media.sessions.open(
        granted.principal.actor, asked, granted.request_id
    )
    return LiveReply(
        record=session.audit_id,
        camera=asked.camera_id,
        expires_at=times.text(session.expires_at_us, context.zone),
        token=token,
        url=f"/v1/media/{token}/live.mp4",
        renew_url=f"/v1/live-sessions/{token}/renew",
        close_url=f"/v1/media/{token}",
    )


@router.get(
    "/v1/media/{token}/live.mp4",
    summary="The stream of a live session",
    response_class=Response,
    dependencies=[Depends(MediaToken(Action.LIVE_OPEN))],
)
async def stream(token: Token, context: Context) -> Response:
    """Init section and fragments from the newest key frame on, until the session's expiry, a change
    of the picture's format or the camera's end."""
    parts = context.media
    session = await parts.sessions.check(token, SessionKind.LIVE)
    if parts.live_streams >= MAX_LIVE:
        raise LamppostError(Kind.LIMITED, "Too many live streams are open.", fix="Close one.")
    pieces = _pieces(context, session, token)
    try:
        async with asyncio.timeout(FIRST_PIECE_S):
            codec = (await anext(pieces)).decode("ascii")
    except TimeoutError as error:
        raise LamppostError(Kind.TIMEOUT, "The recorder did not answer in time.") from error
    body = parts.counted(session, pieces, 0, lambda _first, _last: _now_span(context))
    left_s = (session.expires_at_us - context.now_us()) / SECOND_US
    return MediaStream(
        body,
        status_code=200,
        headers={CODEC_HEADER: codec},
        media_type="video/mp4",
        stall_s=STALL_S,
        limit_s=max(0.0, left_s),
    )


def _now_span(context: Context) -> tuple[int, int]:
    now = context.now_us()
    return now - SECOND_US, now


async def _pieces(
    context: Context, session: MediaSession, token: str
) -> AsyncGenerator[bytes, None]:
    """First the codec's name, then the recorder's bytes as they come."""
    parts = context.media
    parts.live_streams += 1
    try:
        async with parts.recorders.live(session.asked.camera_id) as answer:
            _check(answer)
            yield answer.headers.get(CODEC_HEADER, "").encode("ascii", "replace")
            checked_us = context.clock.monotonic_us()
            async for data in answer.aiter_raw():
                now_us = context.clock.monotonic_us()
                if now_us - checked_us >= RECHECK_US:
                    await parts.sessions.check(token, SessionKind.LIVE)
                    checked_us = now_us
                if context.stop.is_set:
                    return
                yield data
    except httpx2.HTTPError as error:
        raise LamppostError(Kind.UNAVAILABLE, "The recorder went away.") from error
    finally:
        parts.live_streams -= 1


def _check(answer: Any) -> None:
    if answer.status_code == 200:
        return
    raise LamppostError(
        Kind.UNAVAILABLE,
        "The camera has no live picture now.",
        fix="Its status says why; try again.",
    )
