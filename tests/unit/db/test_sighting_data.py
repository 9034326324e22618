"""A sighting in its row: nothing is lost without names, and rows with names are still read."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shared.db.sighting_data import pack_sighting
from shared.sightings import (
    CLASSES,
    Best,
    Colour,
    Colours,
    LineCrossing,
    PathPoint,
    Sighting,
    Speed,
    ZoneVisit,
)
from tests.bench.search_store import drawn
from tests.support.sightings import stored

SHARES, TEXTS = st.floats(0, 1), st.text(max_size=12)
TIMES = st.integers(0, 1 << 53)
COLOURS = st.none() | st.sampled_from(Colour)
PATHS = st.builds(PathPoint, st.integers(0, 600_000), SHARES, SHARES, SHARES)
CROSSINGS = st.builds(LineCrossing, TEXTS, TEXTS, TIMES, st.sampled_from((-1, 1)), TEXTS)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "id": TEXTS,
    "camera_id": TEXTS,
    "class_name": st.sampled_from(CLASSES),
    "group": TEXTS,
    "start_us": TIMES,
    "end_us": TIMES,
    "confidence": SHARES,
    "frames": st.integers(0, 10_000),
    "path": st.lists(PATHS, min_size=1, max_size=4).map(tuple),
    "zones": st.lists(st.builds(ZoneVisit, TEXTS, TEXTS, TIMES, TIMES), max_size=2).map(tuple),
    "lines": st.lists(CROSSINGS, max_size=2).map(tuple),
    "colours": st.builds(Colours, COLOURS, COLOURS, COLOURS),
    "speed": st.sampled_from(Speed),
    "best": st.builds(Best, TIMES, st.tuples(SHARES, SHARES, SHARES, SHARES), SHARES),
    "model": TEXTS,
    "model_sha256": TEXTS,
    "precision": TEXTS,
    "uncertainty_us": TIMES,
    "zones_version": st.integers(0, 1 << 32),
}
ONES = st.builds(Sighting, **FIELDS)


def read(of: Sighting, data: bytes) -> Sighting:
    """What a row of these columns and data says."""
    columns = {name: getattr(of, name) for name in ("id", "camera_id", "start_us", "end_us")}
    return stored({**columns, "data": data})


def test_every_field_is_drawn_here() -> None:
    """One that is added to a sighting and not to its row is lost: then it must be seen below."""
    assert list(FIELDS) == list(Sighting.__struct_fields__)


@given(ONES)
def test_a_row_gives_back_what_was_put_into_it(of: Sighting) -> None:
    assert read(of, pack_sighting(of)) == of


@given(ONES)
def test_rows_with_names_are_read_as_they_stand(of: Sighting) -> None:
    assert read(of, msgspec.json.encode(of)) == of


@given(ONES)
def test_what_a_later_version_appends_is_passed_over(of: Sighting) -> None:
    later = [*msgspec.json.decode(pack_sighting(of)), {"of": "a later version"}]
    assert read(of, msgspec.json.encode(later)) == of


def test_a_row_takes_half_of_what_names_took() -> None:
    ones = list(drawn(500))
    packed, named = (sum(map(len, map(how, ones))) for how in (pack_sighting, msgspec.json.encode))
    assert packed <= named / 2


def test_a_row_that_was_written_once_is_read_for_ever() -> None:
    """Packing and reading that change alike pass all of the above and lose every row there is."""
    data = (
        b'["person","person",0.9,8,[[0,0.2,0.5,0.25],[4000,0.8,0.5,0.25]],'
        b'[["z1","Kerb",1000000,3000000]],[["l1","Gate",2000000,1,"in"]],["red",null,null],'
        b'"walking",[500000,[0.1,0.2,0.3,0.4],0.95],"coco-ssd","5f","f32",50000,7]'
    )
    of = Sighting(
        id="one",
        camera_id="cam",
        class_name="person",
        group="person",
        start_us=10_000_000,
        end_us=14_000_001,
        confidence=0.9,
        frames=8,
        path=(PathPoint(0, 0.2, 0.5, 0.25), PathPoint(4000, 0.8, 0.5, 0.25)),
        zones=(ZoneVisit("z1", "Kerb", 11_000_000, 13_000_000),),
        lines=(LineCrossing("l1", "Gate", 12_000_000, 1, "in"),),
        colours=Colours(upper=Colour.RED),
        speed=Speed.WALKING,
        best=Best(10_500_000, (0.1, 0.2, 0.3, 0.4), 0.95),
        model="coco-ssd",
        model_sha256="5f",
        precision="f32",
        uncertainty_us=50_000,
        zones_version=7,
    )
    assert read(of, data) == of
    assert pack_sighting(of) == data
