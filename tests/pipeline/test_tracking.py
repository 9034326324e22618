"""Who is who stays so from 1 to 10 frames a second, through the whole path and on other footage.

Scores by py-motmetrics at an overlap of one half. One set of defaults for everything; docs/
tracking.md has the tables. Ground truth and footage lie in LAMPPOST_DATA.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from services.detect.detector import Found
from services.detect.open_detector import open_detector
from shared.settings import Settings
from tests.support.detecting import data_file, pictures_of
from tests.support.tracking import (
    Boxes,
    Rows,
    Score,
    bytetracked,
    followed,
    published,
    rows,
    score,
)
from tests.support.whole_path import near_lossless, packets_in, recorded, sampled

Note = Callable[[str, object], None]
VTEST, VTEST_RATE = 795, 10.0
CAMPUS, CAMPUS_RATE = 71, 25.0


class Bound(NamedTuple):
    """Every so many frames: the least MOTA and IDF1."""

    every: int
    mota: float
    idf1: float


THROUGH = (Bound(1, 0.77, 0.70), Bound(2, 0.77, 0.72), Bound(5, 0.77, 0.74), Bound(10, 0.74, 0.66))
DIRECT = (
    Bound(1, 0.772, 0.700),
    Bound(2, 0.771, 0.728),
    Bound(3, 0.785, 0.773),
    Bound(5, 0.785, 0.756),
    Bound(10, 0.751, 0.677),
)
"""The floor: a simpler association by distance, and at 5 and 10 frames/s also ByteTrack's IDF1."""


def truth_of(name: str) -> Rows:
    return rows(data_file("mot", "gt", name, "gt.txt"))


def told(truth: Rows, boxes: Boxes, count: int, every: int, rate_fps: float) -> Score:
    frames = range(0, count, every)
    return score(truth, followed(boxes, frames, rate_fps), frames)


def settings_for(state: Path) -> Settings:
    weights = data_file("weights", "yolo26n-rec-640.onnx")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    given = {
        "model": str(weights),
        "model_sha256": digest,
        "classes": ["person"],
        "precision": "f32",
    }
    return Settings.model_validate({"state_dir": state, "detect": given})


def as_box(box: Found) -> tuple[float, float, float, float, float]:
    return box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1, box.confidence


def direct(state: Path, clip: Path) -> Boxes:
    """The boxes of a clip's own frames."""
    detector = open_detector(settings_for(state))
    found = {
        number: [as_box(box) for box in detector.detect([picture])[0]]
        for number, picture in pictures_of(clip, 1)
    }
    detector.close()
    return found


def through_path(folder: Path, source: Path, count: int) -> Boxes:
    """The boxes of a clip's frames after recording, decoding, scaling and JPEG."""
    clip = folder / "clips" / "clip.mp4"
    clip.parent.mkdir(parents=True)
    assert near_lossless(source, clip) == count
    segments = asyncio.run(recorded(folder / "state", clip))
    assert sum(map(packets_in, segments)) == count
    detector = open_detector(settings_for(folder))
    found = {
        frame.number: [as_box(frame.in_clip(box)) for box in detector.detect([frame.picture])[0]]
        for frame in sampled(segments, 1)
    }
    detector.close()
    return found


def check(what: str, truth: Rows, boxes: Boxes, bounds: tuple[Bound, ...], note: Note) -> list[str]:
    """Note vtest's scores; what fell short."""
    short = []
    for bound in bounds:
        got = told(truth, boxes, VTEST, bound.every, VTEST_RATE)
        note("figure", f"{what}, {VTEST_RATE / bound.every:.1f} frames/s: {got}")
        if got.mota < bound.mota or got.idf1 < bound.idf1:
            short.append(f"{bound}: {got}")
    return short


def test_the_scorer_says_what_a_scorer_must_say() -> None:
    folder = data_file("mot", "scorer", "TUD-Campus")
    truth = rows(folder / "gt.txt", least=-2)
    ours = rows(folder / "test.txt", least=-2)
    got = score(truth, ours, range(CAMPUS))
    assert (round(got.mota, 4), got.switches) == (0.5265, 7)
    assert got.idf1 == pytest.approx(0.5577, abs=5e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_walkers_keep_their_names_through_the_whole_path(
    tmp_path: Path, record_property: Note
) -> None:
    boxes = through_path(tmp_path, data_file("footage", "vtest.avi"), VTEST)
    truth = truth_of("PETS09-S2L1")
    assert check("vtest through the path", truth, boxes, THROUGH, record_property) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_walkers_keep_their_names_on_the_clip_itself(tmp_path: Path, record_property: Note) -> None:
    boxes = direct(tmp_path, data_file("footage", "vtest.avi"))
    truth = truth_of("PETS09-S2L1")
    assert check("vtest's own frames", truth, boxes, DIRECT, record_property) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_tud_campus_is_stated(tmp_path: Path, record_property: Note) -> None:
    boxes = through_path(tmp_path, data_file("footage", "TUD-Campus.mp4"), CAMPUS)
    truth = truth_of("TUD-Campus")
    for every in (1, 2, 5, 12, 25):
        got = told(truth, boxes, CAMPUS, every, CAMPUS_RATE)
        rate = CAMPUS_RATE / every
        record_property("figure", f"TUD-Campus through the path, {rate:.1f} frames/s: {got}")
        assert got.idf1 >= (0.6 if every < 25 else 0.2)


OTHERS = {
    "TUD-Campus": (71, 25.0),
    "ETH-Sunnyday": (354, 14.0),
    "ETH-Pedcross2": (837, 14.0),
    "KITTI-17": (145, 10.0),
    "PETS09-S2L1": (795, 10.0),
}
"""Frames and rate. The cameras of ETH and KITTI move, which ours never do."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_other_footage_and_published_boxes_are_tracked(record_property: Note) -> None:
    ours: list[float] = []
    peers: list[float] = []
    for name, (count, rate_fps) in OTHERS.items():
        truth = truth_of(name)
        boxes = published(data_file("mot", "dets", f"{name}.txt"))
        for aim in (rate_fps, 5.0, 2.0, 1.0):
            every = round(rate_fps / aim)
            frames, rate = range(0, count, every), rate_fps / every
            got = score(truth, followed(boxes, frames, rate_fps), frames)
            peer = score(truth, bytetracked(boxes, frames, rate), frames)
            ours.append(got.idf1)
            peers.append(peer.idf1)
            note = f"{name}, published boxes, {rate:.1f} frames/s: {got}; ByteTrack {peer}"
            record_property("figure", note)
            assert aim > 2 or got.idf1 >= peer.idf1, note
    assert sum(ours) >= sum(peers)
