"""Playback of a range of the past, up to seconds ago, as HLS over byte ranges of stored segments.

`POST /v1/playback-sessions` commits the audit record and gives addresses that carry a token; every
request under them is checked against person, camera, range and expiry as they are at that moment
(docs/architecture.md, "Playback and live").
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from services.api import byte_ranges, hls, media, problems, rebased, times
from services.api.access import Action
from services.api.byte_ranges import Slice
from services.api.deps import Context, Granted, Requires
from services.api.footage import Footage
from services.api.media_response import MediaStream
from services.api.media_routes import (
    MP4,
    HoleReply,
    MediaToken,
    RangeBody,
    Token,
    begun,
    check_open,
    head_of,
    holes_of,
    line_of,
    media_routes,
    open_range,
    status_of,
    unchanged,
)
from services.api.media_sessions import MediaSession, SessionKind
from services.api.models import Reply
from services.api.rebased import Placed
from services.api.timeline import Recorded, Timeline, window
from shared import fmp4
from shared.clock import SECOND_US
from shared.domain import Fragment
from shared.errors import Kind, LamppostError
from shared.intervals import Interval

router = APIRouter(tags=["playback"], responses=problems.RESPONSES)

SETTLED_US = 5 * SECOND_US
"""Everything recorded until so long ago is playable: later it is only late, not missing."""
FUTURE_MAX_US = 900 * SECOND_US
MAX_SHIFT = 2**53

SegmentId = Annotated[str, Path(max_length=64, description="A segment's id.")]


class SessionReply(Reply):
    """An opened media session. The token in the addresses is shown once."""

    record: int
    """The number of its audit record."""
    camera: str
    start: str
    end: str
    expires_at: str
    token: str
    url: str
    close_url: str
    recorded_s: float
    holes: list[HoleReply]


@router.post("/v1/playback-sessions", status_code=201, summary="Open a playback session")
async def open_playback(
    body: RangeBody,
    granted: Annotated[Granted, Depends(Requires(Action.PLAYBACK_OPEN))],
) -> SessionReply:
    """Play a camera's range in any HLS player: up to 6 h, up to 5 s ago. An `end` up to 15 minutes
    ahead makes a playlist that grows. Holes in the recording are named with their reasons."""
    context = granted.context
    camera = await granted.camera(body.camera, body.why)
    span = times.interval(body.start, body.end, context.zone, max_us=media.MAX_PLAYBACK_US)
    now = context.now_us()
    if span[0] > now or span[1] > now + FUTURE_MAX_US:
        raise LamppostError(
            Kind.INVALID, "The range lies ahead.", fix="It may end 15 minutes ahead at most."
        )
    token, session, line = await open_range(
        granted, SessionKind.PLAYBACK, camera, span, body.why, may_be_empty=span[1] > now
    )
    return SessionReply(
        record=session.audit_id,
        camera=camera.id,
        start=times.text(span[0], context.zone),
        end=times.text(span[1], context.zone),
        expires_at=times.text(session.expires_at_us, context.zone),
        token=token,
        url=f"/v1/media/{token}/index.m3u8",
        close_url=f"/v1/media/{token}",
        recorded_s=sum(piece.end_us - piece.start_us for piece in line.pieces) / SECOND_US,
        holes=holes_of(line, context),
    )


@media_routes(router, "/index.m3u8", Action.PLAYBACK_OPEN, "The playlist of a playback session")
async def playlist(token: Token, context: Context) -> Response:
    """An HLS media playlist; it ends with `EXT-X-ENDLIST` once the range is complete."""
    session = await context.media.sessions.check(token, SessionKind.PLAYBACK)
    line = await line_of(session, context)
    settled_us = session.span[1] + SETTLED_US
    return Response(
        hls.playlist(
            line,
            ended=context.now_us() >= settled_us or _complete(line),
            grows=session.opened_at_us < settled_us,
        ),
        media_type="application/vnd.apple.mpegurl",
        headers={"Cache-Control": "no-store"},
    )


def _complete(line: Timeline) -> bool:
    """Whether the media already reaches the end of the range."""
    return bool(line.pieces) and line.pieces[-1].end_us >= line.end_us


@media_routes(
    router,
    "/segments/{segment_id}.mp4",
    Action.PLAYBACK_OPEN,
    "Bytes of a segment that a playlist names",
)
async def segment_bytes(
    token: Token,
    segment_id: SegmentId,
    request: Request,
    context: Context,
    shift: Annotated[int, Query(ge=-MAX_SHIFT, le=MAX_SHIFT)] = 0,
) -> Response:
    """One byte range of a stored segment, as recorded; with `shift` its decode times are moved by
    so many ticks. Only what the session's range needs is served: the init section and the fragments
    from the key frame before it to its end."""
    session = await context.media.sessions.check(token, SessionKind.PLAYBACK)
    footage = context.media.footage
    recorded = await footage.find(
        session.asked.camera_id, segment_id, *session.span, session.actor.id
    )
    check_open(recorded)
    etag = f'"{segment_id}{shift or ""}"'
    if (answer := unchanged(request, etag)) is not None:
        return answer
    shown = shown_of(recorded, session)
    piece = permitted(recorded, shown, etag, request)
    total = None if recorded.growing else recorded.segment.size_bytes
    headers = {**byte_ranges.headers(piece, total), "ETag": etag}
    if request.method == "HEAD":
        return head_of(piece, headers)
    if shift:
        moved = _moved(footage, recorded, shown, piece, shift)
        pieces: AsyncIterator[bytes] = await begun(moved)
    else:
        pieces = await footage.open(recorded, piece.offset, piece.size)
    body = context.media.counted(session, pieces, piece.offset, lambda a, b: _span(shown, a, b))
    return MediaStream(body, status_code=status_of(piece), headers=headers, media_type=MP4)


def _moved(
    footage: Footage, recorded: Recorded, shown: tuple[Fragment, ...], piece: Slice, shift: int
) -> AsyncGenerator[bytes, None]:
    """The slice with the decode time of each fragment moved."""
    patch = partial(fmp4.rebase_tfdt, delta=shift)
    placed = (Placed(each.offset, recorded, each, patch) for each in shown)

    async def head() -> AsyncIterator[bytes]:
        if piece.offset < recorded.segment.init_size:
            yield await footage.read(recorded, 0, recorded.segment.init_size)

    return rebased.stream(footage, head(), placed, piece.offset, piece.end)


def shown_of(recorded: Recorded, session: MediaSession) -> tuple[Fragment, ...]:
    """The fragments of the segment that the session's range needs."""
    first, last = window(recorded.segment.fragments, session.span)
    return recorded.segment.fragments[first:last]


def permitted(
    recorded: Recorded, shown: tuple[Fragment, ...], etag: str, request: Request
) -> Slice:
    """The slice of the file to send: what was asked, within what the session's range needs."""
    segment = recorded.segment
    total = segment.fragments[-1].offset + segment.fragments[-1].size if segment.fragments else 0
    total = max(total, 0 if recorded.growing else segment.size_bytes)
    header = byte_ranges.wanted(etag, request.headers.get("if-range"), request.headers.get("range"))
    asked = byte_ranges.parse(header, total)
    allowed: list[Interval] = [(0, segment.init_size)]
    if shown:
        first, last = shown[0].offset, shown[-1].offset + shown[-1].size
        allowed = [(0, last)] if first <= segment.init_size else [*allowed, (first, last)]
    for start, end in allowed:
        if start <= asked.offset < end:
            if not asked.partial and end < total:
                break
            return Slice(asked.offset, min(asked.end, end) - asked.offset, asked.partial)
    raise LamppostError(
        Kind.FORBIDDEN,
        "These bytes lie outside the session's range.",
        fix="Ask for the byte ranges that the playlist names.",
    )


def _span(shown: tuple[Fragment, ...], first: int, last: int) -> Interval | None:
    """Which instants the bytes [first, last) of the file show."""
    touched = [each for each in shown if each.offset < last and first < each.offset + each.size]
    return (touched[0].start_us, touched[-1].end_us) if touched else None


@router.delete(
    "/v1/media/{token}",
    status_code=204,
    summary="Close a media session",
    dependencies=[Depends(MediaToken(Action.PLAYBACK_OPEN))],
)
async def close_session(token: Token, context: Context) -> None:
    """End the session now; what was delivered is recorded."""
    session = await context.media.sessions.check(token, *SessionKind)
    await context.media.sessions.close(session.id)
