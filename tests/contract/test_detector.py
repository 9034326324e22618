"""The contract of port Detector, for every adapter (services/detect/detector.py).

The ONNX adapters look with tiny generated models, in both layouts; the adapter `yolo`, where it is
installed and LAMPPOST_DATA has weights, at real footage.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from services.detect.detector import Detector, Picture
from services.detect.open_detector import open_detector
from services.detect.outputs import Layout
from shared.errors import Kind, LamppostError
from shared.settings import Settings
from tests.support.detecting import Block, data_file, paint, pictures_of, tiny_model

Open = Callable[..., Detector]
SEEN = ("person", "car", "dog")


class World(NamedTuple):
    """A way to open the adapter with some settings, and pictures in which it sees something."""

    open: Open
    pictures: list[Picture]


def scenes() -> list[Picture]:
    """Of several sizes and shapes; a block at each edge."""
    return [
        paint(320, 320, [Block(4, 4, "person"), Block(0, 0, "car", 0.6), Block(9, 9, "dog", 0.5)]),
        paint(640, 640, [Block(1, 2, "car", 0.9), Block(3, 2, "car", 0.4), Block(9, 0, "person")]),
        paint(1280, 768, [Block(0, 2, "person", 0.7), Block(5, 7, "dog", 0.3)]),
        paint(192, 320),
        paint(192, 320, [Block(2, 5, "dog", 0.8), Block(7, 9, "person", 0.25)]),
    ]


@pytest.fixture(
    params=[
        *[f"{runtime}-{layout}" for runtime in ("openvino", "onnxruntime") for layout in Layout],
        pytest.param(
            "yolo",
            marks=[
                pytest.mark.slow,
                pytest.mark.filterwarnings("default"),
                pytest.mark.skipif(
                    importlib.util.find_spec("ultralytics") is None,
                    reason="the extra `yolo` is not installed (requirements/yolo.txt)",
                ),
            ],
        ),
    ]
)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    adapter, _, layout = request.param.partition("-")
    if adapter == "yolo":
        path = data_file("weights", "yolo26n-rec.pt")
        video = pictures_of(data_file("footage", "vtest.avi"), 300)
        pictures = [picture for _, picture in video]
        pictures.append(np.ascontiguousarray(pictures[0][100:500, 200:500]))
    else:
        path = tmp_path / "tiny.onnx"
        path.write_bytes(tiny_model(Layout(layout)))
        pictures = scenes()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    def opened(**detect: object) -> Detector:
        fixed = {"model": str(path), "model_sha256": digest, "adapter": adapter, "device": "cpu"}
        given = {"state_dir": tmp_path, "detect": {**fixed, "precision": "f32", **detect}}
        return open_detector(Settings.model_validate(given))

    return World(opened, pictures)


def test_boxes_are_sure_enough_in_order_and_inside(world: World) -> None:
    detector = world.open(threshold=0.35)
    found = detector.detect(world.pictures)
    assert len(found) == len(world.pictures)
    assert sum(map(len, found)) >= 5
    for picture, boxes in zip(world.pictures, found, strict=True):
        height, width = picture.shape[:2]
        assert [box.confidence for box in boxes] == sorted(
            (box.confidence for box in boxes), reverse=True
        )
        for box in boxes:
            assert 0.35 <= box.confidence <= 1
            assert 0 <= box.x1 < box.x2 <= width
            assert 0 <= box.y1 < box.y2 <= height


def test_the_same_picture_gives_the_same_boxes_beside_any_other(world: World) -> None:
    detector = world.open(batch=3)
    alone = [detector.detect([picture])[0] for picture in world.pictures]
    assert detector.detect(world.pictures) == alone
    assert detector.detect(world.pictures[::-1]) == alone[::-1]
    assert detector.detect(world.pictures[1:]) == alone[1:]


def test_only_the_classes_asked_for(world: World) -> None:
    every = world.open().detect(world.pictures)
    persons = world.open(classes=["person"]).detect(world.pictures)
    assert any(persons)
    assert persons == [[box for box in boxes if box.class_name == "person"] for boxes in every]


def test_the_threshold_comes_before_suppression(world: World) -> None:
    """A higher threshold takes boxes away and brings none."""
    low = world.open(threshold=0.2).detect(world.pictures)
    high = world.open(threshold=0.55).detect(world.pictures)
    assert high == [[box for box in boxes if box.confidence >= 0.55] for boxes in low]
    assert sum(map(len, high)) < sum(map(len, low))


def test_nothing_in_gives_nothing_out(world: World) -> None:
    assert world.open().detect([]) == []


def test_what_is_no_picture_is_invalid_and_the_detector_lives_on(world: World) -> None:
    detector = world.open()
    good = detector.detect(world.pictures)
    wrong: list[np.ndarray] = [
        np.zeros((20, 20), np.uint8),
        np.zeros((20, 20, 4), np.uint8),
        np.zeros((0, 20, 3), np.uint8),
        np.zeros((20, 20, 3), np.float32),
    ]
    for picture in wrong:
        with pytest.raises(LamppostError) as caught:
            detector.detect([world.pictures[0], picture])
        assert caught.value.kind is Kind.INVALID
    assert detector.detect(world.pictures) == good


def test_pictures_are_left_as_they_were(world: World) -> None:
    before = [picture.copy() for picture in world.pictures]
    locked = [picture.copy() for picture in world.pictures]
    for picture in locked:
        picture.flags.writeable = False
    detector = world.open()
    assert detector.detect(locked) == detector.detect(before)
    assert all(np.array_equal(a, b) for a, b in zip(locked, before, strict=True))


def test_a_view_that_is_not_contiguous_is_a_picture_too(world: World) -> None:
    detector = world.open()
    mirrored = world.pictures[0][:, ::-1]
    assert detector.detect([mirrored]) == detector.detect([np.ascontiguousarray(mirrored)])


def test_facts_say_which_model_looks(world: World) -> None:
    facts = world.open().facts
    assert len(facts.sha256) == 64
    assert facts.precision == "f32"
    assert facts.runtime.split()[0] in ("openvino", "onnxruntime", "ultralytics")
    assert set(SEEN) <= set(facts.classes)
    assert (facts.width, facts.height) in ((320, 320), (640, 640))


def test_a_closed_detector_says_so(world: World) -> None:
    detector = world.open()
    detector.close()
    detector.close()
    with pytest.raises(LamppostError) as caught:
        detector.detect(world.pictures)
    assert caught.value.kind is Kind.CLOSED


def test_another_hash_is_refused(world: World) -> None:
    with pytest.raises(LamppostError) as caught:
        world.open(model_sha256="0" * 64)
    assert caught.value.kind is Kind.CORRUPT
