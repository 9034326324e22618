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
