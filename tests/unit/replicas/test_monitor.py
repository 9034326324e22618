"""A service that runs alone answers probes and Prometheus, truthfully."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from shared import monitor
from shared.errors import Kind, LamppostError
from shared.probes import LOOKING, Missing, Probes
from shared.settings import Metrics
from tests.support.servers.rtsp import free_port


class Neighbour:
    """Something that is there, away, or hangs."""

    def __init__(self) -> None:
        self.kind: Kind | None = None
        self.hangs = False

    async def ask(self) -> int:
        if self.hangs:
            await asyncio.Event().wait()
        if self.kind:
            raise LamppostError(self.kind, "told to fail")
        return 1


@asynccontextmanager
async def answering(probes: Probes) -> AsyncIterator[httpx2.AsyncClient]:
    """A process that answers these probes."""
    place = Metrics(port=free_port())
    server = await monitor.start(place, probes)
    try:
        base = f"http://127.0.0.1:{place.port}"
        async with httpx2.AsyncClient(base_url=base, trust_env=False) as client:
            yield client
    finally:
        await server.stop()


async def test_alive_ready_and_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.probes.CHECK_TIMEOUT_S", 0.1)
    bus, database = Neighbour(), Neighbour()
    probes = Probes()
    probes.know({}, {"bus": bus.ask, "database": database.ask})
    async with answering(probes) as client:
        answer = await client.get("/readyz")
        assert answer.status_code == 200
        assert answer.json() == {"status": "ready", "checks": {"bus": "ok", "database": "ok"}}
        bus.kind, database.hangs = Kind.UNAVAILABLE, True
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["checks"] == {"bus": "unavailable", "database": "timeout"}
        assert (await client.get("/healthz")).json() == {"status": "ok"}, "alive all the same"
        assert (await client.get("/startupz")).status_code == 200, "it has begun long ago"
        answer = await client.get("/metrics")
        assert "lamppost_build_info" in answer.text
        assert answer.headers["content-type"] == monitor.TEXT


async def test_a_start_says_what_it_waits_for_and_is_over_once() -> None:
    schema, database = Neighbour(), Neighbour()
    schema.kind = Kind.UNAVAILABLE
    probes = Probes()
    async with answering(probes) as client:
        answer = await client.get("/startupz")
        assert answer.status_code == 503 and answer.json()["checks"] == {"process": LOOKING}
        assert (await client.get("/healthz")).status_code == 200, "it lives while it waits"
        probes.know({"schema": schema.ask}, {"database": database.ask})
        answer = await client.get("/startupz")
        assert answer.status_code == 503 and answer.json()["checks"] == {"schema": "unavailable"}
        answer = await client.get("/readyz")
        assert answer.status_code == 503 and answer.json()["checks"]["schema"] == "unavailable"
        schema.kind = None
        assert (await client.get("/startupz")).json()["status"] == "started"
        schema.kind = Kind.UNAVAILABLE
        assert (await client.get("/startupz")).status_code == 200, "begun is begun"
        assert (await client.get("/readyz")).status_code == 200


async def test_what_is_only_told_takes_nobody_out_of_service() -> None:
    bus, database = Neighbour(), Neighbour()
    bus.kind = Kind.UNAVAILABLE
    probes = Probes()
    probes.know({}, {"database": database.ask}, {"bus": bus.ask})
    async with answering(probes) as client:
        answer = await client.get("/readyz")
        assert answer.status_code == 200
        assert answer.json()["checks"] == {"bus": "unavailable", "database": "ok"}
        database.kind = Kind.TIMEOUT
        assert (await client.get("/readyz")).status_code == 503


async def test_a_process_says_in_its_words_what_it_lacks() -> None:
    async def lacks() -> None:
        raise Missing("cameras that are being taken over: 3")

    probes = Probes()
    probes.know({}, {"service": lacks})
    async with answering(probes) as client:
        answer = await client.get("/readyz")
        assert answer.json()["checks"] == {"service": "cameras that are being taken over: 3"}


async def test_a_taken_port_is_said_with_the_setting() -> None:
    place = Metrics(port=free_port())
    server = await monitor.start(place, Probes())
    try:
        with pytest.raises(LamppostError, match=str(place.port)) as error:
            await monitor.start(place, Probes())
        assert error.value.kind is Kind.CONFLICT and "LAMPPOST_METRICS" in error.value.fix
    finally:
        await server.stop()
