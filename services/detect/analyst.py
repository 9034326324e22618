"""The worker thread's side: JPEG to picture, detector, trackers. One thread uses it, in turns.

What is wrong with one frame stays with that frame: bytes that are no picture, a picture the
detector refuses, a camera whose tracker fails. A detector that fails as a whole is UNAVAILABLE, and
is opened anew by the worker. docs/architecture.md, "detect".
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import simplejpeg

from services.detect.detector import Detector, Found, ModelFacts, Picture
from services.detect.frame_queue import Frame
from shared import log, metrics
from shared.clock import SECOND_US, Clock
from shared.errors import Kind, LamppostError
from shared.messages import Box, FrameMeta, SightingUpdated
from shared.settings import Settings
from shared.sightings import Zone

MAX_SIDE = 8_192
MAX_PIXELS = 4096 * 2304
MAX_CAMERAS = 2_000
IDLE_US = 600 * SECOND_US
"""A camera without frames and without sightings is forgotten after so long."""
UNDECODABLE = "undecodable"


class Outcome(Protocol):
    """services.detect.sightings.Outcome."""

    @property
    def boxes(self) -> tuple[Box, ...]: ...

    @property
    def updates(self) -> list[SightingUpdated]: ...


class Follower(Protocol):
    """services.detect.sightings.CameraSightings, which says what each does."""

    @property
    def open(self) -> int: ...

    def set_zones(self, zones: tuple[Zone, ...]) -> None: ...

    def frame(self, meta: FrameMeta, picture: Picture, found: Sequence[Found]) -> Outcome: ...

    def silent(self, now_us: int) -> list[SightingUpdated]: ...

    def close(self) -> list[SightingUpdated]: ...


OpenDetector = Callable[[Settings], Detector]
MakeFollower = Callable[[str, ModelFacts, int, tuple[Zone, ...]], Follower]


class Parts(NamedTuple):
    """What an analyst is made of; tests put in their own."""

    open_detector: OpenDetector
    follow: MakeFollower


class Looked(NamedTuple):
    """What became of one frame: its boxes, or why it has none."""

    frame: Frame
    width: int
    height: int
    boxes: tuple[Box, ...]
    updates: list[SightingUpdated]
    undecodable: bool = False


class _Picture(NamedTuple):
    frame: Frame
    picture: Picture


class Analyst:
    """See the module. All methods run on the worker thread."""

    def __init__(self, settings: Settings, clock: Clock, parts: Parts) -> None:
        self._settings = settings
        self._clock = clock
        self._parts = parts
        self._update_us = round(settings.detect.update_s * SECOND_US)
        self._detector: Detector | None = None
        self._facts: ModelFacts | None = None
        self._followers: dict[str, Follower] = {}
        self._zones: dict[str, tuple[Zone, ...]] = {}
        self._heard_us: dict[str, int] = {}
        self._log = log.get("detect")
        self._limiter = log.Limiter(clock)

    def open(self) -> tuple[ModelFacts, list[SightingUpdated]]:
        """Open the detector; NOT_FOUND without a model. Another model ends what goes on."""
        self._detector = self._parts.open_detector(self._settings)
        facts = self._detector.facts
        updates = [] if facts == self._facts else self.let_go(lambda _: True)
        self._facts = facts
        return facts, updates

    def shut(self) -> None:
        """Let go of the detector; what is followed goes on with the next one."""
        detector, self._detector = self._detector, None
        if detector is not None:
            try:
                detector.close()
            except Exception:
                self._log.exception("a detector did not close")

    def analyse(
        self, frames: Sequence[Frame], zones: Mapping[str, tuple[Zone, ...]]
    ) -> list[Looked]:
        """Look at frames of different cameras. UNAVAILABLE when the detector fails."""
        looked: list[Looked] = []
        pictures: list[_Picture] = []
        for frame in frames:
            picture = self._decoded(frame)
            if picture is None:
                looked.append(_no_picture(frame))
            else:
                pictures.append(_Picture(frame, picture))
        if pictures:
            for one, found in zip(pictures, self._detect(pictures), strict=True):
                looked.append(
                    _no_picture(one.frame) if found is None else self._follow(one, found, zones)
                )
        metrics.TRACKS.set(self.open_sightings)
        return looked

    @property
    def open_sightings(self) -> int:
        """Things being followed now."""
        return sum(follower.open for follower in self._followers.values())

    def silent(self, now_us: int) -> list[SightingUpdated]:
        """End what has not been seen for too long although no frame came."""
        updates: list[SightingUpdated] = []
        for camera in list(self._followers):
            follower = self._followers[camera]
            try:
                updates += follower.silent(now_us)
                idle = not follower.open
            except Exception:
                self._drop(camera, "silent")
                continue
            if idle and self._clock.monotonic_us() - self._heard_us[camera] > IDLE_US:
                updates += self.let_go(lambda name, camera=camera: name == camera)  # type: ignore[misc]
        metrics.TRACKS.set(self.open_sightings)
        return updates

    def let_go(self, which: Callable[[str], bool]) -> list[SightingUpdated]:
        """End everything of these cameras."""
        updates: list[SightingUpdated] = []
        for camera in [name for name in self._followers if which(name)]:
            try:
                updates += self._followers[camera].close()
            except Exception:
                self._log.exception("sightings did not close", camera=camera)
            self._remove(camera)
        metrics.TRACKS.set(self.open_sightings)
        return updates

    def _decoded(self, frame: Frame) -> Picture | None:
        """RGB, or None when the bytes are no picture of a bearable size."""
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(frame.jpeg)
            if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
                raise ValueError(f"{width} x {height} pixels are too many")
            picture: Picture = simplejpeg.decode_jpeg(frame.jpeg, colorspace="RGB", fastdct=False)
        # Whatever a decoder says of bytes from outside, they are one bad frame and no more.
        except Exception as error:
            if (held := self._limiter.allow(f"jpeg {frame.meta.camera_id}")) is not None:
                self._log.warning(
                    "frame is no picture",
                    camera=frame.meta.camera_id,
                    cause=str(error),
                    withheld=held,
                )
            return None
        return picture

    def _detect(self, pictures: Sequence[_Picture]) -> list[list[Found] | None]:
        """Boxes of each; None for a picture that the detector refuses."""
        try:
            return [*self._pass(pictures)]
        except LamppostError as error:
            if error.kind is not Kind.INVALID:
                raise
            if len(pictures) > 1:
                # One of them is the cause: the others are looked at without it.
                return [self._detect([one])[0] for one in pictures]
            self._log.warning(
                "frame refused", camera=pictures[0].frame.meta.camera_id, cause=str(error)
            )
            return [None]

    def _pass(self, pictures: Sequence[_Picture]) -> list[list[Found]]:
        if self._detector is None:
            raise LamppostError(Kind.UNAVAILABLE, "No detector is open.")
        began_us = self._clock.monotonic_us()
        try:
            found = self._detector.detect([one.picture for one in pictures])
        except LamppostError:
            raise
        except Exception as error:
            raise LamppostError(Kind.UNAVAILABLE, f"The detector failed: {error!r}.") from error
        metrics.DETECT_SECONDS.observe((self._clock.monotonic_us() - began_us) / SECOND_US)
        if len(found) != len(pictures):
            raise LamppostError(
                Kind.UNAVAILABLE, f"The detector gave {len(found)} answers to {len(pictures)}."
            )
        return found

    def _follow(
        self, one: _Picture, found: list[Found], zones: Mapping[str, tuple[Zone, ...]]
    ) -> Looked:
        height, width = one.picture.shape[:2]
        # Boxes are in pixels of the picture: what its header says of its size is only a claim.
        meta = one.frame.meta._replace(width=width, height=height)
        try:
            outcome = self._follower(meta.camera_id, zones).frame(meta, one.picture, found)
            boxes, updates = outcome.boxes, list(outcome.updates)
        except Exception:
            self._drop(meta.camera_id, "frame")
            boxes, updates = tuple(_box(item, width, height) for item in found), []
        return Looked(one.frame, width, height, boxes, updates)

    def _follower(self, camera: str, zones: Mapping[str, tuple[Zone, ...]]) -> Follower:
        drawn = zones.get(camera, ())
        follower = self._followers.get(camera)
        if follower is None:
            assert self._facts is not None
            if len(self._followers) >= MAX_CAMERAS:
                raise LamppostError(Kind.FULL, f"Over {MAX_CAMERAS} cameras at one worker.")
            follower = self._parts.follow(camera, self._facts, self._update_us, drawn)
            self._followers[camera] = follower
        elif drawn is not self._zones.get(camera):
            follower.set_zones(drawn)
        self._zones[camera] = drawn
        self._heard_us[camera] = self._clock.monotonic_us()
        return follower

    def _drop(self, camera: str, where: str) -> None:
        """Its tracker failed: begin anew. What it followed is closed by the archive, by silence."""
        self._remove(camera)
        if (held := self._limiter.allow(f"tracker {camera}")) is not None:
            self._log.exception("tracker failed", camera=camera, where=where, withheld=held)

    def _remove(self, camera: str) -> None:
        for table in (self._followers, self._zones, self._heard_us):
            table.pop(camera, None)


def _no_picture(frame: Frame) -> Looked:
    return Looked(frame, 0, 0, (), [], undecodable=True)


def _box(found: Found, width: int, height: int) -> Box:
    return Box(
        found.class_name,
        found.confidence,
        found.x1 / width,
        found.y1 / height,
        (found.x2 - found.x1) / width,
        (found.y2 - found.y1) / height,
    )


def product() -> Parts:
    """The real detector and trackers. Imported at first use, on the worker thread: the libraries
    behind them take seconds."""

    def open_detector(settings: Settings) -> Detector:
        found: Detector = importlib.import_module("services.detect.open_detector").open_detector(
            settings
        )
        return found

    def follow(camera: str, facts: ModelFacts, update_us: int, zones: tuple[Zone, ...]) -> Follower:
        sightings = importlib.import_module("services.detect.sightings")
        found: Follower = sightings.CameraSightings(camera, facts, update_us=update_us, zones=zones)
        return found

    return Parts(open_detector, follow)
