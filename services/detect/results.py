"""What a worker tells: boxes, runs of passed-over frames, sightings; bounded while the bus is away.

Boxes: the oldest go first, counted. Sightings are whole at each update, so the newest word of each
is enough and nothing is lost by waiting. Runs of passed-over frames are merged. Nothing here makes
the detector wait. docs/architecture.md, "detect".
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from shared import civil, ids, log, metrics
from shared.bus import Bus, Message
from shared.clock import SECOND_US, Clock
from shared.messages import (
    DETECTIONS,
    SIGHTINGS,
    FrameAnalysed,
    FrameMeta,
    FramesPassedOver,
    Headers,
    SightingUpdated,
    Topic,
    cloud_headers,
    encode,
)

MAX_DETECTIONS = 5_000
MAX_SIGHTINGS = 5_000
MAX_THUMBNAIL_BYTES = 16 * 1024 * 1024
MAX_RUN_US = 10 * SECOND_US
BATCH = 500
SLACK_US = 2_000
"""Between two runs that are one: capture times are rounded."""


class _Waiting(NamedTuple):
    message: Message
    capture_us: int | None
    """Of an analysed frame: its age is measured when it is told."""


class Results:
    """Queues in, messages out. Belongs to the event loop; `flush` may be called by two tasks."""

    def __init__(self, bus: Bus, clock: Clock, worker: str) -> None:
        self.lag_s = 0.0
        """Age of the newest result when it was told."""
        self._bus = bus
        self._clock = clock
        self._source = f"lamppost/detect/{worker}"
        self._detections: deque[_Waiting] = deque()
        self._sightings: dict[str, SightingUpdated] = {}
        self._traces: dict[str, Headers] = {}
        """Of sightings that wait, where a traced frame told of them."""
        self._thumbnail_bytes = 0
        self._runs: dict[tuple[str, str], FramesPassedOver] = {}
        self._flushing = asyncio.Lock()
        self.wake = asyncio.Event()
        """Set when there is something to tell."""
        self._log = log.get("detect.results")
        self._limiter = log.Limiter(clock)

    @property
    def waiting(self) -> int:
        """Messages that the bus has not taken yet."""
        return len(self._detections) + len(self._sightings) + len(self._runs)

    def analysed(self, event: FrameAnalysed, trace: Headers = ()) -> None:
        """The boxes of one frame. The same frame has the same event id, whoever looks again."""
        event_id = ids.derived_id(event.camera_id, event.epoch, event.sequence, "analysed")
        self._tell(event, event.capture_us, event_id, trace)

    def passed_over(self, meta: FrameMeta, reason: str) -> None:
        """A frame that was not looked at: into the run it continues, or a new one."""
        start_us = meta.capture_us - max(0, meta.covers_us)
        end_us = max(meta.capture_us, start_us + 1)
        key = (meta.camera_id, reason)
        run = self._runs.get(key)
        if run is not None and not _continues(run, start_us, end_us):
            self._tell_run(key)
            run = None
        self._runs[key] = FramesPassedOver(
            camera_id=meta.camera_id,
            start_us=start_us if run is None else run.start_us,
            end_us=end_us,
            frames=1 if run is None else run.frames + 1,
            reason=reason,
        )

    def sightings(self, updates: Iterable[SightingUpdated], trace: Headers = ()) -> None:
        """Updates in order; one that waits is replaced by the next of its sighting. `trace`: of the
        frame that they follow from; the first that waits keeps it."""
        for update in updates:
            if trace:
                self._traces.setdefault(update.sighting.id, trace)
            before = self._sightings.pop(update.sighting.id, None)
            if before is not None:
                self._thumbnail_bytes -= len(before.thumbnail or b"")
                update = _merged(before, update)
            self._make_room(len(update.thumbnail or b""))
            self._sightings[update.sighting.id] = update
            self._thumbnail_bytes += len(update.thumbnail or b"")
            self.wake.set()

    async def flush(self, *, runs: bool = False) -> None:
        """Tell what waits, with `runs` the passed-over frames too. UNAVAILABLE while the bus is
        away: everything stays queued, within the bounds."""
        if runs:
            for key in list(self._runs):
                self._tell_run(key)
        async with self._flushing:
            self.wake.clear()
            try:
                while self._detections or self._sightings:
                    await self._publish_some()
            except BaseException:
                self.wake.set()
                raise

    async def _publish_some(self) -> None:
        waiting = list(itertools.islice(self._detections, BATCH))
        updates = list(itertools.islice(self._sightings.values(), BATCH))
        messages = [one.message for one in waiting]
        messages += [found for update in updates if (found := self._sighting(update)) is not None]
        await self._bus.publish(messages)
        # Only now: a refusal leaves them queued. Meanwhile the queues may have lost or gained some.
        now_us = self._clock.now_us()
        for one in waiting:
            if self._detections and self._detections[0] is one:
                self._detections.popleft()
            if one.capture_us is not None:
                self.lag_s = max(0.0, (now_us - one.capture_us) / SECOND_US)
                metrics.FRAME_AGE_SECONDS.observe(self.lag_s)
        for update in updates:
            if self._sightings.get(update.sighting.id) is update:
                del self._sightings[update.sighting.id]
                self._traces.pop(update.sighting.id, None)
                self._thumbnail_bytes -= len(update.thumbnail or b"")

    def _tell_run(self, key: tuple[str, str]) -> None:
        run = self._runs.pop(key)
        self._tell(run, None, ids.derived_id(*msgspec.structs.astuple(run)))

    def _tell(
        self,
        event: FrameAnalysed | FramesPassedOver,
        capture_us: int | None,
        event_id: str,
        trace: Headers = (),
    ) -> None:
        message = self._message(DETECTIONS, event.camera_id, event, event_id, trace)
        if len(message.value) > DETECTIONS.max_bytes:
            self._dropped(DETECTIONS, "too large")
            return
        if len(self._detections) >= MAX_DETECTIONS:
            self._detections.popleft()
            self._dropped(DETECTIONS, "the bus is away")
        self._detections.append(_Waiting(message, capture_us))
        self.wake.set()

    def _sighting(self, update: SightingUpdated) -> Message | None:
        """Its message; without the thumbnail, or not at all, when the topic would refuse it."""
        trace = self._traces.get(update.sighting.id, ())
        for told in (update, msgspec.structs.replace(update, thumbnail=None)):
            message = self._message(SIGHTINGS, update.sighting.camera_id, told, ids.new_id(), trace)
            if len(message.value) <= SIGHTINGS.max_bytes:
                return message
        self._dropped(SIGHTINGS, "too large")
        return None

    def _make_room(self, thumbnail_bytes: int) -> None:
        """Thumbnails go first, then what waited longest."""
        if self._thumbnail_bytes + thumbnail_bytes > MAX_THUMBNAIL_BYTES:
            for key, update in self._sightings.items():
                self._sightings[key] = msgspec.structs.replace(update, thumbnail=None)
            self._thumbnail_bytes = 0
        if len(self._sightings) >= MAX_SIGHTINGS:
            oldest = self._sightings.pop(next(iter(self._sightings)))
            self._traces.pop(oldest.sighting.id, None)
            self._thumbnail_bytes -= len(oldest.thumbnail or b"")
            self._dropped(SIGHTINGS, "the bus is away")

    def _message(
        self,
        topic: Topic,
        key: str,
        event: FrameAnalysed | FramesPassedOver | SightingUpdated,
        id_: str,
        trace: Headers = (),
    ) -> Message:
        kind = str(event.__struct_config__.tag)
        at = civil.rfc3339(self._clock.now_us())
        headers = cloud_headers(kind, self._source, at, id_) + trace
        return Message(topic.name, key, encode(event), headers)

    def _dropped(self, topic: Topic, cause: str) -> None:
        metrics.DETECTIONS_DROPPED.labels(topic.name).inc()
        if (held := self._limiter.allow(topic.name)) is not None:
            self._log.warning("result dropped", topic=topic.name, cause=cause, withheld=held)


def _continues(run: FramesPassedOver, start_us: int, end_us: int) -> bool:
    """Whether nothing lies between: a frame that was looked at would."""
    joined = run.end_us - SLACK_US <= start_us <= run.end_us + SLACK_US
    return joined and end_us - run.start_us <= MAX_RUN_US


def _merged(before: SightingUpdated, after: SightingUpdated) -> SightingUpdated:
    """The later word, with what only the earlier one said."""
    thumbnail = before.thumbnail if after.thumbnail is None else after.thumbnail
    return msgspec.structs.replace(after, thumbnail=thumbnail, ended=before.ended or after.ended)
