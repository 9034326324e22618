"""Server-sent events out of a topic, resumable (WHATWG HTML, "Server-sent events").

The id of each event, and of the stream's first line, is the position in every partition of the bus,
so a client that comes back with `Last-Event-ID`, to this process or another, gets what it missed,
as long as the topic keeps it (24 h). A stream lasts 15 minutes at most; then the client comes back
by itself and its rights are judged anew.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from starlette.responses import StreamingResponse

from services.api.context import ApiContext
from shared.bus import Partition, Record
from shared.clock import SECOND_US
from shared.errors import Kind, LamppostError

MAX_STREAMS = 100
MAX_STREAM_US = 900 * SECOND_US
KEEP_ALIVE_US = 15 * SECOND_US
POLL_S = 0.5
"""How long a poll waits for the first record; one that comes is given at once."""
_POSITIONS = re.compile(r"^\d{1,4}-\d{1,18}(?:\.\d{1,4}-\d{1,18}){0,511}\Z")
Positions = dict[Partition, int]
Shown = tuple[str, bytes]
"""An event's name and its JSON."""
ToEvents = Callable[[Record], AsyncIterator[Shown]]


def write_positions(positions: Positions) -> str:
    """Next offset of each partition, as an event id: `0-12.3-5`."""
    return ".".join(f"{number}-{offset}" for (_, number), offset in sorted(positions.items()))


def read_positions(topic: str, event_id: str) -> Positions:
    """The positions of an event id; INVALID for any other text."""
    if not _POSITIONS.match(event_id):
        raise LamppostError(
            Kind.INVALID, "Last-Event-ID is not one of this stream.", fix="Start without it."
        )
    pairs = (part.split("-") for part in event_id.split("."))
    return {(topic, int(number)): int(offset) for number, offset in pairs}


def frame(name: str, data: bytes, event_id: str = "") -> bytes:
    """One event on the wire."""
    head = f"id: {event_id}\n" if event_id else ""
    return f"{head}event: {name}\ndata: ".encode() + data + b"\n\n"


async def stream(
    context: ApiContext,
    topic: str,
    positions: Positions | None,
    to_events: ToEvents,
    snapshot: Callable[[], AsyncIterator[Shown]] | None = None,
) -> AsyncGenerator[bytes, None]:
    """The bytes of one stream until the client goes, the api stops, or its time is over. `snapshot`
    is what a client gets first that begins."""
    clock = context.clock
    deadline_us = clock.monotonic_us() + MAX_STREAM_US
    # An id names every partition there was. One it does not name is new: nothing of it was seen.
    consumer = await context.platform.bus.consumer(
        [topic], start="earliest" if positions else "latest", positions=positions
    )
    try:
        where = dict(consumer.positions)
        yield f"retry: 2000\nid: {write_positions(where)}\n\n".encode()
        if positions is None and snapshot is not None:
            async for name, data in snapshot():
                yield frame(name, data)
        spoken_us = clock.monotonic_us()
        while not context.stop.is_set and clock.monotonic_us() < deadline_us:
            for record in await consumer.poll(timeout_s=POLL_S):
                where[(record.topic, record.partition)] = record.offset + 1
                async for name, data in to_events(record):
                    spoken_us = clock.monotonic_us()
                    yield frame(name, data, write_positions(where))
            if clock.monotonic_us() - spoken_us > KEEP_ALIVE_US:
                spoken_us = clock.monotonic_us()
                yield f"id: {write_positions(where)}\n: still here\n\n".encode()
    finally:
        await consumer.close()


def check_room(context: ApiContext) -> None:
    """LIMITED when so many streams are open that no other is."""
    if context.streams >= MAX_STREAMS:
        raise LamppostError(
            Kind.LIMITED, f"{MAX_STREAMS} event streams are open.", fix="Try again later."
        )


def reply(context: ApiContext, pieces: AsyncGenerator[bytes, None]) -> StreamingResponse:
    """The answer that sends a stream, counted while it is open."""
    return StreamingResponse(_counted(context, pieces), media_type="text/event-stream")


async def _counted(
    context: ApiContext, pieces: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    context.streams += 1
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece
    finally:
        context.streams -= 1
