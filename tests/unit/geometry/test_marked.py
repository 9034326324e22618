"""What a sighting is marked with: zones with entry and exit, lines with their own directions."""

from __future__ import annotations

import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shared.domain import Point
from shared.sightings import PathPoint, Zone, marked, zones_version
from tests.support.sightings import sighting

GATE = Zone(
    id="gate",
    kind="line",
    name="Gate",
    points=((0.5, 0.9), (0.5, 0.1)),
    directions={"left_to_right": "in"},
)
YARD = Zone(
    id="yard", kind="zone", name="Yard", points=((0.6, 0.0), (1.0, 0.0), (1.0, 1.0), (0.6, 1.0))
)
places = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda p: (round(p[0], 4), round(p[1], 4)))
triangles = st.tuples(places, places, places)


def test_a_sighting_tells_zone_and_line_by_their_names() -> None:
    made = marked(sighting(path=((0.2, 0.5), (0.8, 0.5)), seconds=6), (YARD, GATE))
    assert [(v.zone_id, v.name, v.enter_us, v.exit_us) for v in made.zones] == [
        ("yard", "Yard", 4_000_000, 6_000_000)
    ]
    assert [(one.line_id, one.at_us, one.sign, one.direction) for one in made.lines] == [
        ("gate", 3_000_000, 1, "in")
    ]
    assert made.zones_version == zones_version((GATE, YARD)) != 0


def test_a_way_without_a_name_is_told_by_its_key() -> None:
    made = marked(sighting(path=((0.8, 0.5), (0.2, 0.5))), (GATE,))
    assert [one.direction for one in made.lines] == ["right_to_left"]


def test_marking_anew_forgets_zones_that_are_gone() -> None:
    made = marked(marked(sighting(), (YARD, GATE)), ())
    assert (made.zones, made.lines, made.zones_version) == ((), (), 0)


def test_a_redrawn_zone_has_another_version() -> None:
    redrawn = Zone(id="yard", kind="zone", name="Yard", points=YARD.points, version=2)
    assert zones_version((YARD,)) != zones_version((redrawn,))


@settings(max_examples=60, deadline=None)
@given(points=st.lists(places, min_size=2, max_size=8), corners=st.lists(triangles, max_size=3))
def test_marks_are_those_zones_that_shapely_sees_the_path_meet(
    points: list[Point], corners: list[tuple[Point, Point, Point]]
) -> None:
    zones = tuple(
        Zone(id=str(number), kind="zone", name="", points=shape)
        for number, shape in enumerate(corners)
    )
    path = tuple(PathPoint(number * 1000, x, y, 0.2) for number, (x, y) in enumerate(points))
    walked = shapely.LineString(points)
    shapes = [shapely.Polygon(zone.points) for zone in zones]
    assume(all(shape.is_valid and shape.area > 1e-4 for shape in shapes))
    apart = [shape.distance(walked) for shape in shapes]
    assume(all(gap == 0 or gap > 1e-7 for gap in apart))
    made = marked(sighting(path=points, seconds=len(points) - 1.0), zones)
    assert made.path == path
    met = {zone.id for zone, gap in zip(zones, apart, strict=True) if gap == 0}
    assert {visit.zone_id for visit in made.zones} == met
    times = [visit.enter_us for visit in made.zones]
    assert times == sorted(times)
    for visit in made.zones:
        assert made.start_us <= visit.enter_us <= visit.exit_us <= made.end_us
