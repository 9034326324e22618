"""A service that runs alone answers probes and Prometheus, truthfully."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from shared import monitor
from shared.errors import Kind, LamppostError
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


async def test_alive_ready_and_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "CHECK_TIMEOUT_S", 0.1)
    bus, database = Neighbour(), Neighbour()
    place = Metrics(port=free_port())
    server = await monitor.start(place, {"bus": bus.ask, "database": database.ask})
    base = f"http://127.0.0.1:{place.port}"
    try:
        async with httpx2.AsyncClient(base_url=base, trust_env=False) as client:
            answer = await client.get("/readyz")
            assert answer.status_code == 200
            assert answer.json() == {"status": "ready", "checks": {"bus": "ok", "database": "ok"}}
            bus.kind, database.hangs = Kind.UNAVAILABLE, True
            answer = await client.get("/readyz")
            assert answer.status_code == 503
            assert answer.json()["checks"] == {"bus": "unavailable", "database": "timeout"}
            assert (await client.get("/healthz")).json() == {"status": "ok"}, "alive all the same"
            answer = await client.get("/metrics")
            assert "lamppost_build_info" in answer.text
            assert answer.headers["content-type"] == monitor.TEXT
    finally:
        await server.stop()


async def test_a_taken_port_is_said_with_the_setting() -> None:
    place = Metrics(port=free_port())
    server = await monitor.start(place, {})
    try:
        with pytest.raises(LamppostError, match=str(place.port)) as error:
            await monitor.start(place, {})
        assert error.value.kind is Kind.CONFLICT and "LAMPPOST_METRICS" in error.value.fix
    finally:
        await server.stop()
