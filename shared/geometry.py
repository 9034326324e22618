"""Paths, zones and lines in normalised picture coordinates: pure functions, one rule for all.

Detection marks a sighting's zones and lines with it, reindexing applies it to stored paths, search
judges drawn polygons and lines with it. A path is its points joined by straight lines at constant
speed; a point on a polygon's edge is inside. y grows downwards, as in pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from shared.domain import Point

Interval = tuple[int, int]
NEAR = 1e-9
"""So near counts as met: a path through a corner must not slip between its two edges. A thousandth
of what coordinates are stored to."""


class Timed(NamedTuple):
    """A place at a time: UTC microseconds, normalised coordinates."""

    at_us: int
    x: float
    y: float


class Crossing(NamedTuple):
    """A path passes a line at a time; `sign` is +1 from its left to its right, seen from its first
    point towards its second, else -1."""

    at_us: int
    sign: int


Path = Sequence[Timed]


def clip(path: Path, start_us: int, end_us: int) -> list[Timed]:
    """The part of the path inside [start, end], with interpolated ends; empty when none is."""
    if not path or start_us > end_us or path[-1].at_us < start_us or path[0].at_us > end_us:
        return []
    found = [point for point in path if start_us <= point.at_us <= end_us]
    for before, after in pairwise(path):
        if before.at_us < start_us < after.at_us:
            found.insert(0, at(before, after, start_us))
        if before.at_us < end_us < after.at_us:
            found.append(at(before, after, end_us))
    return found


def at(before: Timed, after: Timed, at_us: int) -> Timed:
    """The place between two points at a time between theirs."""
    share = (at_us - before.at_us) / (after.at_us - before.at_us)
    return Timed(
        at_us,
        before.x + (after.x - before.x) * share,
        before.y + (after.y - before.y) * share,
    )


def inside(x: float, y: float, polygon: Sequence[Point]) -> bool:
    """Whether the place lies in the polygon or on its edge."""
    odd = False
    ax, ay = polygon[-1]
    for bx, by in polygon:
        turn = (bx - ax) * (y - ay) - (by - ay) * (x - ax)
        if (
            abs(turn) <= NEAR * (abs(bx - ax) + abs(by - ay))
            and min(ax, bx) - NEAR <= x <= max(ax, bx) + NEAR
            and min(ay, by) - NEAR <= y <= max(ay, by) + NEAR
        ):
            return True
        if (ay > y) != (by > y) and (turn > 0) == (by > ay):
            odd = not odd
        ax, ay = bx, by
    return odd


def visits(path: Path, polygon: Sequence[Point]) -> list[Interval]:
    """When the path is inside the polygon: entry and exit of each stay, in order.

    A stay of one instant (a path of one point, or one that touches a corner) has equal ends.
    """
    found: list[Interval] = []
    if len(path) == 1 and inside(path[0].x, path[0].y, polygon):
        return [(path[0].at_us, path[0].at_us)]
    xs, ys = [x for x, _ in polygon], [y for _, y in polygon]
    left, right = min(xs) - NEAR, max(xs) + NEAR
    top, bottom = min(ys) - NEAR, max(ys) + NEAR
    for before, after in pairwise(path):
        if max(before.x, after.x) < left or min(before.x, after.x) > right:
            continue
        if max(before.y, after.y) < top or min(before.y, after.y) > bottom:
            continue
        for start_us, end_us in _stays(before, after, polygon):
            if found and start_us <= found[-1][1]:
                found[-1] = (found[-1][0], max(found[-1][1], end_us))
            else:
                found.append((start_us, end_us))
    return found


def _stays(a: Timed, b: Timed, polygon: Sequence[Point]) -> list[Interval]:
    """The parts of one straight piece inside the polygon, cut where it meets an edge."""
    cuts = sorted({0.0, 1.0, *_meetings(a, b, polygon)})
    length_us = b.at_us - a.at_us

    def place(share: float) -> tuple[float, float]:
        if share in (0.0, 1.0):
            return (a.x, a.y) if share == 0.0 else (b.x, b.y)
        return a.x + (b.x - a.x) * share, a.y + (b.y - a.y) * share

    def when(share: float) -> int:
        return a.at_us + round(length_us * share)

    found: list[Interval] = []
    for first, last in pairwise(cuts):
        if inside(*place((first + last) / 2), polygon):
            found.append((when(first), when(last)))
    for share in cuts:
        # A corner that is only touched; the ends of stays are here already.
        instant = when(share)
        touches = share not in (0.0, 1.0) or inside(*place(share), polygon)
        if touches and not any(start <= instant <= end for start, end in found):
            found.append((instant, instant))
    return sorted(found)


def _meetings(a: Timed, b: Timed, polygon: Sequence[Point]) -> list[float]:
    """Where the piece from `a` to `b` meets the polygon's edges, as shares of its length."""
    dx, dy = b.x - a.x, b.y - a.y
    found: list[float] = []
    px, py = polygon[-1]
    for qx, qy in polygon:
        ex, ey = qx - px, qy - py
        cross = dx * ey - dy * ex
        if cross != 0:
            share = ((px - a.x) * ey - (py - a.y) * ex) / cross
            along = ((px - a.x) * dy - (py - a.y) * dx) / cross
            if -NEAR <= share <= 1 + NEAR and -NEAR <= along <= 1 + NEAR:
                found.append(min(1.0, max(0.0, share)))
        px, py = qx, qy
    return found


def side(x: float, y: float, line: tuple[Point, Point]) -> float:
    """Over 0 on the right of the line, under 0 on its left, seen from its first point."""
    (ax, ay), (bx, by) = line
    return (bx - ax) * (y - ay) - (by - ay) * (x - ax)


def crossings(path: Path, line: tuple[Point, Point]) -> list[Crossing]:
    """Each time the path passes from one side of the line to the other between its two ends.

    Coming to the line and going back is none; walking along it and leaving on the other side is
    one, where the path first met it.
    """
    found: list[Crossing] = []
    last: tuple[Timed, float] | None = None
    met: Timed | None = None
    for point in path:
        here = side(point.x, point.y, line)
        if here == 0:
            met = met or point
            continue
        if last is not None and (here > 0) != (last[1] > 0):
            where = met or _where(last[0], last[1], point, here)
            if _between(where, line):
                found.append(Crossing(where.at_us, 1 if here > 0 else -1))
        last, met = (point, here), None
    return found


def _where(a: Timed, side_a: float, b: Timed, side_b: float) -> Timed:
    share = side_a / (side_a - side_b)
    return Timed(
        a.at_us + round((b.at_us - a.at_us) * share),
        a.x + (b.x - a.x) * share,
        a.y + (b.y - a.y) * share,
    )


def _between(point: Timed, line: tuple[Point, Point]) -> bool:
    """Whether a point of the endless line lies between the two ends."""
    (ax, ay), (bx, by) = line
    along = (point.x - ax) * (bx - ax) + (point.y - ay) * (by - ay)
    return 0 <= along <= (bx - ax) ** 2 + (by - ay) ** 2
