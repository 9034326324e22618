"""The service detect: analysis frames in, boxes and sightings out.

This module reads the topic and says how the worker fares; looking is services/detect/worker.py.
Offsets are committed after everything that follows from a frame was published, so a kill loses no
frame without a trace. Losing a partition ends its cameras' sightings: the next owner begins its
own. See docs/architecture.md, "detect".
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import OrderedDict
from collections.abc import Collection, Sequence

from services.detect.analyst import Analyst, Looked, Parts, product
from services.detect.detector import ModelFacts
from services.detect.endpoint import Endpoint
from services.detect.frame_queue import TOO_OLD, Frame, FrameQueue
from services.detect.progress import Progress
from services.detect.results import Results
from services.detect.worker import Worker
from services.detect.zones_feed import ZonesFeed
from shared import civil, log, metrics, tracing
from shared.bus import Consumer, Message, Partition, Record
from shared.bus.partitioner import partition_of
from shared.clock import SECOND_US, HeldClock
from shared.errors import Kind, LamppostError
from shared.messages import (
    CAMERA_STATUS,
    FRAMES,
    DetectorStatus,
    FrameAnalysed,
    FrameMeta,
    Headers,
    SightingUpdated,
    cloud_headers,
    encode,
)
from shared.platform import Platform
from shared.probes import Missing
from shared.runtime import Backoff, Stop, loop
from shared.settings import Settings
from shared.version import version

GROUP = "detect"
BATCH = 64
POLL_S = 1.0
SETTLE_US = SECOND_US
"""Passed-over frames are told, and offsets committed, so often."""
STATUS_S = 5.0
TELL_EVERY_S = 0.2
"""Results of so long go into one write."""
MINUTE_US = 60 * SECOND_US
MAX_CAMERAS = 20_000
MAX_BEGUN = 50_000
STUCK_S = 30.0
HUNG_S = 120.0
"""A detector that is at the same frames for so long comes back no more: the process ends, and its
supervisor starts another."""
END_WORK_S, END_CLOSE_S, END_TELL_S = 0.3, 0.3, 0.4
"""How the end is divided: a supervisor kills after 1.5 s."""


class DetectService:
    """One member of group `detect`, and the sink of its worker's results."""

    name = "detect"

    def __init__(self, platform: Platform, settings: Settings, parts: Parts) -> None:
        self._bus, self._clock = platform.bus, platform.clock
        self._member = settings.instance
        self._started_us = self._clock.now_us()
        self._queue = FrameQueue(round(settings.detect.max_frame_age_s * SECOND_US))
        self._zones = ZonesFeed(self._bus, self._clock)
        self._results = Results(self._bus, self._clock, self._member)
        self._progress = Progress()
        self._endpoint = Endpoint(platform.internal_key, settings.internal)
        analyst = Analyst(settings, self._clock, parts)
        self.worker = Worker(
            analyst, self._queue, self._zones, self._clock, batch=settings.detect.batch
        )
        self.worker.sink = self
        self._consumer: Consumer | None = None
        self._assigned: frozenset[Partition] = frozenset()
        self._partitions = 1
        self._settled_us = self._clock.monotonic_us()
        self._heard: OrderedDict[str, int] = OrderedDict()
        self._begun: set[str] = set()
        self._analysed = self._skipped = self._sightings = 0
        self._log = log.get("detect")

    async def ready(self) -> None:
        """UNAVAILABLE until the model is loaded (shared/probes.py)."""
        if self.worker.facts is None:
            raise Missing("its model is not loaded")

    async def run(self, stop: Stop) -> None:
        """Work until the stop, then end every sighting and tell of it."""
        await self._read_zones(stop)
        named = {
            "worker": self.worker.run(stop),
            "reader": loop("detect", self.read_once, stop, self._clock, idle_s=0, max_backoff_s=2),
            "teller": self._tell(stop),
            "status": self._say(stop),
            "zones": self._zones.run(stop),
        }
        tasks = {asyncio.create_task(work, name=name) for name, work in named.items()}
        self._endpoint.begin()
        try:
            # None of them ends by itself: the first that does ends the process, to begin anew.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set:
                await asyncio.wait(tasks, timeout=END_WORK_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(self._end(), self._endpoint.close())
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def read_once(self, timeout_s: float = POLL_S) -> bool:
        """Take one batch of frames, and settle what is due; whether there was any."""
        if self._consumer is None:
            self._partitions = await self._bus.partitions(FRAMES.name)
            self._consumer = await self._bus.consumer(
                [FRAMES.name], group=GROUP, member=self._member, start="latest"
            )
        try:
            records = await self._consumer.poll(BATCH, timeout_s)
        except LamppostError as error:
            if error.kind is Kind.CONFLICT:  # another process has taken this member's place
                await self._follow(frozenset())
            elif error.kind is Kind.CLOSED:
                self._consumer = None
            raise
        await self._follow(self._consumer.assignment)
        for record in records:
            self._take(record)
        if self._clock.monotonic_us() - self._settled_us >= SETTLE_US:
            await self.settle()
        return bool(records)

    async def settle(self) -> None:
        """Publish everything that followed from the frames so far, then commit them."""
        due = self._progress.due()
        await self._results.flush(runs=True)
        self._settled_us = self._clock.monotonic_us()
        if not due or self._consumer is None:
            return
        try:
            await self._consumer.commit(due)
        except LamppostError as error:
            if error.kind is not Kind.CONFLICT:
                raise
            # Another member has them now, and gets them again; the next poll shows which.
            self._log.info("frames moved to another detector", cause=str(error))
            return
        self._progress.settled(due)

    # The worker's sink.

    def looked(self, looked: Looked, facts: ModelFacts) -> None:
        """Tell a frame's boxes and what became of the camera's sightings."""
        metrics.FRAMES_ANALYSED.inc()
        self._analysed += 1
        meta = looked.frame.meta
        metrics.LOOKED_SECONDS.labels("analysed").inc(max(0, meta.covers_us) / SECOND_US)
        self._results.analysed(
            FrameAnalysed(
                camera_id=meta.camera_id,
                capture_us=meta.capture_us,
                covers_us=meta.covers_us,
                epoch=meta.epoch,
                sequence=meta.sequence,
                width=looked.width,
                height=looked.height,
                model=facts.name,
                model_sha256=facts.sha256,
                precision=facts.precision,
                boxes=looked.boxes,
            ),
            looked.frame.span.headers,
        )
        self.told(looked.updates, looked.frame.span.headers)
        looked.frame.span.end(
            self._clock.now_us(), boxes=len(looked.boxes), sightings=len(looked.updates)
        )
        self._progress.end(looked.frame.place, looked.frame.offset)

    def passed(self, frame: Frame, reason: str) -> None:
        """Count a frame that nobody looked at."""
        metrics.FRAMES_SKIPPED.labels(reason).inc()
        metrics.LOOKED_SECONDS.labels(reason).inc(max(0, frame.meta.covers_us) / SECOND_US)
        self._skipped += 1
        self._results.passed_over(frame.meta, reason)
        frame.span.end(self._clock.now_us(), passed_over=reason)
        self._progress.end(frame.place, frame.offset)

    def told(self, updates: Sequence[SightingUpdated], trace: Headers = ()) -> None:
        """Pass sightings on, with the trace of the frame that they follow from, and count those
        that begin."""
        for update in updates:
            known = update.sighting.id in self._begun
            if not known:
                self._sightings += 1
                metrics.SIGHTINGS_SENT.labels(update.sighting.class_name).inc()
            if update.ended:
                self._begun.discard(update.sighting.id)
            elif not known:
                if len(self._begun) >= MAX_BEGUN:
                    self._begun.clear()
                self._begun.add(update.sighting.id)
        self._results.sightings(updates, trace)

    def status(self, *, stopped: bool = False) -> DetectorStatus:
        """What this worker does now."""
        now_us = self._clock.monotonic_us()
        while self._heard and now_us - next(iter(self._heard.values())) > MINUTE_US:
            self._heard.popitem(last=False)
        facts, detail = self.worker.facts, self.worker.detail
        if (busy_s := self.worker.busy_s) > STUCK_S:
            detail = f"The detector has been at the same frames for {busy_s:.0f} s."
        return DetectorStatus(
            worker=self._member,
            at_us=self._clock.now_us(),
            model=facts.name if facts else "",
            precision=facts.precision if facts else "",
            cameras=len(self._heard),
            analysed=self._analysed,
            skipped=self._skipped,
            lag_s=round(self._results.lag_s, 3),
            detail=detail,
            stopped=stopped,
            started_us=self._started_us,
            sightings=self._sightings,
            url=self._endpoint.url,
            version=version(),
        )

    def _take(self, record: Record) -> None:
        """One frame, judged by its header; the JPEG is not touched."""
        metrics.FRAMES_RECEIVED.inc()
        place = (record.topic, record.partition)
        self._progress.begin(place, record.offset)
        try:
            meta = FrameMeta.of(record.headers)
        except LamppostError:
            metrics.BUS_POISON.labels(record.topic).inc()
            metrics.FRAMES_SKIPPED.labels("unreadable").inc()
            self._progress.end(place, record.offset)
            return
        self._heard[meta.camera_id] = self._clock.monotonic_us()
        self._heard.move_to_end(meta.camera_id)
        if len(self._heard) > MAX_CAMERAS:
            self._heard.popitem(last=False)
        span = tracing.follow(record.headers, "detect", self._clock.now_us(), camera=meta.camera_id)
        frame = Frame(meta, record.value, place, record.offset, span)
        if self._queue.too_old(meta, self._clock.now_us()):
            self.passed(frame, TOO_OLD)
        else:
            self.worker.offer(frame)

    async def _follow(self, assigned: frozenset[Partition]) -> None:
        """Let go of what was lost: its frames come to the new owner, its sightings end here."""
        lost, self._assigned = self._assigned - assigned, assigned
        if not lost:
            return
        numbers = {partition for _, partition in lost}
        self._log.info("partitions moved to another detector", partitions=len(lost))
        self._progress.lose(lost)
        self._queue.forget(lambda frame: frame.place in lost)
        await self.worker.let_go(lambda name: partition_of(name, self._partitions) in numbers)

    async def _read_zones(self, stop: Stop) -> None:
        """All zones before the first frame; while the bus is away there are no frames either."""
        backoff = Backoff(0.2, 2.0)
        while not stop.is_set:
            try:
                return await self._zones.catch_up()
            except LamppostError as error:
                self._log.warning("zones not read yet", cause=str(error))
                await stop.sleep(self._clock, backoff.next_s())

    async def _tell(self, stop: Stop) -> None:
        """Publish results soon after they come; while the bus is away they wait."""
        backoff = Backoff(0.2, 2.0)
        while not stop.is_set:
            await _either(self._results.wake, stop)
            try:
                await self._results.flush()
                backoff.reset()
                await stop.sleep(self._clock, TELL_EVERY_S)
            except LamppostError as error:
                self._log.warning("results wait", cause=str(error), waiting=self._results.waiting)
                await stop.sleep(self._clock, backoff.next_s())

    async def _say(self, stop: Stop) -> None:
        """The status, at once and every 5 s. UNAVAILABLE once the detector hangs."""
        while not stop.is_set:
            if self.worker.busy_s > HUNG_S:
                raise LamppostError(
                    Kind.UNAVAILABLE, f"The detector has hung for {self.worker.busy_s:.0f} s."
                )
            try:
                await self._say_once(stopped=False)
            except LamppostError as error:
                self._log.warning("status not told", cause=str(error))
            await stop.sleep(self._clock, STATUS_S)

    async def _say_once(self, *, stopped: bool) -> None:
        status = self.status(stopped=stopped)
        headers = cloud_headers(
            "detector.status", f"lamppost/detect/{self._member}", civil.rfc3339(status.at_us)
        )
        await self._bus.publish(
            [Message(CAMERA_STATUS.name, self._member, encode(status), headers)]
        )

    async def _end(self) -> None:
        """End all sightings, tell what is left and leave, in bounded time."""
        await self.worker.close(END_CLOSE_S)
        try:
            async with asyncio.timeout(END_TELL_S):
                await self.settle()
                await self._say_once(stopped=True)
        except (LamppostError, TimeoutError) as error:
            self._log.warning("results were lost at the end", cause=str(error) or "time")
        await self.leave()

    async def leave(self) -> None:
        """Leave the group; a bus that is away notices the silence."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            try:
                await consumer.close()
            except LamppostError as error:
                self._log.warning("left without saying so", cause=str(error))


async def _either(wake: asyncio.Event, stop: Stop) -> None:
    """Until there is something to tell, or the stop."""
    waits: Collection[asyncio.Future[object]] = [
        asyncio.ensure_future(wake.wait()),
        asyncio.ensure_future(stop.wait()),
    ]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def build(platform: Platform, settings: Settings, parts: Parts | None = None) -> DetectService:
    """The detector of these settings. Its wall time is held as that of those who date frames."""
    dated = dataclasses.replace(platform, clock=HeldClock(platform.clock))
    return DetectService(dated, settings, parts or product())
