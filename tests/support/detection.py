"""Detection without a model: a detector that tells what it is told to, trackers that follow nothing
but a count, frames as ingest would send them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import simplejpeg

from services.detect.analyst import Follower, Parts
from services.detect.detector import Detector, Found, ModelFacts, Picture
from services.detect.sightings import Outcome
from shared.bus import Message
from shared.clock import Clock, SystemClock
from shared.errors import Kind, LamppostError
from shared.messages import Box, FrameMeta, SightingUpdated
from shared.settings import Settings
from shared.sightings import Zone
from tests.support.sightings import sighting

FACTS = ModelFacts("fake", "0" * 64, "f32", "openvino", ("person",), 640, 480)
WALKER = Found("person", 0.9, 10.0, 10.0, 30.0, 70.0)


class FakeDetector:
    """Gives each picture one person; slow, refusing or failing when asked to be."""

    def __init__(self, clock: Clock | None = None, delay_s: float = 0.0) -> None:
        self.facts = FACTS
        self.passes: list[int] = []
        self.shapes: list[tuple[int, ...]] = []
        self.fails: list[Exception] = []
        """Raised by the next passes, one each."""
        self.refuses: tuple[int, int] | None = None
        """A height and width that is INVALID."""
        self.closed = False
        self._clock = clock or SystemClock()
        self._delay_s = delay_s
        self._never = threading.Event()

    def detect(self, pictures: Sequence[Picture]) -> list[list[Found]]:
        self.passes.append(len(pictures))
        if self._delay_s:
            self._clock.wait(self._never, self._delay_s * len(pictures))
        if self.fails:
            raise self.fails.pop(0)
        if any(picture.shape[:2] == self.refuses for picture in pictures):
            raise LamppostError(Kind.INVALID, "A picture is refused.")
        self.shapes += [picture.shape for picture in pictures]
        return [[WALKER] for _ in pictures]

    def close(self) -> None:
        self.closed = True


class FakeFollower:
    """One sighting a camera, begun with its first frame, told of with each."""

    def __init__(self, camera: str, zones: tuple[Zone, ...] = ()) -> None:
        self.camera = camera
        self.zones = zones
        self.times: list[int] = []
        self.fails = False

    @property
    def open(self) -> int:
        return int(bool(self.times))

    def set_zones(self, zones: tuple[Zone, ...]) -> None:
        self.zones = zones

    def frame(self, meta: FrameMeta, picture: Picture, found: Sequence[Found]) -> Outcome:
        if self.fails:
            raise ValueError("the tracker is broken")
        self.times.append(meta.capture_us)
        box = Box(found[0].class_name, found[0].confidence, 0.1, 0.1, 0.1, 0.2, self._id)
        return Outcome((box,), [self._update(ended=False)])

    def silent(self, now_us: int) -> list[SightingUpdated]:
        if self.times and now_us - self.times[-1] > 3_000_000:
            return self.close()
        return []

    def close(self) -> list[SightingUpdated]:
        updates = [self._update(ended=True)] if self.times else []
        self.times.clear()
        return updates

    @property
    def _id(self) -> str:
        return f"{self.camera}-{self.times[0]}"

    def _update(self, *, ended: bool) -> SightingUpdated:
        seconds = (self.times[-1] - self.times[0]) / 1_000_000
        made = sighting(self._id, self.camera, self.times[0], max(0.001, seconds))
        return SightingUpdated(made, ended, self.times[-1], b"jpeg")


class Fakes:
    """Parts of an analyst, and what was made of them."""

    def __init__(self, detector: FakeDetector | None = None) -> None:
        self.detector = detector or FakeDetector()
        self.followers: dict[str, FakeFollower] = {}
        self.opened = 0
        self.missing: LamppostError | None = None

    @property
    def parts(self) -> Parts:
        return Parts(self._open, self._follow)

    def _open(self, settings: Settings) -> Detector:
        if self.missing is not None:
            raise self.missing
        self.opened += 1
        return self.detector

    def _follow(
        self, camera: str, facts: ModelFacts, update_us: int, zones: tuple[Zone, ...]
    ) -> Follower:
        self.followers[camera] = FakeFollower(camera, zones)
        return self.followers[camera]


def jpeg(width: int = 64, height: int = 48) -> bytes:
    """A grey picture."""
    return bytes(simplejpeg.encode_jpeg(np.full((height, width, 3), 128, np.uint8)))


def frame(
    camera: str,
    capture_us: int,
    data: bytes | None = None,
    *,
    sequence: int = 1,
    covers_us: int = 0,
) -> Message:
    """As ingest publishes it."""
    meta = FrameMeta(camera, capture_us, 0, 64, 48, 1, sequence, covers_us)
    return Message("frames", camera, jpeg() if data is None else data, meta.headers())
