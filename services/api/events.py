"""Camera-status events as server-sent events, resumable (RFC: WHATWG HTML, "Server-sent events").

The id of each event, and of the stream's first line, is the position in every partition of the bus,
so a client that comes back with `Last-Event-ID`, to this process or another, gets what it missed,
as long as the topic keeps it (24 h). A stream lasts 15 minutes
at most; then the client comes back by itself and its rights are judged anew.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Header
from starlette.responses import StreamingResponse

from services.api import problems, queries
from services.api.access import Action
from services.api.context import ApiContext
from services.api.deps import Granted, Requires
from services.api.models_cameras import status_out
from shared import civil, metrics
from shared.bus import Partition, Record
from shared.clock import SECOND_US
from shared.errors import Kind, LamppostError
from shared.messages import (
    CAMERA_STATUS,
    DetectorStatus,
    GapRecorded,
    RecorderStatus,
    StatusChanged,
    StatusEvent,
    decode,
)

MAX_STREAMS = 100
MAX_STREAM_US = 900 * SECOND_US
KEEP_ALIVE_US = 15 * SECOND_US
POLL_S = 0.5
_POSITIONS = re.compile(r"^\d{1,4}-\d{1,18}(?:\.\d{1,4}-\d{1,18}){0,511}\Z")
router = APIRouter(tags=["events"], responses=problems.RESPONSES)


def write_positions(positions: dict[Partition, int]) -> str:
    """Next offset of each partition, as an event id: `0-12.3-5`."""
    return ".".join(f"{number}-{offset}" for (_, number), offset in sorted(positions.items()))


def read_positions(event_id: str) -> dict[Partition, int]:
    """The positions of an event id; INVALID for any other text."""
    if not _POSITIONS.match(event_id):
        raise LamppostError(
            Kind.INVALID, "Last-Event-ID is not one of this stream.", fix="Start without it."
        )
    pairs = (part.split("-") for part in event_id.split("."))
    return {(CAMERA_STATUS.name, int(number)): int(offset) for number, offset in pairs}


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
    """Event name and JSON; recorder addresses stay inside."""
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


def frame(name: str, data: bytes, event_id: str = "") -> bytes:
    """One event on the wire."""
    head = f"id: {event_id}\n" if event_id else ""
    return f"{head}event: {name}\ndata: ".encode() + data + b"\n\n"


async def _frames(
    records: Iterable[Record],
    positions: dict[Partition, int],
    viewer: Viewer,
    context: ApiContext,
) -> AsyncIterator[bytes]:
    for record in records:
        positions[(record.topic, record.partition)] = record.offset + 1
        try:
            event: StatusEvent = decode(record.value, StatusEvent)  # type: ignore[arg-type]
        except LamppostError:
            metrics.BUS_POISON.labels(record.topic).inc()
            continue
        if await viewer.sees(event):
            name, data = data_of(event, context)
            yield frame(name, data, write_positions(positions))


async def _snapshot(viewer: Viewer, context: ApiContext) -> AsyncIterator[bytes]:
    """What is known now, for a client that begins."""
    for state in context.recorders.states().values():
        if not state.stale and await viewer.sees(state.status):
            name, data = data_of(state.status, context)
            yield frame(name, data)


async def stream(granted: Granted, positions: dict[Partition, int] | None) -> AsyncIterator[bytes]:
    """The bytes of one stream until the client goes, the api stops, or its time is over."""
    context = granted.context
    viewer = Viewer(granted)
    clock = context.clock
    deadline_us = clock.monotonic_us() + MAX_STREAM_US
    # An id names every partition there was. One it does not name is new: nothing of it was seen.
    consumer = await context.platform.bus.consumer(
        [CAMERA_STATUS.name], start="earliest" if positions else "latest", positions=positions
    )
    try:
        where = dict(consumer.positions)
        yield f"retry: 2000\nid: {write_positions(where)}\n\n".encode()
        if positions is None:
            async for piece in _snapshot(viewer, context):
                yield piece
        spoken_us = clock.monotonic_us()
        while not context.stop.is_set and clock.monotonic_us() < deadline_us:
            records = await consumer.poll(timeout_s=POLL_S)
            async for piece in _frames(records, where, viewer, context):
                spoken_us = clock.monotonic_us()
                yield piece
            if clock.monotonic_us() - spoken_us > KEEP_ALIVE_US:
                spoken_us = clock.monotonic_us()
                yield f"id: {write_positions(where)}\n: still here\n\n".encode()
    finally:
        await consumer.close()


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
    positions = read_positions(last_event_id) if last_event_id else None
    if context.streams >= MAX_STREAMS:
        raise LamppostError(
            Kind.LIMITED, f"{MAX_STREAMS} event streams are open.", fix="Try again later."
        )
    return StreamingResponse(_counted(granted, positions), media_type="text/event-stream")


async def _counted(
    granted: Granted, positions: dict[Partition, int] | None
) -> AsyncIterator[bytes]:
    context = granted.context
    context.streams += 1
    pieces = stream(granted, positions)
    try:
        async for piece in pieces:
            yield piece
    finally:
        context.streams -= 1
        await pieces.aclose()  # type: ignore[attr-defined]
