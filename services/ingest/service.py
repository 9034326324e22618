"""The service ingest: records the cameras that the bus gives it, whatever else is down.

`build` puts the parts together; `run` moves values between them. The media path (services/ingest/
media.py) records on its own threads; nothing here can slow it. See docs/architecture.md, "ingest".
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from services.ingest import adoption
from services.ingest.front_door import FrontDoor
from services.ingest.live import LiveHub
from services.ingest.media import (
    FragmentWritten,
    FrameSampled,
    GapFiled,
    MediaEvent,
    MediaPath,
    SegmentFiled,
    StateChanged,
)
from services.ingest.membership import Changes, Membership
from services.ingest.memory import CameraMemory
from services.ingest.outgoing import Outgoing
from services.ingest.peers import Peers
from services.ingest.refusals import Refusals
from services.ingest.status import SpoolGauge, StatusBook
from services.ingest.takeover import Takeover
from services.ingest.taking import Taking
from shared import log, metrics
from shared.clock import SECOND_US, HeldClock
from shared.domain import Camera, GapReason, RecordingState
from shared.errors import LamppostError
from shared.messages import FramesPassedOver, SpoolWaiting
from shared.platform import Platform
from shared.probes import Missing
from shared.runtime import Stop, loop
from shared.settings import Settings
from shared.spool import FolderLock, RecorderSpool

if TYPE_CHECKING:
    from shared.internal_http import InternalServer

ADOPT_EVERY_S = 10.0
EVENTS_WAIT_S = 0.5
LAST_WORDS_S = 0.5
"""How long the end waits for the bus to take the last statuses."""


class IngestService:
    """One recorder process."""

    name = "ingest"

    def __init__(
        self, platform: Platform, settings: Settings, media: MediaPath, spool: RecorderSpool
    ) -> None:
        self._clock = platform.clock
        self._settings = settings
        self._media = media
        self._spool = spool
        recorder = settings.instance
        self._book = StatusBook(self._clock, recorder, media.epoch)
        self._gauge = SpoolGauge(spool.new, self._clock, settings.ingest.segment_s, settings.spool)
        self._hub = LiveHub()
        self._out = Outgoing(platform.bus, self._clock, recorder, self._frame_done)
        self.membership = Membership(
            platform.bus,
            self._clock,
            media,
            Refusals(spool, recorder, media.epoch),
            Changes(self._added, self._removed, self._refused),
            self._takeover(platform),
            CameraMemory(spool.dir, self._clock),
            member=recorder,
            max_streams=settings.ingest.max_streams,
        )
        self._taking = Taking(self._clock)
        self._stopping = False
        self._internal_key = platform.internal_key
        self._log = log.get("ingest")

    def _takeover(self, platform: Platform) -> Takeover:
        every_s = self._settings.ingest.status_interval_s
        peers = Peers(platform.bus, self._clock, self._settings.instance, status_interval_s=every_s)
        return Takeover(
            self._spool,
            self._clock,
            peers,
            first_epoch=self._media.epoch,
            status_interval_s=every_s,
        )

    async def ready(self) -> None:
        """UNAVAILABLE, with what is missing, until this recorder has taken its cameras over: an
        update of recorders goes on to the next only then (shared/probes.py)."""
        if self._stopping:
            raise Missing("it ends and hands its cameras over")
        self._taking.check(self.membership.has_a_share)

    async def run(self, stop: Stop) -> None:
        """Record until the stop; then hand over, file everything and say so."""
        ended, alone = Stop(), Stop()
        following = asyncio.create_task(self.membership.run(stop))
        moving = [
            asyncio.create_task(loop("ingest.events", self.run_once, ended, self._clock, idle_s=0)),
            asyncio.create_task(self._out.send_frames(ended)),
            asyncio.create_task(self._out.send_statuses(ended)),
            asyncio.create_task(self._out.send_accounts(ended)),
        ]
        everything = [following, asyncio.create_task(self._adopt(stop)), *moving]
        door = FrontDoor(self._settings.internal, self._answerer)
        lock = FolderLock(self._spool.dir)
        try:
            self._take_place(lock)
            self._listen(door)
            everything.append(asyncio.create_task(self._report(alone)))
            await asyncio.wait(
                [asyncio.ensure_future(stop.wait()), *everything],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            self._stopping = True
            stop.set()
            try:
                await self._hand_over(following)
                alone.set()
                await self._end(ended)
            finally:
                for task in everything:
                    task.cancel()
                results = await asyncio.gather(*everything, return_exceptions=True)
                lock.release()
                await door.stop()
        for result in results:
            if isinstance(result, Exception):
                raise result

    def _take_place(self, lock: FolderLock) -> None:
        """Say on the volume that this recorder lives. Without that it records all the same."""
        try:
            if lock.acquire():
                return
            cause = "another process is in this recorder's folder; each needs LAMPPOST_INSTANCE"
        except OSError as error:
            cause = str(error)
        self._log.error("the spool folder is not this recorder's alone", cause=cause)

    def _listen(self, door: FrontDoor) -> None:
        try:
            self._book.url = door.open()
        except OSError as error:
            # Nobody can read here, and recording goes on.
            self._log.error("recorder cannot listen", cause=str(error))
            return
        self._log.info("recorder listens", url=self._book.url, epoch=self._media.epoch)

    async def _answerer(self) -> InternalServer:
        http = await asyncio.to_thread(importlib.import_module, "services.ingest.recorder_http")
        app = http.build_app(
            self._hub,
            self._spool,
            recorder=self._settings.instance,
            key=self._internal_key,
            probe=self._probe,
        )
        server: InternalServer = http.server_of(app, self._settings.internal)
        return server

    async def run_once(self) -> bool:
        """Take in what the media path reports."""
        for event in await self._media.events(EVENTS_WAIT_S):
            self._take(event)
        return True

    async def report(self) -> None:
        """Queue the status of every camera and of this recorder."""
        usage = await asyncio.to_thread(self._gauge.read, self._growing())
        for camera_id in self._book.camera_ids:
            self._out.status(self._book.message(camera_id))
        self._out.status(self._book.recorder_message(usage))

    def _growing(self) -> list[SpoolWaiting]:
        """What the segments that are being written hold so far."""
        return [
            SpoolWaiting(camera_id, fragments[0].start_us, fragments[-1].end_us)
            for camera_id in self._book.camera_ids
            for _, fragments in self._hub.open_segments(camera_id)
        ]

    def _take(self, event: MediaEvent) -> None:
        if isinstance(event, FragmentWritten):
            if self._book.knows(event.segment.camera_id):
                self._hub.fragment(event)
                self._book.fragment(event)
        elif isinstance(event, FrameSampled):
            self._out.frame(event)
        elif isinstance(event, FramesPassedOver):
            self._out.passed_over(event)
        elif isinstance(event, StateChanged):
            self._taking.heard(event.camera_id, event.state)
            if event.state is not RecordingState.RECORDING:
                self._hub.stopped(event.camera_id)
            if self._book.knows(event.camera_id) and self._book.state_changed(event):
                self._out.status(self._book.message(event.camera_id))
        elif isinstance(event, SegmentFiled):
            self._hub.filed(event.segment)
            span_us = event.segment.end_us - event.segment.start_us
            metrics.RECORDED_SECONDS.inc(max(0, span_us) / SECOND_US)
        else:
            assert isinstance(event, GapFiled)
            if self._book.knows(event.gap.camera_id):
                self._book.gap(event.gap)

    async def _adopt(self, stop: Stop) -> None:
        """File what dead recorders on this volume left half-written."""
        while not await stop.sleep(self._clock, ADOPT_EVERY_S):
            try:
                await asyncio.to_thread(adoption.adopt, self._spool, self._clock.now_us())
            except OSError as error:
                self._log.warning("other spools cannot be looked at", cause=str(error))

    async def _report(self, stop: Stop) -> None:
        """A status of everything at each interval."""
        while not stop.is_set:
            try:
                await self.report()
            except OSError as error:
                self._log.warning("spool cannot be measured", cause=str(error))
            await stop.sleep(self._clock, self._settings.ingest.status_interval_s)

    async def _hand_over(self, following: asyncio.Task[None]) -> None:
        """Others record the cameras before this recorder stops; it reports until then."""
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        seconds = self._settings.ingest.handover_s
        if seconds <= 0:
            return
        try:
            await self.membership.hand_over(seconds)
        except (LamppostError, TimeoutError) as error:
            self._log.warning("cameras cannot be handed over", cause=repr(error))
        except Exception:
            # What is open has to be filed, whatever else fails.
            self._log.exception("cameras cannot be handed over")

    async def _end(self, ended: Stop) -> None:
        """File what is open while others take over, then the last words."""
        self._hub.close()
        await asyncio.gather(
            self._media.close(GapReason.RECORDER_STOPPED),
            self._quietly(self.membership.leave),
            self._quietly(self.membership.settle_refusals),
            self._quietly(self.membership.end),
        )
        for event in await self._media.events(0):
            self._take(event)
        await self._quietly(self._last_words)
        ended.set()

    async def _last_words(self) -> None:
        for camera_id in self._book.camera_ids:
            message = self._book.end(camera_id)
            if message is not None:
                self._out.status(message)
        usage = await asyncio.to_thread(self._gauge.read)
        self._out.status(self._book.recorder_message(usage, stopped=True))
        await self._out.flush()

    async def _quietly(self, work: Callable[[], Awaitable[None]]) -> None:
        """At the end nothing waits long for the bus, and nothing fails for it."""
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await work()
        except (LamppostError, OSError, TimeoutError) as error:
            self._log.warning("ended without a last step", cause=repr(error))

    def _added(self, camera: Camera, epoch: int) -> None:
        if self._book.begin(camera, epoch):
            if camera.enabled:
                self._taking.begin(camera.id)
            self._out.status(self._book.message(camera.id))

    def _removed(self, camera_id: str) -> None:
        self._taking.end(camera_id)
        self._hub.stopped(camera_id)
        message = self._book.end(camera_id)
        if message is not None:
            self._out.status(message)

    def _refused(self, camera: Camera, detail: str) -> None:
        if self._book.refuse(camera.id, detail):
            self._out.status(self._book.message(camera.id))

    def _frame_done(self, camera_id: str, dropped: bool) -> None:
        if self._book.knows(camera_id):
            self._book.frame(camera_id, dropped=dropped)

    async def _probe(self, camera: Camera) -> Any:
        # PyAV is loaded by who needs it: a test with another media path does not.
        from services.ingest import connection_test

        return await asyncio.to_thread(connection_test.run, camera, self._settings, self._clock)


def build(platform: Platform, settings: Settings, media: MediaPath | None = None) -> IngestService:
    """The recorder of these settings; `media` replaces the PyAV media path."""
    spool = RecorderSpool(settings.path(settings.spool.dir), settings.instance)
    if media is None:
        from services.ingest.pyav_media import PyAvMedia

        media = PyAvMedia(settings, HeldClock(platform.clock, spool.last_known_us()), spool)
    return IngestService(platform, settings, media, spool)
