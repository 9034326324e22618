"""The motion gate: what moves passes, and what only looks like it does not for long."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from services.ingest import cells
from services.ingest.motion import CellGate
from shared.clock import SECOND_US
from tests.support import scenes

HALF_S = SECOND_US // 2


@functools.cache
def front(light: int, wide: int) -> np.ndarray:
    columns = np.arange(wide)[None, :]
    level = 100 + light + 20 * np.sin(columns / 37) + 10 * np.sin(np.arange(360)[:, None] / 23)
    return level.astype(np.int16)


@functools.cache
def grain(number: int, wide: int) -> np.ndarray:
    noise = np.random.default_rng((1, number)).normal(0, 3, (360, wide))
    return noise.round().astype(np.int16)


def picture(
    random: np.random.Generator, left: int | None = None, light: int = 0, wide: int = 640
) -> np.ndarray:
    """A wall with a textured front, and perhaps a walker whose left edge is at `left`."""
    noisy = front(light, wide) + grain(int(random.integers(0, 16)), wide)
    if left is not None:
        noisy[200:240, left : left + 14] += 60
    return noisy.clip(0, 255).astype(np.uint8)


def settled(random: np.random.Generator, frames: int = 40) -> tuple[CellGate, int]:
    """A gate that has seen a quiet scene, and the time of the next frame."""
    gate = CellGate()
    for number in range(frames):
        gate.moved(picture(random), number * HALF_S)
    return gate, frames * HALF_S


def test_the_first_frames_pass_and_then_one_now_and_then() -> None:
    random = np.random.default_rng(3)
    gate = CellGate()
    passed = [n for n in range(100) if gate.moved(picture(random), n * SECOND_US)]
    assert passed == [0, 1, 2, 32, 62, 92]


def test_a_walker_passes_in_every_frame_and_nothing_after_it() -> None:
    random = np.random.default_rng(4)
    gate, at = settled(random)
    walking = [gate.moved(picture(random, 40 + n * 12), at + n * HALF_S) for n in range(20)]
    after = [gate.moved(picture(random), at + (20 + n) * HALF_S) for n in range(20)]
    assert all(walking)
    assert sum(after) == 0


@pytest.mark.parametrize("rate_fps", [1, 4])
def test_one_who_stands_is_looked_at_now_and_then_and_not_for_ever(rate_fps: int) -> None:
    random = np.random.default_rng(5)
    step, gate = SECOND_US // rate_fps, CellGate()
    lefts = [None] * 20 * rate_fps + [20 + n * 14 // rate_fps for n in range(10 * rate_fps)]
    stands = lefts + [lefts[-1]] * 20 * rate_fps
    passed = [gate.moved(picture(random, left), n * step) for n, left in enumerate(stands)]
    assert 9 <= sum(passed[-20 * rate_fps :]) <= 16, "still, but looked at"
    later = [
        gate.moved(picture(random, lefts[-1]), (len(stands) + n) * step)
        for n in range(20 * rate_fps)
    ]
    assert sum(later[-5 * rate_fps :]) <= 1, "part of the background by now"


def test_the_light_as_a_whole_is_no_motion() -> None:
    random = np.random.default_rng(6)
    gate, at = settled(random)
    lights = [round(25 * np.sin(n / 9)) for n in range(50)]
    passed = [
        gate.moved(picture(random, None, lit), at + n * HALF_S) for n, lit in enumerate(lights)
    ]
    assert sum(passed) <= 1


def test_another_picture_begins_anew_whatever_its_size() -> None:
    random = np.random.default_rng(7)
    gate, at = settled(random)
    other = 255 - picture(random)
    other[::40] = 0
    shapes = [
        other,
        picture(random, wide=320),
        np.zeros((8, 8), np.uint8),
        picture(random, wide=642),
    ]
    assert [gate.moved(one, at + n * HALF_S) for n, one in enumerate(shapes)] == [True] * 4


def test_a_clock_that_steps_or_stops_is_survived() -> None:
    random = np.random.default_rng(8)
    gate, at = settled(random)
    assert not gate.moved(picture(random), at - HALF_S // 5), "reordered"
    assert not gate.moved(picture(random), at)
    assert gate.moved(picture(random), at - 3_600 * SECOND_US), "set back"
    gate, at = settled(random)
    assert gate.moved(picture(random), at + 3_600 * SECOND_US), "an hour later"


@pytest.mark.parametrize(
    "make", [scenes.rain, scenes.shake, scenes.night], ids=lambda m: m.__name__
)
def test_a_scene_with_weather_is_mostly_passed_over_and_its_walkers_are_not(
    make: scenes.Maker,
) -> None:
    scene = make(31, seconds=70)
    times, passed = scenes.gated(scene, CellGate())
    visits = scene.visits()
    assert visits and all(scenes.recalled(visit, times, passed) for visit in visits)
    empty = [p for at, p in zip(times, passed, strict=True) if not scenes.shown(at, visits)]
    assert sum(empty) <= 0.3 * len(empty)


def test_thin_bright_drops_leave_the_picture_and_things_stay() -> None:
    still = np.full((64, 64), 90, np.uint8)
    rainy = still.copy()
    rainy[5:25, 20:23] = 200
    assert (cells.without_drops(rainy) == still).all()
    still[30:50, 30:36] = 200
    assert (cells.without_drops(still) == still).all()


@pytest.mark.parametrize(("right", "down"), [(3, 0), (-2, 2), (0.4, -0.3)])
def test_a_shift_of_the_camera_is_measured(right: float, down: float) -> None:
    y, x = np.mgrid[0:360, 0:640].astype(float)

    def view(dx: float, dy: float) -> np.ndarray:
        u, v = x - dx, y - dy
        level = 120 + 40 * np.sin(u / 23) + 30 * np.sin(v / 17) + 15 * np.sin((u + v) / 11)
        return level.astype(np.uint8)

    mean, moved = cells.cells_of(view(0, 0)), cells.cells_of(view(right, down))
    found = cells.shift_of(*cells.slopes(mean), moved - mean, 640)
    assert found == pytest.approx((right, down), abs=0.35)
