"""MP4 clips of any range, without re-encoding: one file for each gap-free run.

A clip starts at the key frame before the range and says the real range in headers and description.
While it is sent a system hold keeps what it is made of (edge case 18 of docs/retention.md).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path
from starlette.requests import Request
from starlette.responses import Response

from services.api import byte_ranges, clip_file, holds, problems, rebased, times
from services.api.access import Action
from services.api.byte_ranges import Slice
from services.api.clip_file import ClipFile
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
from services.api.timeline import Timeline
from shared import civil, retention
from shared.clock import SECOND_US
from shared.errors import Kind, LamppostError

router = APIRouter(tags=["clips"], responses=problems.RESPONSES)

MAX_PARTS = 1_000
START_HEADER = "X-Lamppost-Start"
END_HEADER = "X-Lamppost-End"


class PartReply(Reply):
    """One file. It starts at the key frame before: `start` and `end` are what it really shows."""

    number: int
    url: str
    start: str
    end: str
    duration_s: float
    size_bytes: int
    codec: str
    width: int
    height: int


class ClipReply(Reply):
    """An opened clip session and its files."""

    record: int
    camera: str
    start: str
    end: str
    expires_at: str
    token: str
    url: str
    close_url: str
    parts: list[PartReply]
    holes: list[HoleReply]


@router.post("/v1/clip-sessions", status_code=201, summary="Open a clip session")
async def open_clip(
    body: RangeBody,
    granted: Annotated[Granted, Depends(Requires(Action.CLIP_OPEN))],
) -> ClipReply:
    """Make MP4 clips of a camera's range: a file for each run without a gap or a change of picture
    size. Nothing is re-encoded; each file's real range is named."""
    context = granted.context
    camera = await granted.camera(body.camera, body.why)
    longest = round(context.settings.api.max_clip_s * SECOND_US)
    span = times.interval(body.start, body.end, context.zone, max_us=longest)
    if span[1] > context.now_us():
        raise LamppostError(
            Kind.INVALID, "The range is not over yet.", fix="Ask for an end in the past."
        )
    token, session, line = await open_range(granted, SessionKind.CLIP, camera, span, body.why)
    return _described(token, session, line, context)


@router.get(
    "/v1/media/{token}/clips",
    summary="The files of a clip session",
    dependencies=[Depends(MediaToken(Action.CLIP_OPEN))],
)
async def describe(token: Token, context: Context) -> ClipReply:
    """The session's files as they can be had now."""
    session = await context.media.sessions.check(token, SessionKind.CLIP)
    return _described(token, session, await line_of(session, context), context)


def _described(token: str, session: MediaSession, line: Timeline, context: Context) -> ClipReply:
    start, end = session.span
    return ClipReply(
        record=session.audit_id,
        camera=session.asked.camera_id,
        start=times.text(start, context.zone),
        end=times.text(end, context.zone),
        expires_at=times.text(session.expires_at_us, context.zone),
        token=token,
        url=f"/v1/media/{token}/clips",
        close_url=f"/v1/media/{token}",
        parts=[
            _part(number, clip, token, context) for number, clip in enumerate(_clips(line), start=1)
        ],
        holes=holes_of(line, context),
    )


def _clips(line: Timeline) -> list[ClipFile]:
    return [clip_file.layout(run) for run in line.runs()[:MAX_PARTS]]


def _part(number: int, clip: ClipFile, token: str, context: Context) -> PartReply:
    segment = clip.pieces[0].source.segment
    return PartReply(
        number=number,
        url=f"/v1/media/{token}/clips/{number}.mp4",
        start=times.text(clip.media[0], context.zone),
        end=times.text(clip.media[1], context.zone),
        duration_s=clip.duration_us / SECOND_US,
        size_bytes=clip.size,
        codec=segment.codec_string or segment.codec.value,
        width=segment.width,
        height=segment.height,
    )


@media_routes(router, "/clips/{number}.mp4", Action.CLIP_OPEN, "One file of a clip session")
async def download(
    token: Token,
    number: Annotated[str, Path(max_length=64, examples=["1"], description="A part's number.")],
    request: Request,
    context: Context,
) -> Response:
    """The file, or one byte range of it. `X-Lamppost-Start` and `-End` say what it really shows."""
    session = await context.media.sessions.check(token, SessionKind.CLIP)
    line = await line_of(session, context)
    clips = _clips(line)
    # Read by hand: a wrong number is told only to who has the token.
    part = int(number) if number.isascii() and number.isdecimal() else 0
    if not 1 <= part <= len(clips):
        raise LamppostError(
            Kind.NOT_FOUND,
            f"The clip has {len(clips)} parts now.",
            fix="Read the description again.",
        )
    clip = clips[part - 1]
    if (answer := unchanged(request, clip.etag)) is not None:
        return answer
    wanted = byte_ranges.wanted(
        clip.etag, request.headers.get("if-range"), request.headers.get("range")
    )
    piece = byte_ranges.parse(wanted, clip.size)
    headers = _headers(session, clip, part, piece)
    if request.method == "HEAD":
        return head_of(piece, headers)
    # The first bytes are read, and the hold is placed, while a failure can still be answered.
    sent = await begun(_sent(context, session, clip, piece))
    body = context.media.counted(session, sent, piece.offset, clip.span)
    return MediaStream(body, status_code=status_of(piece), headers=headers, media_type=MP4)


def _headers(session: MediaSession, clip: ClipFile, number: int, piece: Slice) -> dict[str, str]:
    stamp = civil.to_datetime(clip.media[0]).strftime("%Y%m%dT%H%M%SZ")
    name = f"{session.asked.camera_id}-{stamp}-{number}.mp4"
    return {
        **byte_ranges.headers(piece, clip.size),
        "ETag": clip.etag,
        START_HEADER: civil.rfc3339(clip.media[0]),
        END_HEADER: civil.rfc3339(clip.media[1]),
        "Content-Disposition": f'inline; filename="{name}"',
    }


async def _sent(
    context: Context, session: MediaSession, clip: ClipFile, piece: Slice
) -> AsyncGenerator[bytes, None]:
    """The file's bytes, under a system hold where they would expire while they are sent."""
    footage = context.media.footage
    if not await footage.expires_within(clip.pieces, retention.SYSTEM_HOLD_MAX_US):
        async for data in _bytes(footage, clip, piece):
            yield data
        return
    camera = [session.asked.camera_id]
    async with holds.sending(context.platform, session.actor, camera, *clip.media):
        # A purge that claimed before the hold has won: ask again, now that none can any more.
        for held in clip.pieces:
            check_open(
                await footage.find(camera[0], held.source.segment.id, *clip.media, session.actor.id)
            )
        async for data in _bytes(footage, clip, piece):
            yield data


def _bytes(footage: Footage, clip: ClipFile, piece: Slice) -> AsyncGenerator[bytes, None]:
    """The file's bytes [offset, end), a few hundred kilobytes at a time."""
    placed = (
        Placed(
            entry.offset,
            entry.source,
            entry.fragment,
            partial(clip_file.patched, clip=clip, entry=entry),
        )
        for entry in clip.reads(piece.offset, piece.end)
    )
    return rebased.stream(footage, _head(footage, clip, piece), placed, piece.offset, piece.end)


async def _head(footage: Footage, clip: ClipFile, piece: Slice) -> AsyncIterator[bytes]:
    """Init section and index, where the slice needs them."""
    if piece.offset < clip.init_size + len(clip.sidx):
        yield await footage.read(clip.pieces[0].source, 0, clip.init_size) + clip.sidx
