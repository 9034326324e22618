"""A recorder listens at once; who answers is loaded for the first who comes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from services.ingest.front_door import FrontDoor
from shared.internal_http import METRICS_PATH, InternalServer, metrics_app
from shared.settings import Internal
from tests.support.wait import until

KEY = "k" * 40
ROOT = Path(__file__).parents[3]
UNLOADED = """
import asyncio, sys
from pathlib import Path
from tests.support.ingest_world import a_world
from tests.support.wait import until

async def begun():
    async with a_world(Path(sys.argv[1])) as world:
        world.start()

        async def told():
            await world.hear()
            return any(said.url for said in world.recorders)

        await until(told, what="an address is told")

asyncio.run(begun())
sys.exit(", ".join({"uvicorn", "starlette"} & set(sys.modules)) or None)
"""


class Loaded:
    """Makes the server, and counts how often; `hold` lets those who knock wait."""

    def __init__(self) -> None:
        self.times = 0
        self.hold = asyncio.Event()
        self.hold.set()
        self.fails = False

    async def __call__(self) -> InternalServer:
        self.times += 1
        await self.hold.wait()
        if self.fails:
            raise ImportError("a library is missing")
        return InternalServer(metrics_app(KEY), "test")


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx2.AsyncClient(headers=headers, trust_env=False) as made:
        yield made


async def test_who_comes_first_is_answered_and_so_is_everybody_else(
    client: httpx2.AsyncClient,
) -> None:
    loaded = Loaded()
    door = FrontDoor(Internal(), loaded)
    url = door.open() + METRICS_PATH
    await asyncio.sleep(0)
    assert loaded.times == 0, "nobody came yet"
    try:
        answers = await asyncio.gather(*(client.get(url) for _ in range(5)))
        assert [one.status_code for one in (*answers, await client.get(url))] == [200] * 6
        assert loaded.times == 1
    finally:
        await door.stop()
    with pytest.raises(httpx2.ConnectError):
        await client.get(url)


async def test_a_door_that_nobody_knocked_at_closes() -> None:
    door = FrontDoor(Internal(), Loaded())
    door.open()
    await door.stop()


async def test_it_closes_while_who_answers_is_loaded(client: httpx2.AsyncClient) -> None:
    loaded = Loaded()
    loaded.hold.clear()
    door = FrontDoor(Internal(), loaded)
    waiting = asyncio.create_task(client.get(door.open() + METRICS_PATH))
    await until(lambda: loaded.times, what="who answers is asked for")
    await asyncio.wait_for(door.stop(), 5)
    with pytest.raises(httpx2.TransportError):
        await waiting


async def test_who_cannot_be_loaded_is_missed_at_once(client: httpx2.AsyncClient) -> None:
    loaded = Loaded()
    loaded.fails = True
    door = FrontDoor(Internal(), loaded)
    url = door.open() + METRICS_PATH
    for _ in range(2):
        with pytest.raises(httpx2.TransportError):
            await client.get(url)
    assert loaded.times == 1
    await door.stop()


def test_a_recorder_that_nobody_asks_carries_no_http_server(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNLOADED, str(tmp_path)], cwd=ROOT, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
