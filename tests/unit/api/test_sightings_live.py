"""Sightings as they happen: filters, scope, resuming, audit."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from services.api import event_stream, sighting_live
from services.api.access import Action, Why
from services.api.deps import Granted
from services.api.models_sightings import SightingOut
from services.api.sighting_filters import Asked, Filters, Named
from shared.bus import Message
from shared.db import tables
from shared.domain import Purpose, Role
from shared.messages import SIGHTINGS
from shared.sightings import Sighting
from tests.support.api import NOW_US, WHY
from tests.support.http_server import serve
from tests.support.searching import World, ago, world
from tests.support.sightings import updated


async def publish(w: World, *sightings: Sighting, ended: bool = False) -> None:
    await w.api.platform.bus.publish([updated(each, ended=ended) for each in sightings])


@asynccontextmanager
async def following(
    w: World, url: str, event_id: str = "", **params: Any
) -> AsyncIterator[AsyncIterator[str]]:
    """The lines of a stream over a socket, begun."""
    headers = dict(w.client.headers) | ({"Last-Event-ID": event_id} if event_id else {})
    async with (
        httpx2.AsyncClient(base_url=url, headers=headers, timeout=20) as client,
        client.stream("GET", "/v1/live/sightings", params={**WHY, **params}) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.aiter_lines()
        assert await anext(lines) == "retry: 2000"
        yield lines


async def events(lines: AsyncIterator[str], count: int) -> list[tuple[str, dict[str, Any]]]:
    """The next events: id and data."""
    found, event_id = [], ""
    async for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            event_id = value
        elif name == "data":
            found.append((event_id, json.loads(value)))
            if len(found) == count:
                return found
    raise AssertionError(f"the stream ended after {len(found)} of {count} events")


async def test_hits_come_as_they_happen_and_a_stream_is_resumed(tmp_path: Path) -> None:
    async with world(tmp_path) as w, serve(w.api.app) as url:
        wanted = {"class": "person", "across": "0.5,0,0.5,1"}
        async with following(w, url, **wanted) as lines:
            await anext(lines)
            await publish(w, ago(1, "car", class_name="car"), ago(1, "aside", path=((0.1, 0.1),)))
            await publish(w, ago(1, "walker"))
            await publish(w, ago(1, "walker", seconds=20), ended=True)
            first, second = await events(lines, 2)
        for _, hit in (first, second):
            SightingOut.model_validate(hit, extra="forbid")
        assert [hit["id"] for _, hit in (first, second)] == ["walker", "walker"]
        assert [hit["ended"] for _, hit in (first, second)] == [False, True]
        assert second[1]["dwell_s"] > first[1]["dwell_s"]
        await publish(w, ago(0, "missed"))
        async with following(w, url, event_id=first[0], **wanted) as lines:
            again = await events(lines, 2)
        assert [hit["id"] for _, hit in again] == ["walker", "missed"]
        records = await w.api.audited("sighting.live")
        assert len(records) == 2
        assert records[0]["detail"]["class"] == ["person"]
        assert records[0]["start_us"] == NOW_US


async def test_only_cameras_that_may_be_seen(tmp_path: Path) -> None:
    async with world(tmp_path) as w, serve(w.api.app) as url:
        w.client = await w.api.person(Role.OPERATOR, districts=["Sham Shui Po"])
        async with following(w, url) as lines:
            await anext(lines)
            poison = Message(SIGHTINGS.name, "sp-1", b"{}")
            await w.api.platform.bus.publish([poison])
            await publish(w, ago(1, "hidden", "mk-1"), ago(1, "seen", "sp-1"))
            [(_, hit)] = await events(lines, 1)
        assert hit["id"] == "seen"


async def test_a_stream_needs_purpose_room_and_a_good_id(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        path = "/v1/live/sightings"
        assert (await w.client.get(path)).status_code == 422
        bad = await w.client.get(path, params=WHY, headers={"Last-Event-ID": "x"})
        assert bad.status_code == 422
        w.api.context.streams = event_stream.MAX_STREAMS
        assert (await w.client.get(path, params=WHY)).status_code == 429
        assert await w.api.rows(tables.audit) == [] or not await w.api.audited("sighting.live")


async def test_what_expired_meanwhile_is_not_told_again(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        old = ago(40 * 24 * 60, "old")
        granted = Granted(w.api.context, await _principal(w), Action.SIGHTING_LIVE, "r-1")
        why = Why(Purpose.CRIME_INVESTIGATION, "MK-1")
        search = await sighting_live.sighting_query.begin(
            granted, Asked(Filters(), Named()), why, (NOW_US, NOW_US + 1)
        )
        async with w.api.platform.database.read() as connection:
            policy = await sighting_live.policy_of(w.api.context, connection)
        follower = sighting_live.Follower(search, policy)
        for of, wanted in ((old, []), (ago(1, "new"), ["new"])):
            await publish(w, of)
            consumer = await w.api.platform.bus.consumer([SIGHTINGS.name], start="earliest")
            record = (await consumer.poll(timeout_s=0))[-1]
            await consumer.close()
            found = [json.loads(data)["id"] async for _, data in follower.events(record)]
            assert [name for name in found if name != "old"] == wanted
            assert "old" not in found


async def _principal(w: World) -> Any:
    from services.api.auth import authenticate

    request = httpx2.Request("GET", "http://x", headers=dict(w.client.headers))

    class Bare:
        headers = request.headers
        cookies: dict[str, str] = {}  # noqa: RUF012
        method = "GET"

    return await authenticate(w.api.platform, Bare())  # type: ignore[arg-type]
