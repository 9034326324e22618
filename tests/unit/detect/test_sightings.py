"""One camera's frames to sightings: what is told, when, and that it is told the same again."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from services.detect.detector import Found, ModelFacts
from services.detect.sightings import CameraSightings, Outcome
from shared import ids
from shared.clock import SECOND_US
from shared.messages import FrameMeta, SightingUpdated, decode, encode
from shared.sightings import MAX_SIGHTING_S, Speed, Zone

T0 = 1_700_000_000 * SECOND_US
FACTS = ModelFacts("tiny", "ab" * 32, "f32", "openvino", ("person", "car", "truck"), 640, 480)
PICTURE = np.full((360, 640, 3), 120, np.uint8)
UPDATE_S = 2.0
GATE = Zone(id="gate", kind="line", name="Gate", points=((0.5, 1.0), (0.5, 0.0)))


def found(
    x: float, y: float = 200, h: float = 80, name: str = "person", sure: float = 0.9
) -> Found:
    """A box around a middle, in pixels."""
    return Found(name, sure, x - h / 5, y - h / 2, x + h / 5, y + h / 2)


class Camera:
    """A camera whose frames come at a rate."""

    def __init__(self, rate_fps: float = 5.0, zones: tuple[Zone, ...] = ()) -> None:
        self.sightings = CameraSightings(
            "cam", FACTS, update_us=round(UPDATE_S * SECOND_US), zones=zones
        )
        self.every_us = round(SECOND_US / rate_fps)
        self.number = 0
        self.updates: list[SightingUpdated] = []

    @property
    def now_us(self) -> int:
        return T0 + self.number * self.every_us

    def show(self, *boxes: Found) -> Outcome:
        outcome = self.at(self.now_us, boxes)
        self.number += 1
        return outcome

    def at(self, capture_us: int, boxes: Sequence[Found]) -> Outcome:
        meta = FrameMeta("cam", capture_us, 20_000, 640, 360, 1, self.number, self.every_us)
        outcome = self.sightings.frame(meta, PICTURE, boxes)
        self.updates += outcome.updates
        return outcome

    def walk(self, frames: int, pace: float = 14.0, begin: float = 40.0) -> None:
        """A person goes right, so many pixels a frame."""
        for number in range(frames):
            self.show(found(begin + pace * number))

    def close(self) -> None:
        self.updates += self.sightings.close()


def test_a_walker_is_told_at_the_second_box_now_and_then_and_at_the_end() -> None:
    camera = Camera()
    camera.walk(31)
    for _ in range(20):
        camera.show()
    times = [(update.sent_at_us - T0) / SECOND_US for update in camera.updates]
    assert times == [0.2, 2.2, 4.2, 9.0]
    assert [update.ended for update in camera.updates] == [False, False, False, True]
    assert len({update.sighting.id for update in camera.updates}) == 1
    last = camera.updates[-1].sighting
    assert last.id == ids.derived_id("cam", "person", T0, 0)
    assert (last.start_us, last.end_us, last.frames) == (T0, T0 + 6 * SECOND_US + 1, 31)
    assert (last.class_name, last.group, last.speed) == ("person", "person", Speed.WALKING)
    assert (last.model, last.model_sha256, last.precision) == FACTS[:3]
    assert last.uncertainty_us == 20_000
    assert last.path[0] == msgspec.structs.replace(last.path[0], ms=0, x=0.0625, y=0.6667)
    assert last.path[-1].ms == 6_000
    assert camera.updates[0].thumbnail is not None


def test_a_box_carries_its_sighting_from_the_second_on() -> None:
    camera = Camera()
    first = camera.show(found(100), found(400, sure=0.3))
    second = camera.show(found(102), found(400, sure=0.3))
    assert [box.sighting_id for box in first.boxes] == ["", ""]
    assert [box.sighting_id for box in second.boxes] == [camera.updates[0].sighting.id, ""]
    box = second.boxes[0]
    assert (box.x, box.y, box.w, box.h) == (0.1344, 0.4444, 0.05, 0.2222)


def test_one_box_alone_makes_no_sighting() -> None:
    camera = Camera()
    for number in range(40):
        camera.show(*([found(300)] if number == 10 else []))
    camera.close()
    assert camera.updates == []
    assert camera.sightings.open == 0


def test_a_parked_car_is_told_seldom_and_lasts_ten_minutes_at_most() -> None:
    camera = Camera(rate_fps=1.0)
    dice = random.Random(3)
    for _ in range(900):
        camera.show(found(300 + dice.gauss(0, 1), name="car"))
    camera.close()
    ended = [update.sighting for update in camera.updates if update.ended]
    assert len(ended) == 2
    assert ended[0].end_us - ended[0].start_us <= MAX_SIGHTING_S * SECOND_US + 1
    assert ended[1].start_us == ended[0].end_us - 1 + SECOND_US
    assert ended[0].speed is Speed.STILL
    # At least once in 20 s, since the index closes what was silent for a minute.
    assert 900 / 20 <= len(camera.updates) <= 900 / 20 + 15
    gaps = np.diff([update.sent_at_us for update in camera.updates]) / SECOND_US
    assert max(gaps) <= 22


def test_the_same_frames_after_a_restart_tell_the_same() -> None:
    def run() -> list[bytes]:
        camera = Camera()
        dice = random.Random(5)
        for number in range(60):
            boxes = [found(60 + 6 * number), found(500 - 6 * number, 260, 100)]
            camera.show(*dice.sample(boxes, 2))
        camera.close()
        return [encode(update) for update in camera.updates]

    assert run() == run()


def test_after_its_end_a_sighting_is_told_no_more() -> None:
    camera = Camera()
    camera.walk(10)
    for _ in range(20):
        camera.show()
    camera.walk(10)
    camera.close()
    camera.close()
    camera.updates += camera.sightings.silent(camera.now_us + 3600 * SECOND_US)
    over: set[str] = set()
    for update in camera.updates:
        assert update.sighting.id not in over
        if update.ended:
            over.add(update.sighting.id)
    assert len(over) == 2


def test_without_frames_silence_ends_a_sighting() -> None:
    camera = Camera()
    camera.walk(10)
    assert camera.sightings.silent(camera.now_us + SECOND_US) == []
    (last,) = camera.sightings.silent(camera.now_us + 10 * SECOND_US)
    assert last.ended and last.sighting.frames == 10
    assert camera.sightings.open == 0


def test_who_stands_while_frames_are_held_back_is_one_sighting() -> None:
    camera = Camera()
    for _ in range(25):
        camera.show(found(300))
    camera.number += 100
    assert camera.sightings.silent(camera.now_us) == []
    for _ in range(5):
        camera.show(found(302))
    camera.close()
    assert [update.sighting.frames for update in camera.updates if update.ended] == [30]


def test_a_car_seen_as_a_truck_now_and_then_is_one_car() -> None:
    camera = Camera()
    for number in range(20):
        camera.show(found(100 + 20 * number, name="truck" if number % 4 == 1 else "car"))
    camera.close()
    ended = [update.sighting for update in camera.updates if update.ended]
    assert [(one.class_name, one.group) for one in ended] == [("car", "vehicle")]


def test_person_and_bicycle_at_one_place_are_two() -> None:
    camera = Camera()
    for number in range(10):
        camera.show(found(100 + 10 * number), found(100 + 10 * number, name="bicycle"))
    camera.close()
    groups = sorted(update.sighting.group for update in camera.updates if update.ended)
    assert groups == ["cycle", "person"]


def test_lines_are_marked_and_new_zones_apply_to_who_is_there() -> None:
    camera = Camera()
    camera.walk(25)
    assert camera.updates[-1].sighting.lines == ()
    camera.sightings.set_zones((GATE,))
    camera.walk(20, begin=390)
    camera.close()
    (crossing,) = camera.updates[-1].sighting.lines
    assert (crossing.line_id, crossing.sign) == ("gate", 1)
    assert crossing.at_us == pytest.approx(T0 + 4 * SECOND_US, abs=SECOND_US // 5)


def test_a_frame_that_comes_again_or_late_changes_nothing() -> None:
    camera = Camera()
    camera.walk(10)
    told = len(camera.updates)
    again = camera.at(camera.now_us - camera.every_us, [found(166)])
    late = camera.at(camera.now_us - 5 * camera.every_us, [found(500)])
    assert [box.sighting_id for box in (*again.boxes, *late.boxes)] == ["", ""]
    assert len(camera.updates) == told
    camera.close()
    assert camera.updates[-1].sighting.frames == 10


def test_a_clock_set_back_ends_what_was_open() -> None:
    camera = Camera()
    camera.walk(10)
    outcome = camera.at(T0 - 600 * SECOND_US, [found(166)])
    assert [update.ended for update in outcome.updates] == [True]
    assert camera.sightings.open == 0


def test_an_update_is_small_enough_for_the_bus() -> None:
    camera = Camera()
    dice = random.Random(1)
    for _ in range(300):
        camera.show(found(300 + dice.gauss(0, 40), 200 + dice.gauss(0, 20), 180))
    camera.close()
    coded = [encode(update) for update in camera.updates]
    assert max(map(len, coded)) < 32 * 1024
    assert [decode(one, SightingUpdated) for one in coded] == camera.updates


def test_a_crowd_is_bounded() -> None:
    camera = Camera()
    for _ in range(3):
        camera.show(*(found(8 + 16 * x, 8 + 16 * y, 15) for x in range(38) for y in range(20)))
    assert camera.sightings.open <= 200


def test_an_unknown_class_and_an_empty_box_belong_to_nothing() -> None:
    camera = Camera()
    for _ in range(3):
        flat = Found("person", 0.9, 10, 10, 10, 50)
        outcome = camera.show(found(100, name="bench"), flat)
    assert [(box.class_name, box.sighting_id) for box in outcome.boxes] == [("bench", "")]
    assert camera.updates == []
