"""A sighting: one track of one thing in one camera, as it crosses the bus and stands in the index.

Never more than that: no face, plate, embedding or identity across cameras (invariant 11). Colours
are coarse names. docs/tracking.md, docs/architecture.md "detect".

What a sighting consists of holds no reference to itself, so Python's collector need not look at it
(`gc=False`): batches of hundreds, with ten points each, made it run through the whole heap.
"""

from __future__ import annotations

import zlib
from enum import StrEnum
from typing import Literal, get_args

import msgspec

from shared import geometry
from shared.domain import Point
from shared.geometry import Timed

ClassName = Literal[
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "bus",
    "truck",
    "dog",
    "handbag",
    "backpack",
    "suitcase",
    "umbrella",
]
CLASSES: tuple[str, ...] = get_args(ClassName)
"""COCO's names that are kept unless a setting says fewer."""
GROUPS = {
    "person": "person",
    "bicycle": "cycle",
    "motorcycle": "cycle",
    "car": "vehicle",
    "bus": "vehicle",
    "truck": "vehicle",
    "dog": "animal",
    "handbag": "carried",
    "backpack": "carried",
    "suitcase": "carried",
    "umbrella": "carried",
}
"""One tracker a camera and group: a car seen as a truck in one frame stays one track."""
MAX_SIGHTING_S = 600
"""A track ends after so long and begins anew."""
LONGEST_ROW_S = 3_600
"""What claims to be longer is nonsense, and gets no row: whoever looks for what overlaps a time
need not look further back."""


class Colour(StrEnum):
    """Coarse names, as a witness would say them."""

    BLACK = "black"
    WHITE = "white"
    GREY = "grey"
    RED = "red"
    ORANGE = "orange"
    YELLOW = "yellow"
    GREEN = "green"
    BLUE = "blue"
    PURPLE = "purple"
    PINK = "pink"
    BROWN = "brown"


class Speed(StrEnum):
    """From box heights a second, so that near and far count alike."""

    STILL = "still"
    WALKING = "walking"
    FAST = "fast"


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """A zone (polygon) or a line (two points) of a camera. `directions` names a line's two ways,
    keys `left_to_right` and `right_to_left`, seen from its first point towards its second."""

    id: str
    kind: str
    name: str
    points: tuple[Point, ...]
    directions: dict[str, str] | None = None
    version: int = 1


class PathPoint(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where the thing stood: `x`, `y` the foot point (middle of the box's lower edge), `h` the
    box's height, all normalised; `ms` milliseconds after the sighting's start."""

    ms: int
    x: float
    y: float
    h: float


class ZoneVisit(msgspec.Struct, frozen=True, gc=False):
    """One stay in a zone. A stay that goes on has the sighting's end as its exit."""

    zone_id: str
    name: str
    enter_us: int
    exit_us: int


class LineCrossing(msgspec.Struct, frozen=True, gc=False):
    """One passing of a line: `sign` +1 is left to right. `direction` is the line's own name for it,
    or `left_to_right` / `right_to_left`."""

    line_id: str
    name: str
    at_us: int
    sign: int
    direction: str


class Colours(msgspec.Struct, frozen=True, gc=False):
    """Of a person's clothing, or of a vehicle; None where it cannot be told."""

    upper: Colour | None = None
    lower: Colour | None = None
    vehicle: Colour | None = None


class Best(msgspec.Struct, frozen=True, gc=False):
    """The frame that shows it best: its capture time, and its box `x, y, w, h`, normalised."""

    at_us: int
    box: tuple[float, float, float, float]
    confidence: float


class Sighting(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One track, whole. `id` is the same however often it is made (shared.ids.derived_id of camera,
    group, first capture time, ordinal). `end_us` is the last frame that showed it, plus 1."""

    id: str
    camera_id: str
    class_name: str
    group: str
    start_us: int
    end_us: int
    confidence: float
    """The best frame's, 0..1."""
    frames: int
    path: tuple[PathPoint, ...]
    """Simplified: at least one point, the first at 0 ms, the last at the end."""
    zones: tuple[ZoneVisit, ...] = ()
    lines: tuple[LineCrossing, ...] = ()
    colours: Colours = Colours()
    speed: Speed = Speed.STILL
    best: Best
    model: str = ""
    model_sha256: str = ""
    precision: str = ""
    """`f32`, `bf16`, `f16`: what the runtime computed in."""
    uncertainty_us: int = 0
    """Of the capture times."""
    zones_version: int = 0
    """Which zones were applied (`zones_version`), so that reindexing knows what is old."""


def timed(sighting: Sighting) -> list[Timed]:
    """The path at absolute times, for shared.geometry."""
    return [Timed(sighting.start_us + point.ms * 1000, point.x, point.y) for point in sighting.path]


def bounds(sighting: Sighting) -> tuple[float, float, float, float]:
    """min x, min y, max x, max y of the path."""
    points = iter(sighting.path)
    first = next(points)
    min_x = max_x = first.x
    min_y = max_y = first.y
    for point in points:  # twice as fast as four passes, and ingest asks it of every row
        x, y = point.x, point.y
        if x < min_x:
            min_x = x
        elif x > max_x:
            max_x = x
        if y < min_y:
            min_y = y
        elif y > max_y:
            max_y = y
    return min_x, min_y, max_x, max_y


def zones_version(zones: tuple[Zone, ...]) -> int:
    """A number that changes when a zone is drawn, redrawn or removed; 0 without any."""
    words = sorted(f"{zone.id} {zone.version}" for zone in zones)
    return zlib.crc32("\n".join(words).encode()) if words else 0


def marked(sighting: Sighting, zones: tuple[Zone, ...]) -> Sighting:
    """The sighting with these zones and lines applied to its path, in order of time."""
    path = timed(sighting)
    visits: list[ZoneVisit] = []
    lines: list[LineCrossing] = []
    for zone in zones:
        if zone.kind == "zone":
            visits += [
                ZoneVisit(zone.id, zone.name, enter_us, exit_us)
                for enter_us, exit_us in geometry.visits(path, zone.points)
            ]
        else:
            first, second = zone.points
            lines += [
                LineCrossing(zone.id, zone.name, one.at_us, one.sign, direction(zone, one.sign))
                for one in geometry.crossings(path, (first, second))
            ]
    return msgspec.structs.replace(
        sighting,
        zones=tuple(sorted(visits, key=lambda visit: (visit.enter_us, visit.zone_id))),
        lines=tuple(sorted(lines, key=lambda line: (line.at_us, line.line_id))),
        zones_version=zones_version(zones),
    )


def direction(zone: Zone, sign: int) -> str:
    """The line's own name for the way it is passed."""
    key = "left_to_right" if sign > 0 else "right_to_left"
    return (zone.directions or {}).get(key, key)
