"""`lamppost search` against a real api over a socket, and its parts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from services.cli import app, output, search
from services.cli.remote import Remote
from shared.errors import Kind, LamppostError
from shared.sightings import Colour, Colours, Zone, marked
from tests.support.http_server import serve
from tests.support.searching import World, ago, world

GATE = Zone(
    id="line-1",
    kind="line",
    name="gate",
    points=((0.5, 1.0), (0.5, 0.0)),
    directions={"left_to_right": "in", "right_to_left": "out"},
)
WHY = ["--purpose", "crime_investigation", "--case", "MK-1"]
SINCE = ["--since", "2026-11-25T14:00", "--until", "+1h"]


@asynccontextmanager
async def commands(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[World, Callable[..., Any]]]:
    """A world, and what runs a command against it; its exit status."""
    async with world(folder) as w, serve(w.api.app) as url:
        await w.add_zone("mk-1", GATE)
        monkeypatch.setenv("LAMPPOST_URL", url)
        monkeypatch.setenv("LAMPPOST_KEY", w.client.headers["authorization"].split()[1])

        async def run(*words: str) -> int:
            return await asyncio.to_thread(app.run, ["search", *words])

        yield w, run


async def test_a_person_who_crossed_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with commands(tmp_path, monkeypatch) as (w, run):
        look = Colours(upper=Colour.RED)
        await w.add(marked(ago(5, "walker", colours=look), (GATE,)), ago(6, "other"))
        place = ["--line", "gate:in", "--cameras", "district=mong-kok"]
        assert await run("person", *SINCE, *place, *WHY) == 0
        text = capsys.readouterr().out
        assert "walker" in text and "gate:in" in text and "upper red" in text
        assert "other" not in text
        assert "Looked at: 0.0% of 1.0 h on 1 cameras" in text
        assert await run(*SINCE, *WHY, "--json", "--csv", str(tmp_path / "a.csv")) == 0
        found = json.loads(capsys.readouterr().out)
        assert [hit["id"] for hit in found["items"]] == ["walker", "other"]
        assert found["more"] is False
        assert (tmp_path / "a.csv").read_text().count("\n") == 3
        geojson = tmp_path / "a.geojson"
        assert await run(*SINCE, *WHY, "--limit", "1", "--geojson", str(geojson)) == 0
        assert "There are more than 1" in capsys.readouterr().out
        assert len(json.loads(geojson.read_text())["features"]) == 2


async def test_nothing_found_says_what_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with commands(tmp_path, monkeypatch) as (_, run):
        assert await run("dog", *SINCE, *WHY, "--cameras", "mk-1,sp-1") == 0
        text = capsys.readouterr().out
        assert text.startswith("Nothing found.\nLooked at: 0.0% of 2.0 h on 2 cameras from")
        assert "not decided yet" in text


async def test_a_clip_that_is_not_there_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with commands(tmp_path, monkeypatch) as (w, run):
        await w.add(ago(5, "walker"), ago(6, "other"))
        clips = tmp_path / "new" / "clips"
        assert await run(*SINCE, *WHY, "--clip", str(clips)) == output.FOUND_WRONG
        text = capsys.readouterr().out
        assert "no clip of walker: Nothing was recorded" in text
        assert "no clip of other:" in text
        assert list(clips.iterdir()) == []


async def test_what_is_wrong_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with commands(tmp_path, monkeypatch) as (_, run):
        assert await run("person") == output.USAGE
        assert "A purpose is required." in capsys.readouterr().err
        assert await run(*WHY, "--line", "door") == output.FOUND_WRONG
        assert "has a line 'door'" in capsys.readouterr().err
        assert await run(*WHY, "--follow", *SINCE) == output.USAGE
        assert await run(*WHY, "--cameras", "colour=red") == output.USAGE
        monkeypatch.setenv("LAMPPOST_PURPOSE", "crime_investigation")
        monkeypatch.setenv("LAMPPOST_REASON", "a test")
        assert await run() == 0


def test_cameras_are_ids_districts_and_site_kinds() -> None:
    found = search.which(["a, b", "district=mong-kok", "site=lamp_post", "district=Sham Shui Po"])
    assert found == {
        "camera": ["a", "b"],
        "district": ["mong-kok", "Sham Shui Po"],
        "site_kind": ["lamp_post"],
    }
    with pytest.raises(LamppostError):
        search.which(["line=x"])


def test_clip_names_hold_nothing_of_the_servers_choice() -> None:
    hit = {"camera_id": "mk-1", "start": "2026-11-25T14:00:00.1+08:00", "class": "../x", "id": "/a"}
    assert search.clip_name(hit, 2) == "mk-1-2026-11-25T140000-x-a-2.mp4"


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Remote]:
    monkeypatch.setenv("LAMPPOST_URL", "http://lamppost.test")
    monkeypatch.setenv("LAMPPOST_KEY", "lp_x_y")
    return lambda handler: Remote(httpx2.MockTransport(handler))


def page(name: str, cursor: str | None, looked_s: float) -> dict[str, Any]:
    coverage = {f"{part}_s": 0.0 for part in search.COVERED}
    coverage |= {"asked_s": 100.0, "analysed_s": looked_s}
    around = {"start": f"{name}-start", "end": f"{name}-end", "cameras": 1, "looked_share": 0.0}
    return {"items": [{"id": name}], "next": cursor, "coverage": coverage | around}


def test_pages_and_their_coverage_add_up(remote: Callable[[Any], Remote]) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        cursor = request.url.params.get("cursor")
        return httpx2.Response(
            200, json=page("new", "c", 50.0) if cursor is None else page("old", None, 20.0)
        )

    with remote(answer) as client:
        hits, coverage, more = search.pages(client, {}, 10)
        assert [hit["id"] for hit in hits] == ["new", "old"]
        assert (coverage["asked_s"], coverage["looked_share"], more) == (200.0, 0.35, False)
        assert (coverage["start"], coverage["end"]) == ("old-start", "new-end")
        assert search.pages(client, {}, 1)[2] is True


def test_live_goes_on_where_the_stream_ended(remote: Callable[[Any], Remote]) -> None:
    asked: list[str | None] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.headers.get("last-event-id"))
        number = len(asked)
        if number == 3:
            return httpx2.Response(200, text="")
        text = f"retry: 2000\nid: 0-{number}\n\nid: 0-{number}9\nevent: sighting\n"
        return httpx2.Response(200, text=text + f'data: {{"id": "s{number}"}}\n\n')

    found: list[str] = []
    with remote(answer) as client, pytest.raises(LamppostError) as caught:
        found.extend(hit["id"] for hit in search.live(client, {}))
    assert caught.value.kind is Kind.UNAVAILABLE
    assert found == ["s1", "s2"]
    assert asked == [None, "0-19", "0-29"]


@pytest.mark.parametrize(("seconds", "text"), [(7200, "2.0 h"), (90, "1.5 min"), (5, "5 s")])
def test_a_length_of_time_is_said_in_its_own_unit(seconds: float, text: str) -> None:
    assert search.long(seconds) == text
