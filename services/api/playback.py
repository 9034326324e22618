"""Playback of a range of the past, up to seconds ago, as HLS over byte ranges of stored segments.

`POST /v1/playback-sessions` commits the audit record and gives addresses that carry a token; every
request under them is checked against person, camera, range and expiry as they are at that moment
(docs/architecture.md, "Playback and live").
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from services.api import byte_ranges, hls, media, problems, rebased, times
from services.api.access import Action, Why
from services.api.byte_ranges import Slice
from services.api.deps import Context, Granted, Requires, TokenRule
from services.api.footage import IN_DOUBT, Footage
from services.api.media_response import MediaStream
from services.api.media_sessions import Asked, MediaSession, SessionKind
from services.api.models import CameraId, Reply, TimeText, WhyBody, example
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

Token = Annotated[str, Path(min_length=20, max_length=100, description="The session's token.")]
SegmentId = Annotated[str, Path(max_length=64, description="A segment's id.")]


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


class HoleReply(Reply):
    """Seconds of the range with nothing to show, and why."""

    start: str
    end: str
    reason: str


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


def asked_of(
    kind: SessionKind, camera_id: str, span: Interval | None, granted: Granted, why: Why
) -> Asked:
    """What is asked, as the session stores it; call after `granted.camera` allowed it."""
    assert why.purpose is not None
    start, end = span or (None, None)
    return Asked(kind, camera_id, start, end, why.purpose.value, why.case_ref, why.reason)


def holes_of(line: Timeline, context: Context) -> list[HoleReply]:
    """The holes with the site's local times."""
    return [
        HoleReply(
            start=times.text(hole.start_us, context.zone),
            end=times.text(hole.end_us, context.zone),
            reason=hole.reason,
        )
        for hole in line.holes
    ]


async def viewable(
    granted: Granted, asked: Asked, line: Timeline, *, may_be_empty: bool = False
) -> None:
    """Raise, after recording that it was asked, when nothing of the range can be shown."""
    try:
        if not may_be_empty:
            media.check_viewable(line)
    except LamppostError as error:
        sessions = granted.context.media.sessions
        await sessions.refused(granted.principal.actor, asked, error.kind, granted.request_id)
        raise


@router.post("/v1/playback-sessions", status_code=201, summary="Open a playback session")
async def open_playback(
    body: RangeBody,
    granted: Annotated[Granted, Depends(Requires(Action.PLAYBACK_OPEN))],
) -> SessionReply:
    """Play a camera's range in any HLS player: up to 6 h, up to 5 s ago. An `end` up to 15 minutes
    ahead makes a playlist that grows. Holes in the recording are named with their reasons."""
    context = granted.context
    why = Why(body.purpose, body.case_ref, body.reason)
    camera = await granted.camera(body.camera, why)
    span = times.interval(body.start, body.end, context.zone, max_us=media.MAX_PLAYBACK_US)
    now = context.now_us()
    if span[0] > now or span[1] > now + FUTURE_MAX_US:
        raise LamppostError(
            Kind.INVALID, "The range lies ahead.", fix="It may end 15 minutes ahead at most."
        )
    asked = asked_of(SessionKind.PLAYBACK, camera.id, span, granted, why)
    line = await context.media.footage.timeline(camera.id, *span, granted.principal.id)
    await viewable(granted, asked, line, may_be_empty=span[1] > now)
    token, session = await context.media.sessions.open(
        granted.principal.actor, asked, granted.request_id
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


@router.get(
    "/v1/media/{token}/index.m3u8",
    summary="The playlist of a playback session",
    response_class=Response,
    dependencies=[Depends(MediaToken(Action.PLAYBACK_OPEN))],
)
@router.head(
    "/v1/media/{token}/index.m3u8",
    include_in_schema=False,
    dependencies=[Depends(MediaToken(Action.PLAYBACK_OPEN))],
)
async def playlist(token: Token, context: Context) -> Response:
    """An HLS media playlist; it ends with `EXT-X-ENDLIST` once the range is complete."""
    session = await context.media.sessions.check(token, SessionKind.PLAYBACK)
    start, end = session.span
    line = await context.media.footage.timeline(
        session.asked.camera_id, start, end, session.actor.id
    )
    return Response(
        hls.playlist(
            line,
            ended=context.now_us() >= end + SETTLED_US or _complete(line),
            grows=session.opened_at_us < end + SETTLED_US,
        ),
        media_type="application/vnd.apple.mpegurl",
        headers={"Cache-Control": "no-store"},
    )


def _complete(line: Timeline) -> bool:
    """Whether the media already reaches the end of the range."""
    return bool(line.pieces) and line.pieces[-1].end_us >= line.end_us


@router.get(
    "/v1/media/{token}/segments/{segment_id}.mp4",
    summary="Bytes of a segment that a playlist names",
    response_class=Response,
    dependencies=[Depends(MediaToken(Action.PLAYBACK_OPEN))],
)
@router.head(
    "/v1/media/{token}/segments/{segment_id}.mp4",
    include_in_schema=False,
    dependencies=[Depends(MediaToken(Action.PLAYBACK_OPEN))],
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
    if byte_ranges.unchanged(etag, request.headers.get("if-none-match")):
        return Response(status_code=304, headers={"ETag": etag, "Cache-Control": "no-store"})
    shown = shown_of(recorded, session)
    piece = permitted(recorded, shown, etag, request)
    total = None if recorded.growing else recorded.segment.size_bytes
    headers = {**byte_ranges.headers(piece, total), "ETag": etag}
    status = 206 if piece.partial else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type="video/mp4")
    if shift:
        moved = _moved(footage, recorded, shown, piece, shift)
        pieces: AsyncIterator[bytes] = await begun(moved)
    else:
        pieces = await footage.open(recorded, piece.offset, piece.size)
    body = context.media.counted(session, pieces, piece.offset, lambda a, b: _span(shown, a, b))
    return MediaStream(body, status_code=status, headers=headers, media_type="video/mp4")


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


def check_open(recorded: Recorded) -> None:
    """Raise when the viewer may not see the segment now, whatever the playlist said before."""
    if recorded.closed == IN_DOUBT:
        raise LamppostError(Kind.DOUBT, "The clocks disagree, and this footage may have expired.")
    if recorded.closed:
        raise LamppostError(Kind.GONE, "This footage is past its expiry.")


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
