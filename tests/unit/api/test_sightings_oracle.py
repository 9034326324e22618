"""A search finds exactly what a brute-force reading of the stored paths finds, each hit once.

The oracle shares no code with the search: shapely decides what touches a polygon, fractions on
which side of a line a point lies, and both get the path cut by their own arithmetic. Corners of
drawn figures lie off the grid of the paths, so that no answer hangs on the last bit of a float.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely import LineString, MultiPoint, Polygon

from shared import civil
from shared.db import tables
from shared.sightings import Best, PathPoint, Sighting
from tests.support import sightings as made
from tests.support.api import NOW_US
from tests.support.searching import World, world

GRID = 16
STEP_MS = 1024
BASE_US = NOW_US - 3_600_000_000
Place = tuple[Fraction, Fraction, Fraction]
"""Time in milliseconds, x, y."""


class Case(NamedTuple):
    """Some sightings and one question."""

    sightings: list[Sighting]
    params: dict[str, Any]
    span: tuple[int, int]
    limit: int


def share(offset: float) -> st.SearchStrategy[float]:
    return st.integers(0, GRID - 1).map(lambda n: (n + offset) / GRID)


places = st.tuples(st.integers(0, GRID), st.integers(0, GRID))


@st.composite
def sightings(draw: st.DrawFn) -> list[Sighting]:
    found = []
    for number in range(draw(st.integers(0, 14))):
        points = draw(st.lists(places, min_size=1, max_size=6))
        lengths = draw(
            st.lists(st.integers(1, 4), min_size=len(points) - 1, max_size=len(points) - 1)
        )
        times = [0]
        for length in lengths:
            times.append(times[-1] + length * STEP_MS)
        start_us = BASE_US + draw(st.integers(0, 40)) * STEP_MS * 1000
        path = tuple(
            PathPoint(ms, x / GRID, y / GRID, 0.1) for ms, (x, y) in zip(times, points, strict=True)
        )
        found.append(
            msgspec.structs.replace(
                made.sighting(f"s{number}", draw(st.sampled_from(["mk-1", "sp-1"])), start_us),
                class_name=draw(st.sampled_from(["person", "car"])),
                end_us=start_us + times[-1] * 1000 + 1,
                path=path,
                best=Best(start_us, (0.0, 0.0, 0.1, 0.1), 0.9),
            )
        )
    return found


@st.composite
def cases(draw: st.DrawFn) -> Case:
    params: dict[str, Any] = {}
    if draw(st.booleans()):
        params["class"] = draw(st.sampled_from(["person", "car"]))
    if draw(st.booleans()):
        corners = draw(st.lists(st.tuples(share(0.37), share(0.61)), min_size=3, max_size=6))
        hull = MultiPoint(corners).convex_hull
        if isinstance(hull, Polygon) and hull.area > 0.001:
            corners = list(hull.exterior.coords)[:-1]
            params["polygon"] = ",".join(f"{value!r}" for corner in corners for value in corner)
    if draw(st.booleans()):
        line = draw(st.tuples(share(0.23), share(0.71), share(0.47), share(0.83)))
        params["across"] = ",".join(repr(value) for value in line)
        if draw(st.booleans()):
            params["direction"] = draw(st.sampled_from(["left_to_right", "right_to_left"]))
    start = draw(st.integers(0, 60))
    length = draw(st.integers(1, 60))
    # Between two steps of the paths, at times that cut them in sixteenths.
    span = tuple(BASE_US + (n * STEP_MS + 320) * 1000 for n in (start - 5, start - 5 + length))
    return Case(draw(sightings()), params, (span[0], span[1]), draw(st.integers(1, 5)))


def cut(of: Sighting, span: tuple[int, int]) -> list[Place]:
    """The path within [start, end), exact."""
    first = Fraction(span[0] - of.start_us, 1000)
    last = Fraction(span[1] - 1 - of.start_us, 1000)
    points = [(Fraction(p.ms), Fraction(p.x), Fraction(p.y)) for p in of.path]
    found = [point for point in points if first <= point[0] <= last]
    for a, b in pairwise(points):
        for at in (first, last):
            if a[0] < at < b[0]:
                part = (at - a[0]) / (b[0] - a[0])
                found.append((at, a[1] + (b[1] - a[1]) * part, a[2] + (b[2] - a[2]) * part))
    return sorted(found)


def touches(path: Sequence[Place], polygon: str) -> bool:
    numbers = [float(part) for part in polygon.split(",")]
    shape = Polygon(list(zip(numbers[::2], numbers[1::2], strict=True)))
    points = [(float(x), float(y)) for _, x, y in path]
    line = LineString(points if len(points) > 1 else points * 2)
    return bool(shape.intersects(line))


def crosses(path: Sequence[Place], across: str, direction: str | None) -> bool:
    ax, ay, bx, by = (Fraction(float(part)) for part in across.split(","))

    def side(place: Place) -> Fraction:
        return (bx - ax) * (place[2] - ay) - (by - ay) * (place[1] - ax)

    for p, q in pairwise(path):
        before, after = side(p), side(q)
        assert before != 0 and after != 0, "figures lie off the grid"
        if (before > 0) == (after > 0):
            continue
        part = before / (before - after)
        x, y = p[1] + (q[1] - p[1]) * part, p[2] + (q[2] - p[2]) * part
        along = (x - ax) * (bx - ax) + (y - ay) * (by - ay)
        way = "left_to_right" if after > 0 else "right_to_left"
        if 0 <= along <= (bx - ax) ** 2 + (by - ay) ** 2 and direction in (None, way):
            return True
    return False


def brute_force(stored: Sequence[Sighting], case: Case) -> list[str]:
    found = []
    for of in sorted(stored, key=lambda one: (one.start_us, one.id), reverse=True):
        path = cut(of, case.span)
        asked = case.params
        if (
            of.start_us < case.span[1]
            and of.end_us > case.span[0]
            and asked.get("class", of.class_name) == of.class_name
            and ("polygon" not in asked or (path and touches(path, asked["polygon"])))
            and ("across" not in asked or crosses(path, asked["across"], asked.get("direction")))
        ):
            found.append(of.id)
    return found


class Target:
    """One world, called from hypothesis's synchronous tests."""

    def __init__(self, folder: Path) -> None:
        self._runner = asyncio.Runner()
        self._exits = AsyncExitStack()
        self.world: World = self._runner.run(self._exits.enter_async_context(world(folder)))

    def both(self, case: Case) -> tuple[list[str], list[str]]:
        """What the search finds, and what a reading of the table finds."""
        return self._runner.run(self._both(case))

    async def _both(self, case: Case) -> tuple[list[str], list[str]]:
        database = self.world.api.platform.database
        async with database.write() as connection:
            await connection.execute(sa.delete(tables.sighting))
        await self.world.add(*case.sightings)
        start, end = (civil.rfc3339(us) for us in case.span)
        ours = await self.world.names(since=start, until=end, limit=case.limit, **case.params)
        counts = await self.world.get("/counts", since=start, until=end, **case.params)
        assert counts.json()["total"] == len(ours)
        stored = [made.stored(row) for row in await self.world.api.rows(tables.sighting)]
        return ours, brute_force(stored, case)

    def close(self) -> None:
        self._runner.run(self._exits.aclose())
        self._runner.close()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    found = Target(tmp_path_factory.mktemp("oracle"))
    yield found
    found.close()


HEALTH = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]


@given(case=cases())
@settings(max_examples=40, deadline=None, suppress_health_check=HEALTH)
def test_a_search_finds_what_a_reading_of_the_paths_finds(target: Target, case: Case) -> None:
    ours, wanted = target.both(case)
    assert ours == wanted


@pytest.mark.slow
@pytest.mark.timeout(900)
@given(case=cases())
@settings(max_examples=1000, deadline=None, suppress_health_check=HEALTH)
def test_a_thousand_searches_find_what_a_reading_finds(target: Target, case: Case) -> None:
    ours, wanted = target.both(case)
    assert ours == wanted
