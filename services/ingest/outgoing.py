"""What goes to the bus: bounded queues between the media path and a bus that may be slow or away.

Frames: the oldest goes first, counted. Statuses: kept until the bus takes them; past the limit the
oldest goes, counted, since each is repeated at the next interval anyway. Nothing here ever makes
the media path wait. See docs/architecture.md, "ingest".
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable

from services.ingest.media import FrameSampled
from shared import civil, ids, log, metrics
from shared.bus import Bus, Message
from shared.clock import Clock
from shared.errors import LamppostError
from shared.messages import (
    CAMERA_STATUS,
    FRAMES,
    RecorderStatus,
    StatusChanged,
    cloud_headers,
    encode,
)
from shared.runtime import Backoff, Stop

MAX_FRAMES = 96
MAX_STATUSES = 4_096
FRAME_BATCH = 32
STATUS_BATCH = 500

FrameDone = Callable[[str, bool], None]
"""Called with the camera and whether its frame was dropped."""


class Outgoing:
    """Two queues and the two loops that empty them. Belongs to the event loop."""

    def __init__(self, bus: Bus, clock: Clock, recorder: str, frame_done: FrameDone) -> None:
        self._bus = bus
        self._clock = clock
        self._source = f"lamppost/ingest/{recorder}"
        self._frame_done = frame_done
        self._frames: deque[FrameSampled] = deque()
        self._statuses: deque[Message] = deque()
        self._frames_wake = asyncio.Event()
        self._statuses_wake = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._log = log.get("ingest.bus")
        self._limiter = log.Limiter(clock)

    def frame(self, event: FrameSampled) -> None:
        """Queue a frame, dropping the oldest when the queue is full."""
        if len(event.jpeg) > FRAMES.max_bytes:
            self._dropped(event, "too_large")
            return
        if len(self._frames) >= MAX_FRAMES:
            self._dropped(self._frames.popleft(), "bus_slow")
        self._frames.append(event)
        self._frames_wake.set()

    def status(self, event: StatusChanged | RecorderStatus) -> None:
        """Queue a status; its id is fixed here, so that a repeated send is recognised."""
        kind = str(event.__struct_config__.tag)
        key = event.camera_id if isinstance(event, StatusChanged) else event.recorder
        headers = cloud_headers(kind, self._source, civil.rfc3339(event.at_us))
        if len(self._statuses) >= MAX_STATUSES:
            self._statuses.popleft()
            metrics.BUS_DROPPED.labels(CAMERA_STATUS.name).inc()
        self._statuses.append(Message(CAMERA_STATUS.name, key, encode(event), headers))
        self._statuses_wake.set()

    async def send_frames(self, stop: Stop) -> None:
        """Publish frames until the stop. A bus that refuses loses them: they are old by then."""
        while not stop.is_set:
            if not await _next(self._frames_wake, stop, bool(self._frames)):
                continue
            batch = [self._frames.popleft() for _ in range(min(FRAME_BATCH, len(self._frames)))]
            try:
                await self._bus.publish([self._frame_message(event) for event in batch])
            except LamppostError as error:
                for event in batch:
                    self._dropped(event, "bus_away")
                self._say("frames not published", error)
                continue
            for event in batch:
                metrics.FRAMES_SAMPLED.inc()
                self._frame_done(event.meta.camera_id, False)

    async def send_statuses(self, stop: Stop) -> None:
        """Publish statuses until the stop, again and again while the bus is away."""
        backoff = Backoff()
        while not stop.is_set:
            if not await _next(self._statuses_wake, stop, bool(self._statuses)):
                continue
            try:
                await self.flush()
                backoff.reset()
            except LamppostError as error:
                self._say("statuses wait", error)
                await stop.sleep(self._clock, backoff.next_s())

    async def flush(self) -> None:
        """Publish the statuses that wait, in order."""
        async with self._flushing:
            while self._statuses:
                batch = list(itertools.islice(self._statuses, STATUS_BATCH))
                await self._bus.publish(batch)
                # Only now: a refusal leaves them queued. The queue may have lost its front.
                for message in batch:
                    if self._statuses and self._statuses[0] is message:
                        self._statuses.popleft()

    def _frame_message(self, event: FrameSampled) -> Message:
        headers = cloud_headers(
            "frame.sampled",
            self._source,
            civil.rfc3339(event.meta.capture_us),
            # The same frame has the same id, whoever sends it again.
            ids.derived_id(event.meta.camera_id, event.meta.epoch, event.meta.sequence),
            "image/jpeg",
        )
        return Message(
            FRAMES.name, event.meta.camera_id, event.jpeg, headers + event.meta.headers()
        )

    def _dropped(self, event: FrameSampled, reason: str) -> None:
        metrics.FRAMES_DROPPED.labels(reason).inc()
        self._frame_done(event.meta.camera_id, True)

    def _say(self, what: str, error: LamppostError) -> None:
        if (held := self._limiter.allow(what)) is not None:
            self._log.warning(what, kind=error.kind.value, cause=str(error), withheld=held)


async def _next(wake: asyncio.Event, stop: Stop, ready: bool) -> bool:
    """Whether there is work: at once when `ready`, else after `wake` or the stop."""
    if ready:
        return True
    wake.clear()
    waits = {asyncio.ensure_future(wake.wait()), asyncio.ensure_future(stop.wait())}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    return wake.is_set()
