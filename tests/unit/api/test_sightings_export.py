"""Sightings as files: every hit once, nothing a table's program runs, the limit said."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from services.api import sighting_export
from services.api.sighting_export import COLUMNS, safe
from shared.sightings import Colour, Colours, Zone, marked
from tests.support.searching import ago, world

LINE = Zone(
    id="line-1",
    kind="line",
    name="=HYPERLINK(1)",
    points=((0.5, 0.0), (0.5, 1.0)),
    directions={"left_to_right": "out"},
)


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


async def test_csv_has_every_hit_and_no_formula(tmp_path: Path) -> None:
    red = Colours(upper=Colour.RED)
    async with world(tmp_path) as w:
        await w.add(marked(ago(2, "a", colours=red), (LINE,)), ago(1, "-b", "sp-1"))
        reply = await w.get("/export", since="2026-11-25T14:00")
        assert reply.headers["content-type"] == "text/csv; charset=utf-8"
        assert reply.headers["x-lamppost-limit"] == "50000"
        assert "attachment" in reply.headers["content-disposition"]
        first, second = table(reply.text)
        assert tuple(first) == COLUMNS
        assert (first["id"], second["id"]) == ("'-b", "a")
        assert second["lines"].startswith("'=HYPERLINK(1):right_to_left 2026-11-25T14:58:05")
        assert (second["colour_upper"], second["latitude"]) == ("red", "22.3")
        assert second["start"] == "2026-11-25T14:58:00.000+08:00"
        assert table((await w.get("/export", class_="car")).text) == []
        records = await w.api.audited("sighting.export")
        assert [record["detail"] for record in records] == [{}, {"class": ["car"]}]


async def test_geojson_places_a_hit_where_its_camera_stands(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.add(ago(2, "a"), ago(1, "b", "sp-1"))
        reply = await w.get("/export", format="geojson")
        assert reply.headers["content-type"] == "application/geo+json"
        found = reply.json()
        assert (found["type"], found["complete"], found["go_on_until"]) == (
            "FeatureCollection",
            True,
            None,
        )
        places = {one["id"]: one["geometry"] for one in found["features"]}
        assert places == {"b": None, "a": {"type": "Point", "coordinates": [114.2, 22.3]}}
        assert (await w.get("/export", format="geojson", class_="car")).json()["features"] == []


@pytest.mark.parametrize("limit", [7, 10])
async def test_a_file_that_the_limit_cut_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(sighting_export, "MAX_ROWS", limit)
    monkeypatch.setattr(sighting_export, "PAGE", 3)
    async with world(tmp_path) as w:
        await w.add(*(ago(n, f"s{n}") for n in range(1, 11)))
        found = [row["id"] for row in table((await w.get("/export")).text)]
        assert found[:limit] == [f"s{n}" for n in range(1, limit + 1)]
        geojson: dict[str, Any] = (await w.get("/export", format="geojson")).json()
        assert geojson["complete"] is (limit == 10)
        if limit == 7:
            assert len(found) == 8
            assert found[-1].startswith("not all: 7 rows are the limit; go on with until=")
            rest = (await w.get("/export", until=geojson["go_on_until"])).text
            assert [row["id"] for row in table(rest)][:2] == ["s7", "s8"], "none is lost"
        else:
            assert len(found) == 10


def test_cells_that_could_be_formulas_are_text() -> None:
    for cell in ("=1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1"):
        assert safe(cell) == f"'{cell}"
    assert [safe(cell) for cell in ("", "gate", "1=2")] == ["", "gate", "1=2"]
