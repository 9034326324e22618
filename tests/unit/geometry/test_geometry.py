"""Paths, zones and lines against shapely, which knows nothing of time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shared import geometry
from shared.domain import Point
from shared.geometry import Crossing, Timed

SECOND_US = 1_000_000
SQUARE = ((0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8))
LINE = ((0.5, 0.2), (0.5, 0.8))
"""From top to bottom: its left is the picture's right."""

places = st.tuples(st.floats(0, 1), st.floats(0, 1))
grid = st.tuples(st.integers(0, 8), st.integers(0, 8)).map(lambda at: (at[0] / 8, at[1] / 8))
"""Places on a grid meet corners and edges exactly, which random ones never do."""


def _timed(points: Sequence[Point], every_us: int = SECOND_US) -> list[Timed]:
    return [Timed(number * every_us, x, y) for number, (x, y) in enumerate(points)]


@st.composite
def stars(draw: st.DrawFn) -> list[Point]:
    """A simple polygon with dents: points around a middle."""
    count = draw(st.integers(3, 9))
    lengths = draw(st.lists(st.floats(0.1, 0.45), min_size=count, max_size=count))
    turns = [2 * math.pi * number / count for number in range(count)]
    return [
        (0.5 + far * math.cos(turn), 0.5 + far * math.sin(turn))
        for turn, far in zip(turns, lengths, strict=True)
    ]


polygons = stars() | st.lists(grid, min_size=3, max_size=6, unique=True)
paths = st.lists(places, min_size=2, max_size=12) | st.lists(grid, min_size=2, max_size=12)


@settings(max_examples=100, deadline=None)
@given(place=places | grid, polygon=polygons)
def test_inside_is_what_shapely_covers(place: Point, polygon: list[Point]) -> None:
    shape = shapely.Polygon(polygon)
    assume(shape.is_valid)
    point = shapely.Point(place)
    assume(shape.boundary.distance(point) > 1e-7 or shape.covers(point))
    assert geometry.inside(*place, polygon) == shape.covers(point)


@settings(max_examples=100, deadline=None)
@given(points=paths, polygon=polygons)
def test_visits_last_as_long_as_shapely_finds_the_path_inside(
    points: list[Point], polygon: list[Point]
) -> None:
    shape = shapely.Polygon(polygon)
    assume(shape.is_valid)
    path = _timed(points)
    stays = geometry.visits(path, polygon)
    lasted = sum(end_us - start_us for start_us, end_us in stays)
    expected = 0.0
    for before, after in pairwise(path):
        piece = shapely.LineString([(before.x, before.y), (after.x, after.y)])
        if piece.length > 1e-9:
            # Widened by less than is stored: shapely's own rounding loses paths along an edge.
            expected += SECOND_US * piece.intersection(shape.buffer(1e-9)).length / piece.length
        elif shape.covers(shapely.Point(before.x, before.y)):
            expected += SECOND_US
    assert lasted == pytest.approx(expected, abs=50 * len(path))
    for first, second in pairwise(stays):
        assert first[1] < second[0]
    for start_us, end_us in stays:
        middle = _place(path, (start_us + end_us) // 2)
        assert shape.distance(shapely.Point(middle)) < 1e-5


def _place(path: list[Timed], at_us: int) -> Point:
    for before, after in pairwise(path):
        if before.at_us <= at_us <= after.at_us:
            found = geometry.at(before, after, at_us)
            return found.x, found.y
    raise AssertionError(at_us)


@settings(max_examples=60, deadline=None)
@given(points=paths, polygon=polygons)
def test_a_path_that_shapely_sees_meet_the_polygon_is_a_visit(
    points: list[Point], polygon: list[Point]
) -> None:
    shape = shapely.Polygon(polygon)
    assume(shape.is_valid)
    apart = shape.distance(shapely.LineString(points))
    assume(apart > 1e-7 or shape.intersects(shapely.LineString(points)))
    assert bool(geometry.visits(_timed(points), polygon)) == (apart == 0)


@settings(max_examples=100, deadline=None)
@given(points=st.lists(grid, min_size=2, max_size=12), line=st.tuples(grid, grid))
def test_crossings_are_what_exact_arithmetic_finds(
    points: list[Point], line: tuple[Point, Point]
) -> None:
    assume(line[0] != line[1])
    assert geometry.crossings(_timed(points), line) == _crossings(points, line)


def _crossings(points: list[Point], line: tuple[Point, Point]) -> list[Crossing]:
    """By reading: after each touch or jump over the line, which side was left for which."""
    (ax, ay), (bx, by) = (tuple(map(Fraction, end)) for end in line)
    exact = [tuple(map(Fraction, point)) for point in points]
    turns = [(bx - ax) * (y - ay) - (by - ay) * (x - ax) for x, y in exact]
    off = [number for number, turn in enumerate(turns) if turn != 0]
    found = []
    for first, second in pairwise(off):
        if (turns[first] > 0) == (turns[second] > 0):
            continue
        if second == first + 1:
            share = turns[first] / (turns[first] - turns[second])
        else:
            share = Fraction(1)
        met = [a + (b - a) * share for a, b in zip(exact[first], exact[first + 1], strict=True)]
        along = (met[0] - ax) * (bx - ax) + (met[1] - ay) * (by - ay)
        if 0 <= along <= (bx - ax) ** 2 + (by - ay) ** 2:
            at_us = round((first + share) * SECOND_US)
            found.append(Crossing(at_us, 1 if turns[second] > 0 else -1))
    return found


@settings(max_examples=60, deadline=None)
@given(points=st.lists(places, min_size=2, max_size=12), line=st.tuples(places, places))
def test_crossings_are_where_shapely_sees_path_and_line_cross(
    points: list[Point], line: tuple[Point, Point]
) -> None:
    drawn = shapely.LineString(line)
    assume(drawn.length > 0.01)
    corners = [*(shapely.Point(point) for point in points), *map(shapely.Point, line)]
    # In general position: no corner of one on the other, where rounding decides.
    walked = shapely.LineString(points)
    assume(all(drawn.distance(point) > 1e-6 for point in corners[:-2]))
    assume(all(walked.distance(point) > 1e-6 for point in corners[-2:]))
    expected = sum(
        shapely.LineString([before, after]).crosses(drawn) for before, after in pairwise(points)
    )
    found = geometry.crossings(_timed(points), line)
    assert len(found) == expected
    signs = [one.sign for one in found]
    assert set(signs) <= {1, -1}
    back = geometry.crossings(_timed(points), (line[1], line[0]))
    assert [one.sign for one in back] == [-sign for sign in signs]


def test_left_and_right_are_those_of_who_looks_from_the_first_point_to_the_second() -> None:
    up = ((0.5, 0.8), (0.5, 0.2))
    rightwards = _timed([(0.2, 0.5), (0.8, 0.5)])
    assert geometry.crossings(rightwards, up) == [Crossing(500_000, 1)]
    assert geometry.crossings(rightwards, LINE) == [Crossing(500_000, -1)]


def test_coming_to_a_line_and_going_back_is_no_crossing() -> None:
    assert geometry.crossings(_timed([(0.2, 0.5), (0.5, 0.5), (0.2, 0.6)]), LINE) == []


def test_walking_along_a_line_is_one_crossing_where_it_was_met() -> None:
    path = _timed([(0.2, 0.3), (0.5, 0.3), (0.5, 0.6), (0.8, 0.6)])
    assert geometry.crossings(path, LINE) == [Crossing(SECOND_US, -1)]


def test_passing_beyond_the_ends_of_a_line_is_no_crossing() -> None:
    assert geometry.crossings(_timed([(0.2, 0.1), (0.8, 0.1)]), LINE) == []


def test_a_stay_goes_on_over_several_pieces() -> None:
    path = _timed([(0.0, 0.5), (0.4, 0.5), (0.6, 0.5), (1.0, 0.5)])
    assert geometry.visits(path, SQUARE) == [(500_000, 2_500_000)]


def test_a_path_of_one_point_is_a_stay_of_an_instant() -> None:
    assert geometry.visits([Timed(7, 0.5, 0.5)], SQUARE) == [(7, 7)]
    assert geometry.visits([Timed(7, 0.1, 0.5)], SQUARE) == []


def test_a_corner_that_is_touched_is_a_stay_of_an_instant() -> None:
    path = _timed([(0.1, 0.3), (0.3, 0.1)])
    assert geometry.visits(path, SQUARE) == [(500_000, 500_000)]


def test_standing_in_a_zone_is_one_stay() -> None:
    path = _timed([(0.5, 0.5), (0.5, 0.5), (0.5, 0.5)])
    assert geometry.visits(path, SQUARE) == [(0, 2_000_000)]


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(places, min_size=1, max_size=8),
    start_us=st.integers(-SECOND_US, 9 * SECOND_US),
    length_us=st.integers(-SECOND_US, 9 * SECOND_US),
)
def test_a_clipped_path_is_the_path_within_the_time(
    points: list[Point], start_us: int, length_us: int
) -> None:
    path, end_us = _timed(points), start_us + length_us
    part = geometry.clip(path, start_us, end_us)
    if start_us > end_us or end_us < 0 or start_us > path[-1].at_us:
        assert part == []
        return
    assert part[0].at_us == max(0, start_us)
    assert part[-1].at_us == min(path[-1].at_us, end_us)
    assert [one.at_us for one in part] == sorted(one.at_us for one in part)
    if len(path) > 1:
        for one in part:
            assert (one.x, one.y) == pytest.approx(_place(path, one.at_us), abs=1e-9)
