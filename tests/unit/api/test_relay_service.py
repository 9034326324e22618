"""The relay as a service: when it runs, when it refuses to, and that it ends when asked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from services import one
from services.api import relay
from shared.clock import SECOND_US, SystemClock
from shared.errors import Kind, LamppostError
from shared.runtime import Stop
from shared.settings import Settings
from tests.support.api import platform_in
from tests.support.http_server import serve
from tests.support.relaying import HOSTS, Receiver, subscribed
from tests.support.sightings import sighting, updated
from tests.support.wait import until


def settings(**values: Any) -> Settings:
    return Settings.model_validate({"relay": values})


def test_it_runs_beside_the_others_only_where_events_go_anywhere() -> None:
    assert "relay" not in one.in_process(settings())
    assert one.in_process(settings(webhook_hosts=["10.0.0.0/8"]))[-1] == "relay"
    assert one.in_process(settings(mqtt_host="mqtt.example.org"))[-1] == "relay"


async def test_without_any_way_out_it_says_what_to_set(tmp_path: Path) -> None:
    platform = await platform_in(tmp_path, SystemClock())
    with pytest.raises(LamppostError, match=r"relay\.webhook_hosts or relay\.mqtt_host") as caught:
        one.build("relay", platform, settings())
    assert caught.value.kind is Kind.INVALID
    await platform.close()


async def test_it_relays_until_it_is_stopped(tmp_path: Path) -> None:
    clock = SystemClock()
    platform = await platform_in(tmp_path, clock)
    receiver = Receiver()
    stop = Stop()
    async with serve(receiver.app()) as url:
        await subscribed(platform, settings(**HOSTS), f"{url}/hook")
        service = relay.build(platform, settings(**HOSTS))
        task = asyncio.create_task(service.run(stop))
        seen = sighting("s1", "mk-1", clock.now_us() - SECOND_US, seconds=1)
        await platform.bus.publish([updated(seen)])
        await until(lambda: len(receiver.got) == 2, 30, "begun and ended")
        stop.set()
        async with asyncio.timeout(20):
            await task
    assert sorted(receiver.kinds) == ["sighting.begun.v1", "sighting.ended.v1"]
    await platform.close()


async def test_a_part_that_ends_ends_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = await platform_in(tmp_path, SystemClock())

    async def broken(*_: object) -> None:
        raise RuntimeError("nobody foresaw it")

    monkeypatch.setattr(relay.Delivery, "run", broken)
    with pytest.raises(LamppostError, match=r"relay\.webhooks"):
        await relay.build(platform, settings(**HOSTS)).run(Stop())
    await platform.close()
