"""A restored database that was not told of later purges shows nothing that was recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from services.retention import queries
from services.retention.breaker import clear_breaker, open_breaker
from shared.clock import SECOND_US
from shared.standing import RESTORED
from tests.support.media_store import CAMERA, START_US, WHY, Rig, record, rig

END_US = START_US + 12 * SECOND_US


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as found:
        await found.archive(record())
        yield found


async def forget(store: Rig, kind: str = RESTORED) -> None:
    """What a retention worker does that notices it; each replica has heard of it."""
    await open_breaker(store.platform, "forgotten", {}, store.clock.now_us(), kind=kind)
    await store.clock.advance(1)


async def asked(store: Rig) -> dict[str, httpx2.Response]:
    """One answer of each way to what was recorded."""
    client = store.client
    span = {"since": "2024-01-01T00:00:00Z", "until": "2024-01-01T01:00:00Z"}
    return {
        "playback": await store.open("playback", START_US, END_US),
        "clip": await store.open("clip", START_US, END_US),
        "search": await client.get("/v1/sightings", params={**WHY, **span}),
        "counts": await client.get("/v1/sightings/counts", params={**WHY, **span}),
        "export": await client.get("/v1/sightings/export", params={**WHY, **span}),
        "sighting": await client.get("/v1/sightings/s", params=WHY),
        "segments": await client.get("/v1/segments", params={**WHY, "camera": CAMERA}),
        "segment": await client.get("/v1/segments/s", params=WHY),
        "snapshot": await client.get(
            f"/v1/cameras/{CAMERA}/snapshot", params={**WHY, "at": "2024-01-01T00:00:01Z"}
        ),
    }


async def test_searches_and_footage_are_refused_with_the_reason(store: Rig) -> None:
    before = await asked(store)
    assert 503 not in {answer.status_code for answer in before.values()}
    await forget(store)
    for name, answer in (await asked(store)).items():
        assert answer.status_code == 503, name
        problem = answer.json()
        assert problem["type"].endswith("doubt"), name
        assert "forgotten what was deleted" in problem["detail"], name
        assert "lamppost restore" in answer.text, name


async def test_a_session_that_was_open_shows_nothing_more(store: Rig) -> None:
    opened = (await store.open("playback", START_US, END_US)).json()
    assert (await store.client.get(opened["url"])).status_code == 200
    await forget(store)
    assert (await store.client.get(opened["url"])).status_code == 503


async def test_live_and_the_state_of_cameras_stay(store: Rig) -> None:
    await forget(store)
    assert (await store.client.get(f"/v1/cameras/{CAMERA}/state")).status_code == 200
    status = (await store.client.get("/v1/retention")).json()
    assert status["breaker"]["cause"] == "forgotten"


async def test_after_the_replay_footage_is_shown_while_deletion_stays_stopped(store: Rig) -> None:
    await forget(store)
    async with store.platform.database.write() as connection:
        await queries.told(connection, "place the holds again")
    await store.clock.advance(1)
    assert (await store.open("playback", START_US, END_US)).status_code == 201
    assert await clear_breaker(store.platform, "They stand.") == "place the holds again"


async def test_a_breaker_of_another_cause_hides_nothing(store: Rig) -> None:
    await forget(store, kind="")
    assert (await store.open("playback", START_US, END_US)).status_code == 201
