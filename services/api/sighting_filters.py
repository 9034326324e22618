"""What a search of sightings is narrowed to: out of a query, as a pure test, and for the audit log.

SQL judges what stands in columns; a drawn polygon or line, a zone and a stored line are judged here
on the sighting itself, with the rules of shared/geometry.py and only on the part of the path that
lies within the time asked. Live sightings are judged here whole (docs/guide/analyst.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import Depends, Query
from pydantic import StringConstraints

from services.api.camera_check import check_polygon
from services.api.models import CameraId, Text, Text100
from shared import geometry
from shared.domain import Point, SiteKind
from shared.errors import Kind, LamppostError
from shared.geometry import Crossing, Timed
from shared.intervals import Interval
from shared.sightings import MAX_SIGHTING_S, ClassName, Colour, Sighting, Speed, timed

MAX_CAMERAS = 700
MAX_POINTS = 64
MAX_NAMES = 20
LEFT_TO_RIGHT, RIGHT_TO_LEFT = "left_to_right", "right_to_left"
SIGNS = {LEFT_TO_RIGHT: 1, RIGHT_TO_LEFT: -1}
Box = tuple[float, float, float, float]
Numbers = Annotated[str, StringConstraints(max_length=2_000)]


class Across(NamedTuple):
    """A drawn line; `sign` None: either way."""

    line: tuple[Point, Point]
    sign: int | None = None


class Filters(NamedTuple):
    """What a sighting must be, place and time apart. Empty or None: anything.

    `zone` are ids of stored zones; `line` are ids of stored lines with the sign asked (None: either
    way); both are resolved from their names by sighting_scope.py.
    """

    classes: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    upper: tuple[str, ...] = ()
    lower: tuple[str, ...] = ()
    vehicle: tuple[str, ...] = ()
    speeds: tuple[str, ...] = ()
    min_confidence: float = 0.0
    min_dwell_us: int = 0
    polygon: tuple[Point, ...] = ()
    across: Across | None = None
    zone: frozenset[str] | None = None
    line: Mapping[str, int | None] | None = None

    @property
    def exact(self) -> bool:
        """Whether columns alone cannot decide."""
        return bool(
            self.polygon
            or self.across is not None
            or self.zone is not None
            or self.line is not None
        )

    @property
    def of_columns(self) -> bool:
        """Whether columns leave anything out."""
        kinds = self.classes or self.colours or self.upper or self.lower or self.vehicle
        return bool(kinds or self.speeds or self.min_confidence or self.min_dwell_us)

    def boxes(self) -> list[Box]:
        """Bounds of the drawn things: a path that stays outside one of them is no hit."""
        drawn: list[Sequence[Point]] = [self.polygon] if self.polygon else []
        if self.across is not None:
            drawn.append(self.across.line)
        return [_bounds(points) for points in drawn]


class Named(NamedTuple):
    """Where, as it was asked: cameras and names that the database resolves."""

    cameras: tuple[str, ...] = ()
    districts: tuple[str, ...] = ()
    site_kinds: tuple[str, ...] = ()
    zone: str = ""
    line: str = ""


class Asked(NamedTuple):
    """A search without its time."""

    filters: Filters
    named: Named

    def detail(self) -> dict[str, Any]:
        """For the audit record: what was asked for, in full; never what was found."""
        filters, named = self.filters, self.named
        found: dict[str, Any] = {
            "class": filters.classes,
            "colour": filters.colours,
            "upper": filters.upper,
            "lower": filters.lower,
            "vehicle": filters.vehicle,
            "speed": filters.speeds,
            "min_confidence": filters.min_confidence,
            "min_dwell_s": filters.min_dwell_us / 1_000_000,
            "polygon": filters.polygon,
            "district": named.districts,
            "site_kind": named.site_kinds,
            "zone": named.zone,
            "line": named.line,
        }
        if filters.across is not None:
            found["across"] = filters.across.line
            found["direction"] = filters.across.sign
        return {name: value for name, value in found.items() if value}


async def named_of(
    camera: Annotated[
        list[CameraId] | None,
        Query(max_length=MAX_CAMERAS, description="Camera ids; none: all that you may search."),
    ] = None,
    district: Annotated[
        list[Text] | None,
        Query(
            max_length=MAX_NAMES,
            description="Districts; letter case, spaces and hyphens do not count.",
        ),
    ] = None,
    site_kind: Annotated[list[SiteKind] | None, Query(max_length=MAX_NAMES)] = None,
    zone: Annotated[Text100, Query(description="A stored zone, by id or name.")] = "",
    line: Annotated[
        Text100,
        Query(
            description="A stored line, by id or name, crossed either way; with `:direction`,"
            " the line's own name for it, one way.",
            examples=["gate:in"],
        ),
    ] = "",
) -> Named:
    """Where, out of a query. Async, as FastAPI sends what is not to a thread, at each request."""
    return Named(_unique(camera), _unique(district), _unique(site_kind), zone, line)


class Drawn(NamedTuple):
    """Figures as they were sent."""

    polygon: tuple[Point, ...] = ()
    across: Across | None = None


async def drawn_of(
    polygon: Annotated[
        Numbers,
        Query(
            description="A drawn polygon that the foot point is in: x1,y1,x2,y2,... of 0 to 1.",
            examples=["0.1,0.4,0.9,0.4,0.9,0.9,0.1,0.9"],
        ),
    ] = "",
    across: Annotated[
        Numbers,
        Query(
            description="A drawn line that the foot point crosses: x1,y1,x2,y2.",
            examples=["0.5,0.2,0.5,0.9"],
        ),
    ] = "",
    direction: Annotated[
        Literal["left_to_right", "right_to_left"] | None,
        Query(description="Of `across`, seen from its first point towards its second."),
    ] = None,
) -> Drawn:
    """Figures out of a query; INVALID says what is wrong with them."""
    if direction is not None and not across:
        raise LamppostError(
            Kind.INVALID, "`direction` belongs to `across`.", fix="Draw a line with `across`."
        )
    return Drawn(
        _polygon(polygon) if polygon else (),
        Across(_line(across), SIGNS[direction] if direction else None) if across else None,
    )


Colours = Annotated[list[Colour] | None, Query(max_length=MAX_NAMES)]


async def asked_of(
    named: Annotated[Named, Depends(named_of)],
    drawn: Annotated[Drawn, Depends(drawn_of)],
    class_: Annotated[list[ClassName] | None, Query(alias="class", max_length=MAX_NAMES)] = None,
    colour: Annotated[Colours, Query(description="Of any part.")] = None,
    upper: Annotated[Colours, Query(description="Of upper clothing.")] = None,
    lower: Annotated[Colours, Query(description="Of lower clothing.")] = None,
    vehicle: Annotated[Colours, Query(description="Of a vehicle.")] = None,
    speed: Annotated[list[Speed] | None, Query(max_length=MAX_NAMES)] = None,
    min_confidence: Annotated[float, Query(ge=0, le=1, allow_inf_nan=False)] = 0.0,
    min_dwell_s: Annotated[
        float,
        Query(
            ge=0,
            le=MAX_SIGHTING_S,
            allow_inf_nan=False,
            description="Seconds in the zone or polygon asked for, else in the picture.",
        ),
    ] = 0.0,
) -> Asked:
    """The search of a query. Values of one name are alternatives, names add up."""
    filters = Filters(
        classes=_unique(class_),
        colours=_unique(colour),
        upper=_unique(upper),
        lower=_unique(lower),
        vehicle=_unique(vehicle),
        speeds=_unique(speed),
        min_confidence=min_confidence,
        min_dwell_us=round(min_dwell_s * 1_000_000),
        polygon=drawn.polygon,
        across=drawn.across,
    )
    return Asked(filters, named)


AskedQuery = Annotated[Asked, Depends(asked_of)]


def _unique(values: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(value) for value in values or ()))


def _points(text: str, name: str) -> tuple[Point, ...]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    well = bool(numbers) and all(math.isfinite(n) and 0 <= n <= 1 for n in numbers)
    if not well or len(numbers) % 2 or len(numbers) > 2 * MAX_POINTS:
        raise LamppostError(
            Kind.INVALID,
            f"`{name}` is not a list of points.",
            fix=f"Write x1,y1,x2,y2,... of 0 to 1, {MAX_POINTS} points at most.",
        )
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _polygon(text: str) -> tuple[Point, ...]:
    points = _points(text, "polygon")
    check_polygon(points)
    return points


def _line(text: str) -> tuple[Point, Point]:
    points = _points(text, "across")
    if len(points) != 2 or points[0] == points[1]:
        raise LamppostError(
            Kind.INVALID, "`across` is two different points.", fix="Write x1,y1,x2,y2."
        )
    return points[0], points[1]


def _bounds(points: Sequence[Point]) -> Box:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)


def matches(of: Sighting, wanted: Filters, span: Interval | None) -> bool:
    """Whether the sighting is a hit, within [start, end) where a time is asked."""
    return (
        (not wanted.classes or of.class_name in wanted.classes)
        and of.confidence >= wanted.min_confidence
        and (not wanted.speeds or of.speed in wanted.speeds)
        and _coloured(of, wanted)
        and (span is None or (of.start_us < span[1] and of.end_us > span[0]))
        and _dwells(of, wanted, span)
        and within(of, wanted, span)
    )


def _coloured(of: Sighting, wanted: Filters) -> bool:
    upper, lower, vehicle = of.colours.upper, of.colours.lower, of.colours.vehicle
    return (
        (not wanted.colours or any(each in wanted.colours for each in (upper, lower, vehicle)))
        and (not wanted.upper or upper in wanted.upper)
        and (not wanted.lower or lower in wanted.lower)
        and (not wanted.vehicle or vehicle in wanted.vehicle)
    )


def _dwells(of: Sighting, wanted: Filters, span: Interval | None) -> bool:
    """Dwell in the picture; in a zone or polygon `within` judges it."""
    if wanted.polygon or wanted.zone is not None:
        return True
    start_us, end_us = span or (of.start_us, of.end_us)
    return min(of.end_us, end_us) - max(of.start_us, start_us) >= wanted.min_dwell_us


def within(of: Sighting, wanted: Filters, span: Interval | None) -> bool:
    """What columns cannot decide: zone, stored line, drawn polygon and line, dwell in them."""
    if wanted.line is not None and not _passes(of, wanted.line, span):
        return False
    if wanted.zone is not None and not _visits(of, wanted.zone, wanted.min_dwell_us, span):
        return False
    if not wanted.polygon and wanted.across is None:
        return True
    path = _path(of, span)
    if wanted.across is not None and not _crosses(path, wanted.across):
        return False
    return not wanted.polygon or _stays(path, wanted.polygon, wanted.min_dwell_us)


def _path(of: Sighting, span: Interval | None) -> list[Timed]:
    """The path within [start, end): its last instant is the one before the end."""
    path = timed(of)
    if span is None or (span[0] <= path[0].at_us and path[-1].at_us < span[1]):
        return path
    return geometry.clip(path, span[0], span[1] - 1)


def _passes(of: Sighting, wanted: Mapping[str, int | None], span: Interval | None) -> bool:
    return any(
        line.line_id in wanted
        and wanted[line.line_id] in (None, line.sign)
        and (span is None or span[0] <= line.at_us < span[1])
        for line in of.lines
    )


def _visits(of: Sighting, wanted: frozenset[str], min_dwell_us: int, span: Interval | None) -> bool:
    """A stored stay that touches the time; stays in several zones of one name do not add up."""
    dwell: dict[str, int] = {}
    for visit in of.zones:
        start_us, end_us = visit.enter_us, visit.exit_us
        if visit.zone_id not in wanted:
            continue
        if span is not None:
            if start_us >= span[1] or end_us < span[0]:
                continue
            start_us, end_us = max(start_us, span[0]), min(end_us, span[1])
        dwell[visit.zone_id] = dwell.get(visit.zone_id, 0) + end_us - start_us
    return any(length >= min_dwell_us for length in dwell.values())


def _crosses(path: Sequence[Timed], across: Across) -> bool:
    found: list[Crossing] = geometry.crossings(path, across.line)
    return any(across.sign in (None, crossing.sign) for crossing in found)


def _stays(path: Sequence[Timed], polygon: tuple[Point, ...], min_dwell_us: int) -> bool:
    if not min_dwell_us and any(geometry.inside(point.x, point.y, polygon) for point in path):
        return True
    stays = geometry.visits(path, polygon)
    return bool(stays) and sum(end - start for start, end in stays) >= min_dwell_us
