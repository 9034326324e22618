"""The client that the Kubernetes tests judge a change of version by: honest, and no load itself."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2

from tests.k8s import steady
from tests.support.http_server import serve
from tests.support.wait import until

WANTED = 12


class Api:
    """Answers each request; `peers` are the connections that they came by."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.peers: list[tuple[str, int]] = []
        self.keys: set[bytes] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.peers.append(tuple(scope["client"]))
        self.keys.add(dict(scope["headers"]).get(b"authorization", b""))
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"said"})


async def test_a_thread_keeps_its_client_and_no_connection() -> None:
    api, made = Api(), list[httpx2.Client]()

    def make() -> httpx2.Client:
        made.append(steady.client())
        return made[-1]

    async with serve(api) as url:
        found = steady.Steady(url, {"Authorization": "Bearer key"}, make)

        def several() -> None:
            for _ in range(5):
                found.ask()
            found.close()

        await asyncio.to_thread(several)
    assert found.failed == [] and found.asked == 5
    assert len(set(api.peers)) == 5, "a connection was used twice"
    assert len(made) == 1 and made[0].is_closed
    assert api.keys == {b"Bearer key"}


async def test_it_goes_on_asking_until_the_end_of_the_block() -> None:
    api = Api()
    async with serve(api) as url:
        block = steady.steady(url, {})
        found = await asyncio.to_thread(block.__enter__)
        try:
            await until(lambda: found.asked >= WANTED, 30, "enough requests")
        finally:
            await asyncio.to_thread(block.__exit__, None, None, None)
    assert found.failed == [] and found.asked == len(api.peers)


async def test_a_refusal_and_an_absence_are_told() -> None:
    async with serve(Api(status=503)) as url:
        found = steady.Steady(url, {})
        await asyncio.to_thread(found.ask)
    await asyncio.to_thread(found.ask)
    found.close()
    refused, absent = found.failed
    assert "503 said" in refused and "ConnectError" in absent
