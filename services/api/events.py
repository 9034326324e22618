"""Camera-status events as server-sent events: each camera's state, gaps, recorders, detectors.

How a stream is resumed and bounded: services/api/event_stream.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Header
from starlette.responses import StreamingResponse

from services.api import event_stream, problems, queries
from services.api.access import Action
from services.api.context import ApiContext
from services.api.deps import Granted, Requires
from services.api.event_stream import Positions, Shown
from services.api.models_cameras import status_out
from shared import civil, metrics
from shared.bus import Record
from shared.errors import LamppostError
from shared.messages import (
    CAMERA_STATUS,
    DetectorStatus,
    GapRecorded,
    RecorderStatus,
    StatusChanged,
    StatusEvent,
    decode,
)

router = APIRouter(tags=["events"], responses=problems.RESPONSES)


class Viewer:
    """Which events a person may see: those of cameras in scope; recorders' and detectors' own
    only unlimited."""

    def __init__(self, granted: Granted) -> None:
        self._granted = granted
        self._known: dict[str, bool] = {}

    async def sees(self, event: StatusEvent) -> bool:
        subject = self._granted.principal.subject
        if subject.districts is None and subject.camera_ids is None:
            return True
        if isinstance(event, RecorderStatus | DetectorStatus):
            return False
        if event.camera_id not in self._known:
            async with self._granted.context.platform.database.read() as connection:
                camera = await queries.camera(connection, event.camera_id)
            seen = camera is not None and self._granted.sees(camera.id, camera.district)
            self._known[event.camera_id] = seen
        return self._known[event.camera_id]


def data_of(event: StatusEvent, context: ApiContext) -> tuple[str, bytes]:
    """Event name and JSON; addresses of processes stay inside."""
    zone = context.zone
    if isinstance(event, StatusChanged):
        return "camera.status", status_out(event, context).model_dump_json().encode()
    if isinstance(event, GapRecorded):
        body: dict[str, object] = {
            "gap_id": event.gap_id,
            "camera_id": event.camera_id,
            "start": civil.rfc3339(event.start_us, zone),
            "end": civil.rfc3339(event.end_us, zone),
            "reason": event.reason.value,
            "detail": event.detail,
        }
        return "camera.gap", msgspec.json.encode(body)
    if isinstance(event, DetectorStatus):
        body = {"at": civil.rfc3339(event.at_us, zone)}
        for name in ("worker", "model", "precision", "cameras", "analysed", "skipped", "lag_s"):
            body[name] = getattr(event, name)
        body |= {"detail": event.detail, "stopped": event.stopped}
        return "detector.status", msgspec.json.encode(body)
    body = {
        "recorder": event.recorder,
        "at": civil.rfc3339(event.at_us, zone),
        "cameras": event.cameras,
        "spool_items": event.spool_items,
        "spool_bytes": event.spool_bytes,
        "free_bytes": event.free_bytes,
        "stopped": event.stopped,
    }
    return "recorder.status", msgspec.json.encode(body)


def stream(granted: Granted, positions: Positions | None) -> AsyncGenerator[bytes, None]:
    """The bytes of one stream."""
    context = granted.context
    viewer = Viewer(granted)

    async def to_events(record: Record) -> AsyncIterator[Shown]:
        try:
            event: StatusEvent = decode(record.value, StatusEvent)  # type: ignore[arg-type]
        except LamppostError:
            metrics.BUS_POISON.labels(record.topic).inc()
            return
        if await viewer.sees(event):
            yield data_of(event, context)

    async def snapshot() -> AsyncIterator[Shown]:
        """What is known now, for a client that begins."""
        for state in context.recorders.states().values():
            if not state.stale and await viewer.sees(state.status):
                yield data_of(state.status, context)

    return event_stream.stream(context, CAMERA_STATUS.name, positions, to_events, snapshot)


@router.get(
    "/v1/events/camera-status",
    summary="Follow camera states and gaps",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def camera_status(
    granted: Annotated[Granted, Depends(Requires(Action.CAMERA_STATUS))],
    last_event_id: Annotated[str | None, Header(max_length=12_000)] = None,
) -> StreamingResponse:
    """Server-sent events `camera.status`, `camera.gap`, `recorder.status`, `detector.status`.
    Without `Last-Event-ID` the present state of each camera comes first."""
    context = granted.context
    positions = None
    if last_event_id:
        positions = event_stream.read_positions(CAMERA_STATUS.name, last_event_id)
    event_stream.check_room(context)
    return event_stream.reply(context, stream(granted, positions))
