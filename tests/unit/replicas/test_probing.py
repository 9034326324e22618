"""What each service that runs alone says of itself while its bus is away."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from services import probing
from shared.errors import Kind, LamppostError
from shared.probes import Missing, Probes

WITH_STORES = ("archive", "retention", "relay")


class Bus:
    """One that may be away."""

    def __init__(self) -> None:
        self.away = False

    async def reach(self) -> None:
        if self.away:
            raise LamppostError(Kind.UNAVAILABLE, "nobody listens there")

    async def consumer(self, *_: Any, **__: Any) -> Bus:
        await self.reach()
        return self

    async def close(self) -> None:
        """A consumer of it."""


class Rows:
    """A database and an object store that are there."""

    async def now_us(self) -> int:
        return 1

    time_us = now_us


class Recorder:
    """It has taken its cameras over, or not."""

    def __init__(self) -> None:
        self.lacks = ""

    async def ready(self) -> None:
        if self.lacks:
            raise Missing(self.lacks)


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    async def schema(_: object) -> None:
        """As new as this release."""

    monkeypatch.setattr(probing, "schema", schema)
    return Bus()


def known(name: str, bus: Bus, service: object) -> Probes:
    probes = Probes()
    platform: Any = SimpleNamespace(bus=bus, database=Rows(), blobs=Rows())
    made: Any = service
    probing.know(probes, name, platform, made)
    return probes


@pytest.mark.parametrize("name", [*WITH_STORES, "detect"])
async def test_who_works_on_the_bus_is_not_ready_while_it_is_away(name: str, bus: Bus) -> None:
    probes = known(name, bus, object())
    assert (await probes.ready())[0]
    bus.away = True
    fine, found = await probes.ready()
    assert not fine and found["bus"] == "unavailable"
    assert (await probes.started())[0], "begun is begun"
    bus.away = False
    assert (await probes.ready())[0]


async def test_an_api_still_answers_what_the_rows_say(bus: Bus) -> None:
    probes = known("api", bus, object())
    assert (await probes.ready())[0]
    bus.away = True
    fine, found = await probes.ready()
    assert fine and found["bus"] == "unavailable"


async def test_a_recorder_judges_by_its_group_and_tells_of_the_bus(bus: Bus) -> None:
    recorder = Recorder()
    bus.away = True
    probes = known("ingest", bus, recorder)
    assert await probes.started() == (True, {}), "recording comes first"
    fine, found = await probes.ready()
    assert fine and found == {"bus": "unavailable", "service": "ok"}
    recorder.lacks = "the bus has given it no share of the cameras, or is away"
    assert not (await probes.ready())[0]
