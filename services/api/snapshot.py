"""A camera's picture at a time, as JPEG; `X-Lamppost-Capture-Time` says when it was really taken.

Masks need nothing here: what a camera masks was masked before it was recorded
(docs/architecture.md, "Masks").
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from services.api import media, problems, times
from services.api.access import Action
from services.api.deps import Granted, Requires, WhyQuery
from services.api.models import CameraId, TimeText
from services.api.picture import MAX_BYTES, Picture
from services.api.timeline import Piece
from shared import civil, metrics
from shared.clock import SECOND_US
from shared.errors import Kind, LamppostError

router = APIRouter(tags=["playback"], responses=problems.RESPONSES)

CAPTURE_HEADER = "X-Lamppost-Capture-Time"
LOOK_US = 2 * SECOND_US
"""How far around the time asked a picture may lie."""


@router.get(
    "/v1/cameras/{camera_id}/snapshot",
    summary="The picture of a camera at a time",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}, "description": "The picture."}},
)
async def snapshot(
    camera_id: CameraId,
    time: Annotated[TimeText, Query()],
    why: WhyQuery,
    granted: Annotated[Granted, Depends(Requires(Action.SNAPSHOT_READ))],
) -> Response:
    """The last picture captured at or before `time` (at most 2 s away). Audited first."""
    context = granted.context
    camera = await granted.camera(camera_id, why)
    at_us = times.instant(time, context.zone)
    line = await context.media.footage.timeline(
        camera.id, at_us - LOOK_US, at_us + LOOK_US, granted.principal.id
    )
    try:
        media.check_viewable(line)
        picture = await _picture(context.media, _nearest(line.pieces, at_us), at_us)
    except LamppostError as error:
        await granted.record(
            resource=f"camera/{camera.id}",
            camera_ids=(camera.id,),
            start_us=at_us,
            end_us=at_us + 1,
            why=why,
            result=error.kind.value,
        )
        raise
    await granted.record(
        resource=f"camera/{camera.id}",
        camera_ids=(camera.id,),
        start_us=picture.captured_us,
        end_us=picture.captured_us + 1,
        why=why,
        detail={"asked_us": at_us, "delivered_bytes": len(picture.jpeg)},
    )
    metrics.MEDIA_BYTES.labels("snapshot").inc(len(picture.jpeg))
    return Response(
        picture.jpeg,
        media_type="image/jpeg",
        headers={
            CAPTURE_HEADER: civil.rfc3339(picture.captured_us, context.zone),
            "Cache-Control": "no-store",
        },
    )


def _nearest(pieces: tuple[Piece, ...], at_us: int) -> Piece:
    """The piece that shows the time, else the last before it, else the first after it."""
    before = [piece for piece in pieces if piece.start_us <= at_us]
    return before[-1] if before else pieces[0]


async def _picture(parts: media.Media, piece: Piece, at_us: int) -> Picture:
    """Read the GOP that holds the time, and decode it."""
    keys = [i for i, each in enumerate(piece.fragments) if each.key and each.start_us <= at_us]
    first = keys[-1] if keys else 0
    later = (i for i, each in enumerate(piece.fragments) if i > first and each.start_us > at_us)
    fragments = piece.fragments[first : next(later, len(piece.fragments))]
    segment = piece.source.segment
    offset = fragments[0].offset
    size = fragments[-1].offset + fragments[-1].size - offset
    if size > MAX_BYTES:
        raise LamppostError(
            Kind.TOO_LARGE, "The group of pictures is too long to decode.", fix="Play it instead."
        )
    init = await parts.footage.read(piece.source, 0, segment.init_size)
    body = await parts.footage.read(piece.source, offset, size)
    return await parts.pictures.decode(init, fragments, body, at_us, segment.timescale)
