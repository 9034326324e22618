"""A path kept small tells at every time where the thing was, within its tolerance."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.detect.paths import (
    HEIGHT_TOLERANCE,
    LEAST,
    MAX_POINTS,
    TOLERANCE,
    PathKeeper,
    Stand,
)
from shared.sightings import PathPoint

ASPECT = 16 / 9
STORED = 1.5e-4
"""Places are rounded when they are stored, and times to milliseconds."""
T0 = 1_700_000_000_000_000


def _at(path: tuple[PathPoint, ...], ms: float) -> tuple[float, float, float]:
    for before, after in pairwise(path):
        if before.ms <= ms <= after.ms:
            share = (ms - before.ms) / (after.ms - before.ms)
            return (
                before.x + (after.x - before.x) * share,
                before.y + (after.y - before.y) * share,
                before.h + (after.h - before.h) * share,
            )
    assert len(path) == 1 or ms >= path[-1].ms
    return path[-1].x, path[-1].y, path[-1].h


steps = st.tuples(
    st.integers(40, 2_000), st.floats(-0.05, 0.05), st.floats(-0.05, 0.05), st.floats(0.95, 1.05)
)


@settings(max_examples=60, deadline=None)
@given(walk=st.lists(steps, max_size=120), height=st.floats(0.02, 0.4))
def test_the_kept_path_is_within_its_tolerance(
    walk: list[tuple[int, float, float, float]], height: float
) -> None:
    keeper = PathKeeper(ASPECT)
    stand = Stand(T0, 0.5, 0.5, height)
    seen = [stand]
    keeper.add(stand)
    for ms, across, down, growth in walk:
        stand = Stand(
            stand.at_us + ms * 1000,
            min(1.0, max(0.0, stand.x + across)),
            min(1.0, max(0.0, stand.y + down)),
            min(0.9, max(0.02, stand.h * growth)),
        )
        seen.append(stand)
        keeper.add(stand)
    path = keeper.points()
    assert len(path) <= MAX_POINTS + 1
    assert [one.ms for one in path] == sorted({one.ms for one in path})
    assert path[0].ms == 0
    assert path[-1].ms == round((seen[-1].at_us - T0) / 1000)
    # After coarsening errors of two rounds add up; the bound is twice the tolerance then.
    twice = 2.0 if keeper.tolerance > TOLERANCE else 1.0
    tallest = max(one.h for one in seen)
    reach = twice * max(LEAST, keeper.tolerance * tallest) + STORED
    for one in seen:
        x, y, h = _at(path, (one.at_us - T0) / 1000)
        assert abs(x - one.x) * ASPECT <= reach
        assert abs(y - one.y) <= reach
        assert abs(h - one.h) <= reach * HEIGHT_TOLERANCE / TOLERANCE + STORED


def test_a_straight_walk_is_two_points() -> None:
    keeper = PathKeeper(ASPECT)
    for number in range(100):
        keeper.add(Stand(T0 + number * 200_000, 0.1 + number * 0.008, 0.5, 0.2))
    assert keeper.points() == (PathPoint(0, 0.1, 0.5, 0.2), PathPoint(19_800, 0.892, 0.5, 0.2))


def test_a_pause_is_kept_though_the_line_is_straight() -> None:
    keeper = PathKeeper(ASPECT)
    for number in range(90):
        walked = min(number, 30) + max(0, number - 60)
        keeper.add(Stand(T0 + number * 200_000, 0.1 + walked * 0.01, 0.5, 0.2))
    path = keeper.points()
    assert 4 <= len(path) <= 6
    assert _at(path, 9_000)[0] == pytest.approx(0.4, abs=0.02)


def test_however_long_it_wanders_the_points_are_bounded() -> None:
    keeper = PathKeeper(ASPECT)
    for number in range(3_000):
        turn = number / 7
        keeper.add(
            Stand(
                T0 + number * 100_000, 0.5 + 0.3 * math.cos(turn), 0.5 + 0.3 * math.sin(turn), 0.1
            )
        )
        if number % 25 == 0:
            assert len(keeper.points()) <= MAX_POINTS + 1


def test_one_point_is_a_path() -> None:
    keeper = PathKeeper(ASPECT)
    keeper.add(Stand(T0, 0.123456, 0.5, 0.2))
    assert keeper.points() == (PathPoint(0, 0.1235, 0.5, 0.2),)
