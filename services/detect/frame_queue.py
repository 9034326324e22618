"""Frames that wait for the detector: the newest of each camera, in fair turns.

Pure: no clock, no bus. A camera has one place; a newer frame takes it and the older is passed over.
The camera that was looked at longest ago goes first, so that neither one that sends a lot nor a
slow detector starves another: a camera with a frame waiting is taken after at most one turn of each
other camera. docs/architecture.md, "detect".
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import NamedTuple

from shared import tracing
from shared.bus import Partition
from shared.messages import FrameMeta

MAX_BYTES = 64 * 1024 * 1024
MAX_KNOWN = 20_000
"""Cameras whose last turn is remembered."""
TOO_OLD = "too_old"
SUPERSEDED = "superseded"


class Frame(NamedTuple):
    """One analysis frame and its place in the log."""

    meta: FrameMeta
    jpeg: bytes
    place: Partition
    offset: int
    span: tracing.Span = tracing.NOTHING
    """What becomes of it, where it is traced."""


class Passed(NamedTuple):
    """A frame that nobody looks at, and why."""

    frame: Frame
    reason: str


class FrameQueue:
    """See the module. Holds at most one frame a camera and `max_bytes` in all."""

    def __init__(self, max_age_us: int, max_bytes: int = MAX_BYTES) -> None:
        self._max_age_us = max_age_us
        self._max_bytes = max_bytes
        self._waiting: dict[str, Frame] = {}
        self._since: dict[str, int] = {}
        self._served: dict[str, int] = {}
        self._bytes = 0
        self._turn = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def too_old(self, meta: FrameMeta, now_us: int) -> bool:
        """Whether decoding it would help nobody. A frame from the future is not old."""
        return now_us - meta.capture_us > self._max_age_us

    def put(self, frame: Frame, now_us: int) -> list[Passed]:
        """Let it wait; what is passed over because of it, itself when it is too old."""
        if self.too_old(frame.meta, now_us):
            return [Passed(frame, TOO_OLD)]
        passed = []
        camera = frame.meta.camera_id
        if (older := self._remove(camera)) is not None:
            passed.append(Passed(older, SUPERSEDED))
        else:
            self._turn += 1
            self._since[camera] = self._turn
        self._waiting[camera] = frame
        self._bytes += len(frame.jpeg)
        while self._bytes > self._max_bytes and len(self._waiting) > 1:
            oldest = min(self._waiting.values(), key=lambda one: one.meta.capture_us)
            passed.append(Passed(self._drop(oldest.meta.camera_id), SUPERSEDED))
        return passed

    def take(self, most: int, now_us: int) -> tuple[list[Frame], list[Passed]]:
        """The next frames, of different cameras, and those that grew too old meanwhile."""
        aged = [frame for frame in self._waiting.values() if self.too_old(frame.meta, now_us)]
        passed = [Passed(self._drop(frame.meta.camera_id), TOO_OLD) for frame in aged]
        turns = heapq.nsmallest(most, self._waiting, key=self._order)
        frames = [self._drop(camera) for camera in turns]
        for camera in turns:
            self._turn += 1
            self._served[camera] = self._turn
        self._forget_turns()
        return frames, passed

    def forget(self, gone: Callable[[Frame], bool]) -> list[Frame]:
        """Let go of frames that are no longer this worker's."""
        found = [frame for frame in self._waiting.values() if gone(frame)]
        for frame in found:
            self._drop(frame.meta.camera_id)
            self._served.pop(frame.meta.camera_id, None)
        return found

    def _order(self, camera: str) -> tuple[int, int]:
        return self._served.get(camera, 0), self._since[camera]

    def _remove(self, camera: str) -> Frame | None:
        frame = self._waiting.pop(camera, None)
        if frame is not None:
            self._bytes -= len(frame.jpeg)
        return frame

    def _drop(self, camera: str) -> Frame:
        frame = self._remove(camera)
        assert frame is not None
        del self._since[camera]
        return frame

    def _forget_turns(self) -> None:
        """Of very many cameras the turns longest ago are forgotten: they go first anyway."""
        if len(self._served) > MAX_KNOWN:
            kept = sorted(self._served, key=self._served.__getitem__)[MAX_KNOWN // 2 :]
            self._served = {camera: self._served[camera] for camera in kept}
