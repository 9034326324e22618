"""What goes to the bus: bounded queues between the media path and a bus that may be slow or away.

Frames: the oldest goes first, counted. Statuses, and what was passed over: kept until the bus takes
them; past the limit the oldest goes, counted. A status is repeated at the next interval anyway, and
a lost account of frames leaves time that nobody claims to have looked at. Nothing here ever makes
the media path wait. See docs/architecture.md, "ingest".
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable

from services.ingest.media import FrameSampled
from services.ingest.passed_over import unseen
from shared import civil, ids, log, metrics, tracing
from shared.bus import Bus, Message
from shared.clock import SECOND_US, Clock
from shared.errors import LamppostError
from shared.messages import (
    CAMERA_STATUS,
    DETECTIONS,
    FRAMES,
    FramesPassedOver,
    RecorderStatus,
    StatusChanged,
    cloud_headers,
    encode,
)
from shared.runtime import Backoff, Stop

MAX_FRAMES = 96
MAX_STATUSES = 4_096
MAX_ACCOUNTS = 4_096
"""Of frames passed over: half an hour of 24 quiet cameras."""
FRAME_BATCH = 32
KEPT_BATCH = 500

FrameDone = Callable[[str, bool], None]
"""Called with the camera and whether its frame was dropped."""


class Kept:
    """Messages that wait, in order, until the bus takes them. Belongs to the event loop."""

    def __init__(self, bus: Bus, most: int, dropped: Callable[[], None]) -> None:
        self._bus, self._most, self._dropped = bus, most, dropped
        self._waiting: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()

    def add(self, message: Message) -> None:
        """Queue it; past the limit the oldest goes."""
        if len(self._waiting) >= self._most:
            self._waiting.popleft()
            self._dropped()
        self._waiting.append(message)
        self._wake.set()

    async def next(self, stop: Stop) -> bool:
        """Whether there is something to send; waits for it or the stop."""
        return await _next(self._wake, stop, bool(self._waiting))

    async def flush(self) -> None:
        """Publish what waits, in order. Raises LamppostError and keeps it when the bus refuses."""
        async with self._flushing:
            while self._waiting:
                batch = list(itertools.islice(self._waiting, KEPT_BATCH))
                await self._bus.publish(batch)
                # Only now: a refusal leaves them queued. The queue may have lost its front.
                for message in batch:
                    if self._waiting and self._waiting[0] is message:
                        self._waiting.popleft()


class Outgoing:
    """Three queues and the loops that empty them. Belongs to the event loop."""

    def __init__(self, bus: Bus, clock: Clock, recorder: str, frame_done: FrameDone) -> None:
        self._bus = bus
        self._clock = clock
        self._source = f"lamppost/ingest/{recorder}"
        self._frame_done = frame_done
        self._frames: deque[FrameSampled] = deque()
        self._frames_wake = asyncio.Event()
        status_lost = metrics.BUS_DROPPED.labels(CAMERA_STATUS.name)
        account_lost = metrics.DETECTIONS_DROPPED.labels(DETECTIONS.name)
        self._statuses = Kept(bus, MAX_STATUSES, status_lost.inc)
        self._accounts = Kept(bus, MAX_ACCOUNTS, account_lost.inc)
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
        self._statuses.add(Message(CAMERA_STATUS.name, key, encode(event), headers))

    def passed_over(self, event: FramesPassedOver) -> None:
        """Queue the account of frames that detection will not see; the same run has the same id."""
        metrics.LOOKED_SECONDS.labels(event.reason).inc((event.end_us - event.start_us) / SECOND_US)
        kind = str(event.__struct_config__.tag)
        message_id = ids.derived_id(event.camera_id, event.start_us, event.end_us, event.reason)
        headers = cloud_headers(kind, self._source, civil.rfc3339(event.end_us), message_id)
        self._accounts.add(Message(DETECTIONS.name, event.camera_id, encode(event), headers))

    async def send_frames(self, stop: Stop) -> None:
        """Publish frames until the stop. A bus that refuses loses them: they are old by then."""
        while not stop.is_set:
            if not await _next(self._frames_wake, stop, bool(self._frames)):
                continue
            batch = [self._frames.popleft() for _ in range(min(FRAME_BATCH, len(self._frames)))]
            spans = [_begin(event) for event in batch]
            try:
                await self._bus.publish(list(map(self._frame_message, batch, spans)))
            except LamppostError as error:
                for event in batch:
                    self._dropped(event, "bus_away")
                self._say("frames not published", error)
                continue
            for event, span in zip(batch, spans, strict=True):
                span.end(self._clock.now_us())
                metrics.FRAMES_SAMPLED.inc()
                self._frame_done(event.meta.camera_id, False)

    async def send_statuses(self, stop: Stop) -> None:
        """Publish statuses until the stop, again and again while the bus is away."""
        await self._send(self._statuses, "statuses wait", stop)

    async def send_accounts(self, stop: Stop) -> None:
        """Publish accounts of frames passed over, as statuses."""
        await self._send(self._accounts, "accounts of frames wait", stop)

    async def _send(self, kept: Kept, what: str, stop: Stop) -> None:
        backoff = Backoff()
        while not stop.is_set:
            if not await kept.next(stop):
                continue
            try:
                await kept.flush()
                backoff.reset()
            except LamppostError as error:
                self._say(what, error)
                await stop.sleep(self._clock, backoff.next_s())

    async def flush(self) -> None:
        """Publish the statuses and accounts that wait, each in order."""
        await self._statuses.flush()
        await self._accounts.flush()

    def _frame_message(self, event: FrameSampled, span: tracing.Span) -> Message:
        headers = cloud_headers(
            "frame.sampled",
            self._source,
            civil.rfc3339(event.meta.capture_us),
            # The same frame has the same id, whoever sends it again.
            ids.derived_id(event.meta.camera_id, event.meta.epoch, event.meta.sequence),
            "image/jpeg",
        )
        return Message(
            FRAMES.name,
            event.meta.camera_id,
            event.jpeg,
            headers + event.meta.headers() + span.headers,
        )

    def _dropped(self, event: FrameSampled, reason: str) -> None:
        metrics.FRAMES_DROPPED.labels(reason).inc()
        self._frame_done(event.meta.camera_id, True)
        account = unseen(event.meta, "too_large" if reason == "too_large" else "late")
        if account is not None:
            self.passed_over(account)

    def _say(self, what: str, error: LamppostError) -> None:
        if (held := self._limiter.allow(what)) is not None:
            self._log.warning(what, kind=error.kind.value, cause=str(error), withheld=held)


def _begin(event: FrameSampled) -> tracing.Span:
    """A trace begins with the frame's capture."""
    meta = event.meta
    return tracing.begin("frame", meta.capture_us, camera=meta.camera_id, sequence=meta.sequence)


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
