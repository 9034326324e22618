"""What the motion gate saves, and that nobody is lost by it: real footage through ingest's own
pace, scaling, JPEG and gate to detector and sightings, with the gate and without.

docs/decisions/0006-motion-gate.md. Needs LAMPPOST_DATA and its weights.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import pytest
import simplejpeg

from services.detect.detector import Detector, Found, Picture
from services.detect.open_detector import open_detector
from services.detect.sightings import CameraSightings
from services.ingest.cells import Luma
from services.ingest.frames import JpegMaker, Scaler
from services.ingest.motion import CellGate
from services.ingest.passed_over import Account
from services.ingest.sampler import Pace
from shared.clock import SECOND_US
from shared.messages import FrameMeta, SightingUpdated
from shared.settings import Settings
from shared.sightings import Sighting
from tests.support.detecting import data_file

Note = Callable[[str, object], None]
ONE_BY_ONE = "intel_one-by-one-person-detection.mp4"
VISITORS = 6
"""Counted by eye: they come at 6, 23, 51, 74, 92 and 124 s, each once."""
CLIPS = (
    ONE_BY_ONE,
    "intel_car-detection.mp4",
    "street_webcam_vfr.mp4",
    "vtest.avi",
    "vtest_480x360_h264.avi",
    "bridge_traffic_360p.mp4",
    "towncentre_10s_1080p.mp4",
    "TUD-Campus.mp4",
    "moonfire_camera_1fps.mp4",
)
BEGIN_US = 1_700_000_000 * SECOND_US
LEAST_EMPTY_US = 3 * SECOND_US // 2
EDGE_US = SECOND_US
"""A hand or a shadow is there so long before the detector finds a person, and after it."""
REMAIN = 0.98
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Frame(NamedTuple):
    """A sampled frame, what the gate gets of it, and what the detector found in it."""

    at_us: int
    luma: Luma
    picture: Picture
    found: tuple[Found, ...]


class Run(NamedTuple):
    """The sightings of a clip, and which of its sampled frames the detector had to look at."""

    sightings: list[Sighting]
    passed: list[bool]


@functools.cache
def detector() -> Detector:
    weights = data_file("weights", "yolo26n-rec-384x640.onnx")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    detect = {"model": str(weights), "model_sha256": digest, "precision": "f32"}
    return open_detector(Settings.model_validate({"detect": detect}))


def sampled(clip: Path, rate_fps: float) -> Iterator[tuple[int, Luma, bytes]]:
    """Frames as the sampler takes and sends them."""
    pace, scaler, jpeg = Pace(rate_fps), Scaler(Settings().ingest.sample_width), JpegMaker()
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            at_us = BEGIN_US + round((frame.time or 0.0) * SECOND_US)
            if pace.due(at_us):
                planes = scaler.scale(frame)
                coded = jpeg.encode(planes)
                assert coded is not None
                yield at_us, planes.y, coded


@functools.cache
def frames_of(name: str, rate_fps: float) -> list[Frame]:
    found = []
    for at_us, luma, coded in sampled(data_file("footage", name), rate_fps):
        picture = simplejpeg.decode_jpeg(coded, colorspace="RGB")
        found.append(Frame(at_us, luma, picture, tuple(detector().detect([picture])[0])))
    return found


def run(frames: Sequence[Frame], passed: list[bool]) -> Run:
    """The frames that passed, to sightings, with the time that each covers."""
    camera = CameraSightings("gate", detector().facts, update_us=2 * SECOND_US)
    account = Account("gate", lambda _run: None)
    last: dict[str, Sighting] = {}

    def keep(updates: Sequence[SightingUpdated]) -> None:
        last.update((update.sighting.id, update.sighting) for update in updates)

    for number, (frame, passes) in enumerate(zip(frames, passed, strict=True)):
        if not passes:
            account.passed_over("gated", frame.at_us)
            keep(camera.silent(frame.at_us))
            continue
        height, width = frame.picture.shape[:2]
        covers_us = account.sent(frame.at_us)
        meta = FrameMeta("gate", frame.at_us, 0, width, height, 1, number, covers_us)
        keep(camera.frame(meta, frame.picture, frame.found).updates)
    keep(camera.close())
    return Run(sorted(last.values(), key=lambda one: one.start_us), passed)


@functools.cache
def both(name: str, rate_fps: float) -> tuple[Run, Run]:
    """Without the gate, and with it."""
    frames, gate = frames_of(name, rate_fps), CellGate()
    passed = [gate.moved(frame.luma, frame.at_us) for frame in frames]
    return run(frames, [True] * len(frames)), run(frames, passed)


def same(one: Sighting, other: Sighting) -> bool:
    """Whether the other shows the same thing at a time that is theirs both."""
    if one.group != other.group:
        return False
    if other.end_us < one.start_us - SECOND_US or other.start_us > one.end_us + SECOND_US:
        return False
    return any(
        abs(a.x - b.x) + abs(a.y - b.y) <= max(0.08, a.h) for a in one.path for b in other.path
    )


def empty_stretches(frames: Sequence[Frame]) -> list[tuple[int, int]]:
    """Where the detector finds no person for seconds on end, without the edges."""
    times = [f.at_us for f in frames if any(b.class_name == "person" for b in f.found)]
    edges = [frames[0].at_us - EDGE_US, *times, frames[-1].at_us + EDGE_US]
    spans = itertools.pairwise(edges)
    return [(a + EDGE_US, b - EDGE_US) for a, b in spans if b - a >= LEAST_EMPTY_US + 2 * EDGE_US]


@pytest.mark.parametrize("rate_fps", [1, 2])
def test_empty_stretches_cost_little_and_each_visitor_is_one_sighting(
    rate_fps: int, record_property: Note
) -> None:
    frames = frames_of(ONE_BY_ONE, rate_fps)
    _, gated = both(ONE_BY_ONE, rate_fps)
    stretches = empty_stretches(frames_of(ONE_BY_ONE, 2))
    assert len(stretches) == VISITORS + 1
    inside = [
        passes
        for frame, passes in zip(frames, gated.passed, strict=True)
        if any(a <= frame.at_us <= b for a, b in stretches)
    ]
    people = [one for one in gated.sightings if one.group == "person"]
    words = ", ".join(
        f"{(a - BEGIN_US) / SECOND_US:.1f}-{(b - BEGIN_US) / SECOND_US:.1f}" for a, b in stretches
    )
    figure = f"{rate_fps} fps: {sum(inside)} of {len(inside)} frames pass in the empty stretches"
    record_property("figure", f"{figure} ({words} s); {len(people)} sightings of {VISITORS} people")
    assert sum(inside) < 0.2 * len(inside)
    assert abs(len(people) - VISITORS) <= 1
    starts = [one.start_us for one in gated.sightings]
    assert not [at for at in starts if any(a <= at <= b for a, b in stretches)]


@pytest.mark.parametrize("name", CLIPS)
def test_what_is_seen_without_the_gate_is_seen_with_it(name: str, record_property: Note) -> None:
    without, gated = both(name, 2)
    lost = [one for one in without.sightings if not any(same(one, two) for two in gated.sightings)]
    share = 1 - len(lost) / max(1, len(without.sightings))
    record_property(
        "figure",
        f"{name}: {sum(gated.passed)} of {len(gated.passed)} frames pass, "
        f"{len(without.sightings)} sightings without the gate, {len(gated.sightings)} with it, "
        f"{share:.3f} remain",
    )
    assert share >= REMAIN, [
        (one.class_name, (one.start_us - BEGIN_US) / SECOND_US, one.frames, one.path[0])
        for one in lost
    ]
