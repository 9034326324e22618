"""What each camera of this process is doing, as messages for topic `camera-status`; and how full
the spool is, asked cheaply whatever it holds. See docs/architecture.md, "Topics".
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from services.ingest.media import FragmentWritten, OpenSegment, StateChanged
from services.ingest.waiting import Waiting, filed, merged
from shared import metrics
from shared.clock import SECOND_US, Clock
from shared.domain import Camera, Fragment, Gap, GapReason, RecordingState
from shared.messages import RecorderStatus, SpoolWaiting, StatusChanged
from shared.settings import Spool
from shared.version import version

WINDOW = 16
"""Fragments that picture rate and bit rate are measured over."""


@dataclass(slots=True)
class CameraStatus:
    """One camera as last heard of."""

    camera_id: str
    state: RecordingState
    since_us: int
    epoch: int
    """Of this assignment: a camera that comes back to a long-running recorder gets a higher one
    than the recorder that gave it up, whose last word must not win."""
    reason: GapReason | None = None
    detail: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    clock_offset_us: int | None = None
    frames_sampled: int = 0
    frames_dropped: int = 0
    recorded_us: int = 0
    accounted_until_us: int | None = None
    recent: deque[Fragment] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def rates(self) -> tuple[float, float]:
        """Pictures and bits a second over the newest fragments."""
        if not self.recent or self.state is not RecordingState.RECORDING:
            return 0.0, 0.0
        span_s = (self.recent[-1].end_us - self.recent[0].start_us) / SECOND_US
        if span_s <= 0:
            return 0.0, 0.0
        samples = sum(item.samples for item in self.recent)
        size = sum(item.size for item in self.recent)
        return round(samples / span_s, 3), round(size * 8 / span_s, 1)


class StatusBook:
    """All cameras of this recorder. Belongs to the event loop."""

    def __init__(self, clock: Clock, recorder: str, epoch: int) -> None:
        self.url = ""
        self._clock = clock
        self._recorder = recorder
        self._epoch = epoch
        self._cameras: dict[str, CameraStatus] = {}

    @property
    def camera_ids(self) -> tuple[str, ...]:
        return tuple(sorted(self._cameras))

    def knows(self, camera_id: str) -> bool:
        """Whether the camera is this recorder's: late events of one that was let go are none."""
        return camera_id in self._cameras

    def begin(self, camera: Camera, epoch: int = 0) -> bool:
        """The media path was told of a camera, under the epoch of its assignment; whether it is new
        here."""
        if camera.id in self._cameras:
            return False
        state = RecordingState.CONNECTING if camera.enabled else RecordingState.DISABLED
        self._cameras[camera.id] = self._new(camera.id, state, epoch)
        return True

    def refuse(self, camera_id: str, detail: str) -> bool:
        """The camera is over the limit; whether that is news."""
        reason = GapReason.OVER_CAPACITY
        return self._set(camera_id, RecordingState.REFUSED, self._clock.now_us(), reason, detail)

    def state_changed(self, event: StateChanged) -> bool:
        """Take in a state; whether it is news."""
        camera = self._camera(event.camera_id)
        camera.codec = event.codec or camera.codec
        camera.width = event.width or camera.width
        camera.height = event.height or camera.height
        if event.clock_offset_us is not None:
            camera.clock_offset_us = event.clock_offset_us
            metrics.CAMERA_CLOCK_OFFSET.labels(event.camera_id).set(
                event.clock_offset_us / SECOND_US
            )
        return self._set(event.camera_id, event.state, event.at_us, event.reason, event.detail)

    def fragment(self, event: FragmentWritten) -> None:
        """Count what was recorded."""
        segment: OpenSegment = event.segment
        camera = self._camera(segment.camera_id)
        camera.codec, camera.width, camera.height = (
            segment.codec.value,
            segment.width,
            segment.height,
        )
        camera.recorded_us += max(0, event.fragment.end_us - event.fragment.start_us)
        camera.recent.append(event.fragment)
        camera.accounted_until_us = event.fragment.end_us

    def gap(self, gap: Gap) -> None:
        """A time without video was filed with its reason."""
        self._camera(gap.camera_id).accounted_until_us = gap.end_us

    def frame(self, camera_id: str, *, dropped: bool = False) -> None:
        """An analysis frame was published, or dropped."""
        camera = self._camera(camera_id)
        camera.frames_sampled += not dropped
        camera.frames_dropped += dropped

    def end(self, camera_id: str) -> StatusChanged | None:
        """The camera is no longer this recorder's: its last word, and forget it."""
        if camera_id not in self._cameras:
            return None
        self._set(camera_id, RecordingState.STOPPED, self._clock.now_us(), None, "")
        message = self.message(camera_id)
        del self._cameras[camera_id]
        for gauge in (metrics.CAMERA_UP, metrics.CAMERA_CLOCK_OFFSET, metrics.CAMERA_BITRATE):
            with contextlib.suppress(KeyError):
                gauge.remove(camera_id)
        return message

    def message(self, camera_id: str) -> StatusChanged:
        """The camera's status as it is sent."""
        camera = self._cameras[camera_id]
        rate_fps, bitrate_bps = camera.rates()
        metrics.CAMERA_BITRATE.labels(camera_id).set(bitrate_bps)
        return StatusChanged(
            camera_id=camera_id,
            state=camera.state,
            since_us=camera.since_us,
            at_us=self._clock.now_us(),
            recorder=self._recorder,
            epoch=camera.epoch,
            reason=camera.reason,
            detail=camera.detail,
            recorder_url=self.url,
            codec=camera.codec,
            width=camera.width,
            height=camera.height,
            rate_fps=rate_fps,
            bitrate_bps=bitrate_bps,
            clock_offset_us=camera.clock_offset_us,
            frames_sampled=camera.frames_sampled,
            frames_dropped=camera.frames_dropped,
            recorded_us=camera.recorded_us,
            accounted_until_us=camera.accounted_until_us,
        )

    def recorder_message(self, usage: SpoolUsage, *, stopped: bool = False) -> RecorderStatus:
        """This recorder's own status."""
        return RecorderStatus(
            recorder=self._recorder,
            at_us=self._clock.now_us(),
            epoch=self._epoch,
            url="" if stopped else self.url,
            cameras=self.camera_ids,
            spool_items=usage.items,
            spool_bytes=usage.size_bytes,
            free_bytes=usage.free_bytes,
            stopped=stopped,
            waiting=usage.waiting,
            version=version(),
        )

    def _camera(self, camera_id: str) -> CameraStatus:
        found = self._cameras.get(camera_id)
        if found is None:
            found = self._new(camera_id, RecordingState.CONNECTING)
            self._cameras[camera_id] = found
        return found

    def _new(self, camera_id: str, state: RecordingState, epoch: int = 0) -> CameraStatus:
        now_us = self._clock.now_us()
        return CameraStatus(camera_id, state, now_us, epoch or max(self._epoch, now_us))

    def _set(
        self,
        camera_id: str,
        state: RecordingState,
        at_us: int,
        reason: GapReason | None,
        detail: str,
    ) -> bool:
        camera = self._camera(camera_id)
        news = (camera.state, camera.reason, camera.detail) != (state, reason, detail)
        if camera.state is not state:
            camera.since_us = at_us
            camera.recent.clear()
        camera.state, camera.reason, camera.detail = state, reason, detail
        metrics.CAMERA_UP.labels(camera_id).set(state is RecordingState.RECORDING)
        return news


class SpoolUsage(NamedTuple):
    """What waits in the spool, and the room of its volume."""

    items: int
    size_bytes: int
    free_bytes: int
    waiting: tuple[SpoolWaiting, ...] = ()


class SpoolGauge:
    """Measures one recorder's `new/`. Blocking: called on a thread, by one task.

    A look costs time with the number of files, and memory within a limit. After a look that took
    long the next waits so long that looking stays under one per cent of the time.
    """

    def __init__(
        self, new: Path, clock: Clock, segment_s: float = 60.0, limits: Spool | None = None
    ) -> None:
        self._new = new
        self._limits = limits or Spool()
        self._clock = clock
        self._waiting = Waiting(new, segment_s)
        self._counted = (0, 0)
        self._spans: list[SpoolWaiting] = []
        self._next_us = 0

    def read(self, growing: Sequence[SpoolWaiting] = ()) -> SpoolUsage:
        """Items, bytes and spans as of the last look, with those being written, and free bytes
        now."""
        started_us = self._clock.monotonic_us()
        if started_us >= self._next_us:
            items, size, videos = filed(self._new)
            self._counted = items, size
            self._spans = self._waiting.look(videos)
            took_us = self._clock.monotonic_us() - started_us
            self._next_us = started_us + 100 * took_us
        room = os.statvfs(self._new)
        free = room.f_bavail * room.f_frsize
        total = max(1, room.f_blocks * room.f_frsize)
        metrics.SPOOL_ITEMS.set(self._counted[0])
        metrics.SPOOL_BYTES.set(self._counted[1])
        metrics.DISK_FREE_RATIO.labels("spool").set(free / total)
        metrics.DISK_FREE_BYTES.labels("spool").set(free)
        metrics.DISK_BYTES.labels("spool").set(total)
        metrics.SPOOL_ROOM_BYTES.set(self._left(free, total))
        return SpoolUsage(*self._counted, free, merged([*self._spans, *growing]))

    def _left(self, free: int, total: int) -> int:
        """What may be written before the guard stops recording (spool_guard.py)."""
        left = free - round(total * self._limits.min_free_ratio)
        if self._limits.max_bytes is not None:
            left = min(left, self._limits.max_bytes - self._counted[1])
        return max(0, left)
