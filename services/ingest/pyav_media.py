"""The media path on PyAV: one recorder thread a camera behind `add`, `remove` and `events`.

See services/ingest/media.py for the promises, and docs/architecture.md, "ingest".
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from services.ingest import repair
from services.ingest.file_source import FileSource
from services.ingest.media import (
    AnalysisEvent,
    FragmentWritten,
    FrameSampled,
    MediaEvent,
    SegmentFiled,
)
from services.ingest.passed_over import unseen
from services.ingest.recorder import CameraRecorder
from services.ingest.recorder_parts import SamplerFactory, Sampling, SourceFactory, Tools
from services.ingest.source import PacketSource, SourceError
from services.ingest.spool_guard import SpoolGuard
from shared import log, metrics
from shared.clock import Clock
from shared.domain import Camera, GapReason
from shared.settings import Settings
from shared.spool import RecorderSpool

CLOSE_S = 2.5
REST_AFTER_S = 15
MAX_EVENTS = 20_000
MAX_EVENT_BYTES = 64 * 1024 * 1024


class EventQueue:
    """From recorder threads to the loop, bounded: when its reader is slow the oldest fragments and
    frames go first (counted in `dropped`); what was filed stands in the spool anyway."""

    def __init__(self, max_events: int = MAX_EVENTS, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._events: deque[MediaEvent] = deque()
        self._bytes = 0
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self.dropped = 0

    def put(self, event: MediaEvent) -> None:
        """Never blocks; safe from any thread."""
        with self._lock:
            self._events.append(event)
            self._bytes += _weight(event)
            if self._bytes > self._max_bytes or len(self._events) > self._max_events:
                self._shed()
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            try:
                waiting[0].call_soon_threadsafe(waiting[1].set)
            except RuntimeError:
                return

    def _shed(self) -> None:
        """Down to half of the bytes, so that shedding is rare."""
        kept: deque[MediaEvent] = deque()
        for event in self._events:
            weight = _weight(event)
            if weight and self._bytes > self._max_bytes // 2:
                self._bytes -= weight
                self.dropped += 1
                if isinstance(event, FrameSampled):
                    metrics.FRAMES_DROPPED.labels("reader_slow").inc()
                    if (account := unseen(event.meta)) is not None:
                        kept.append(account)
            else:
                kept.append(event)
        while len(kept) > self._max_events:
            self._bytes -= _weight(kept.popleft())
            self.dropped += 1
        self._events = kept

    async def get(self, timeout_s: float) -> list[MediaEvent]:
        """Everything that waits, after waiting for the first; empty when nothing came."""
        ready = asyncio.Event()
        with self._lock:
            if self._events:
                return self._take()
            self._waiting = (asyncio.get_running_loop(), ready)
        # Not wait_for: up to Python 3.11 it swallows a cancel that comes together with an event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await ready.wait()
        with self._lock:
            self._waiting = None
            return self._take()

    def _take(self) -> list[MediaEvent]:
        taken = list(self._events)
        self._events.clear()
        self._bytes = 0
        return taken


def _weight(event: MediaEvent) -> int:
    if isinstance(event, FragmentWritten):
        return event.fragment.size
    return len(event.jpeg) if isinstance(event, FrameSampled) else 0


def _source_at(
    camera: Camera, settings: Settings, clock: Clock, url: str, resume_us: int | None
) -> PacketSource:
    """By the scheme of the address."""
    scheme = url.partition(":")[0].lower()
    if scheme == "file":
        there = msgspec.structs.replace(camera.source, url=url)
        return FileSource(msgspec.structs.replace(camera, source=there), settings, clock, resume_us)
    if scheme in ("rtsp", "rtsps"):
        from services.ingest.rtsp_source import RtspSource

        return RtspSource(camera, settings, clock, url)
    raise SourceError(
        GapReason.HOST_NOT_ALLOWED, "the address begins with none of rtsp, rtsps, file", 60.0
    )


def _sub_source(camera: Camera, settings: Settings, clock: Clock, url: str) -> PacketSource:
    """A sub stream: it is looked at, not recorded, so it resumes nothing."""
    return _source_at(camera, settings, clock, url, None)


class PyAvMedia:
    """The MediaPath of one recorder process. `epoch` is this life's assignment epoch."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        spool: RecorderSpool,
        *,
        source_factory: SourceFactory | None = None,
        sampler_factory: SamplerFactory | None = None,
        epoch: int | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._spool = spool
        self._queue = EventQueue()
        self.epoch = spool.next_epoch(clock.now_us()) if epoch is None else epoch
        self._tools = Tools(
            settings,
            clock,
            spool,
            SpoolGuard(settings.spool, spool, clock),
            self.epoch,
            source_factory or self._source,
            sampler_factory or self._sampler,
            self._queue.put,
        )
        self._epochs: dict[str, int] = {}
        self._recorders: dict[str, CameraRecorder] = {}
        self._ending: list[CameraRecorder] = []
        self._leftovers: dict[str, list[Path]] = repair.left_behind(spool)
        self._repairer: threading.Thread | None = None
        self._born_us = clock.monotonic_us()
        self._closed = False
        self._logger = log.get("ingest")

    def _source(self, camera: Camera) -> PacketSource:
        resume_us = self._spool.accounted_until(camera.id)
        return _source_at(camera, self._settings, self._clock, camera.source.url, resume_us)

    def _sampler(self, camera: Camera, emit: Callable[[AnalysisEvent], None]) -> Sampling | None:
        if not self._settings.ingest.sample:
            return None
        # With it come numpy and the JPEG library, which recording alone can do without.
        from services.ingest.sampler import Sampler

        def drop(reason: str) -> None:
            metrics.FRAMES_DROPPED.labels(reason).inc()

        return Sampler(
            camera,
            self._settings,
            self._clock,
            emit,
            drop,
            open_sub=_sub_source,
            epoch=self._epochs.get(camera.id, self.epoch),
        )

    @property
    def dropped(self) -> int:
        """Fragments and frames that a slow reader of `events` did not get."""
        return self._queue.dropped

    def cameras(self) -> tuple[str, ...]:
        """The cameras that were added and not removed."""
        return tuple(sorted(self._recorders))

    def add(self, camera: Camera, epoch: int | None = None) -> None:
        """See MediaPath."""
        if self._closed:
            return
        if epoch is not None:
            self._epochs[camera.id] = epoch
        old = self._recorders.get(camera.id)
        if old is not None:
            if old.camera == camera or old.update(camera):
                return
            old.stop(GapReason.CONNECTING)
            self._ending.append(old)
        else:
            old = next((r for r in reversed(self._ending) if r.camera.id == camera.id), None)
        self._forget_ended()
        recorder = CameraRecorder(
            camera,
            self._tools._replace(epoch=self._epochs.get(camera.id, self.epoch)),
            self._leftovers.pop(camera.id, []),
            predecessor=old,
        )
        self._recorders[camera.id] = recorder
        recorder.thread.start()

    def remove(self, camera_id: str, reason: GapReason) -> None:
        """See MediaPath."""
        self._epochs.pop(camera_id, None)
        recorder = self._recorders.pop(camera_id, None)
        if recorder is not None:
            recorder.stop(reason)
            self._ending.append(recorder)
        self._forget_ended()

    def _repair_rest(self) -> None:
        """File what an earlier life left of cameras that were not added (they may be another
        recorder's now), in a thread of its own, once those that were had their turn."""
        if self._clock.monotonic_us() - self._born_us < REST_AFTER_S * 1_000_000:
            return
        rest = [path for paths in self._leftovers.values() for path in paths]
        self._leftovers = {}
        if rest and self._repairer is None:
            self._repairer = threading.Thread(
                target=self._repair, args=(rest,), name="repair", daemon=True
            )
            self._repairer.start()

    def _repair(self, paths: list[Path]) -> None:
        for path in paths:
            if self._closed:
                return
            try:
                accounted = partial(self._spool.accounted_at_least, repair.camera_of(path))
                segment = repair.repair(self._spool, path, self._clock.now_us(), accounted)
            except OSError as error:
                self._logger.warning("repair has to wait", file=path.name, cause=str(error))
                continue
            if segment is not None:
                self._queue.put(SegmentFiled(segment))

    def _forget_ended(self) -> None:
        self._ending = [recorder for recorder in self._ending if recorder.thread.is_alive()]

    async def events(self, timeout_s: float) -> list[MediaEvent]:
        """See MediaPath."""
        if self._leftovers:
            self._repair_rest()
        return await self._queue.get(timeout_s)

    async def close(self, reason: GapReason) -> None:
        """See MediaPath. A thread that hangs inside a library is left behind as a daemon; its open
        segment is repaired at the next start."""
        self._closed = True
        recorders = [*self._ending, *self._recorders.values()]
        for recorder in self._recorders.values():
            recorder.stop(reason)
        self._recorders.clear()
        threads = [recorder.thread for recorder in recorders]
        if self._repairer is not None:
            threads.append(self._repairer)
        deadline = self._clock.monotonic_us() + round(CLOSE_S * 1_000_000)
        await asyncio.to_thread(self._join, threads, deadline)

    def _join(self, threads: list[threading.Thread], deadline_us: int) -> None:
        for thread in threads:
            thread.join(max(0.0, (deadline_us - self._clock.monotonic_us()) / 1_000_000))
            if thread.is_alive():
                self._logger.warning("a thread did not end in time", thread=thread.name)
