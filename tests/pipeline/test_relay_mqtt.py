"""The MQTT 5 bridge against a real mosquitto: topics, properties, retention, outages, TLS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from services.api.relay import build
from shared import metrics
from shared.bus import Message
from shared.clock import SECOND_US, SystemClock
from shared.domain import RecordingState
from shared.platform import Platform
from shared.runtime import Stop
from shared.settings import Settings
from tests.support.api import platform_in
from tests.support.relaying import status
from tests.support.servers import certificates
from tests.support.servers.mosquitto import Mosquitto
from tests.support.sightings import sighting, updated
from tests.support.wait import until

pytestmark = pytest.mark.servers
CLOCK = SystemClock()


def seen(name: str, camera_id: str = "mk-1", *, ended: bool = False) -> Message:
    of = sighting(name, camera_id, CLOCK.now_us() - 2 * SECOND_US, seconds=1)
    return updated(of, ended=ended, thumbnail=b"\xff\xd8\xff picture")


def now_status(state: RecordingState = RecordingState.RECORDING) -> Message:
    now_us = CLOCK.now_us()
    return status(state=state, since_us=now_us, at_us=now_us)


class Listener:
    """A subscriber that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[aiomqtt.Message] = []

    def on(self, topic: str) -> list[aiomqtt.Message]:
        return [message for message in self.got if str(message.topic) == topic]

    def sightings(self, camera_id: str = "mk-1") -> list[str]:
        return [
            json.loads(_bytes(message))["sighting_id"]
            for message in self.on(f"city/{camera_id}/sighting")
        ]


def _bytes(message: aiomqtt.Message) -> bytes:
    assert isinstance(message.payload, bytes)
    return message.payload


def ids_of(messages: list[aiomqtt.Message]) -> list[str]:
    return [dict(message.properties.UserProperty)["ce_id"] for message in messages]


@asynccontextmanager
async def listening(port: int, **options: Any) -> AsyncIterator[Listener]:
    """Subscribed to everything of the bridge."""
    found = Listener()
    options.setdefault("identifier", "listener")
    async with aiomqtt.Client(
        "127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5, **options
    ) as client:

        async def read() -> None:
            async for message in client.messages:
                found.got.append(message)

        await client.subscribe("city/#", qos=1)
        reading = asyncio.create_task(read())
        try:
            yield found
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


@asynccontextmanager
async def bridging(
    folder: Path, port: int, platform: Platform | None = None, **relay: Any
) -> AsyncIterator[Platform]:
    """A relay that bridges to the broker, on stores in the folder."""
    mine = platform or await platform_in(folder, CLOCK)
    settings = Settings.model_validate(
        {
            "state_dir": folder,
            "relay": {
                "mqtt_host": "127.0.0.1",
                "mqtt_port": port,
                "mqtt_prefix": "city",
                **relay,
            },
        }
    )
    stop = Stop()
    task = asyncio.create_task(build(mine, settings).run(stop))
    try:
        yield mine
    finally:
        stop.set()
        await task
        if platform is None:
            await mine.close()


def connected() -> bool:
    return metrics.RELAY_UP.labels("mqtt")._value.get() == 1


async def test_sightings_and_states_arrive_with_their_attributes(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker:
        async with listening(broker.port) as heard, bridging(tmp_path, broker.port) as platform:
            await until(connected, what="the bridge is connected")
            await platform.bus.publish(
                [seen("s1"), seen("s1"), now_status(), seen("s1", ended=True), seen("x", "mk-2")]
            )
            await until(lambda: len(heard.got) >= 5, what="five messages and the greeting")
            assert heard.sightings() == ["s1", "s1"]
            assert heard.sightings("mk-2") == ["x"]
            begun, ended = heard.on("city/mk-1/sighting")
            found = dict(begun.properties.UserProperty)
            assert found["ce_type"] == "org.lamppost.sighting.begun.v1"
            assert found["ce_specversion"] == "1.0" and found["ce_subject"] == "mk-1"
            assert found["ce_id"] != dict(ended.properties.UserProperty)["ce_id"]
            assert begun.qos == 1 and not begun.retain
            assert 0 < begun.properties.MessageExpiryInterval <= 86_400
            [state] = heard.on("city/mk-1/status")
            assert json.loads(_bytes(state))["state"] == "recording"
            for message in heard.got:
                for inside in (b"10.0.0", b"10.9.9", b"rtsp", b"picture"):
                    assert inside not in _bytes(message)
        async with listening(broker.port, identifier="late") as late:
            await until(lambda: late.on("city/mk-1/status"), what="the retained status")
            [state] = late.on("city/mk-1/status")
            assert state.retain and state.properties.MessageExpiryInterval <= 900
            assert late.sightings() == []
            [presence] = late.on("city/bridge/local")
            assert _bytes(presence) == b"offline", "it said good-bye"


async def test_a_broker_that_is_away_loses_nothing(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker:
        async with bridging(tmp_path, broker.port) as platform:
            await until(connected, what="the bridge is connected")
            broker.kill()
            await platform.bus.publish([seen(f"s{n:03}") for n in range(300)])
            await until(lambda: not connected(), 30, what="the outage is noticed")
            broker.start()
            async with listening(broker.port) as heard:
                await until(lambda: len(set(heard.sightings())) == 300, 40, what="drained")
                first = list(dict.fromkeys(heard.sightings()))
                assert first == sorted(first), "in order"
                messages = heard.on("city/mk-1/sighting")
                assert len(set(ids_of(messages))) == 300, "doubles have the same id"


async def test_a_bridge_that_dies_says_so_by_its_will_and_repeats_under_the_same_ids(
    tmp_path: Path,
) -> None:
    platform = await platform_in(tmp_path, CLOCK)
    settings = Settings.model_validate(
        {"state_dir": tmp_path, "relay": {"mqtt_host": "127.0.0.1", "mqtt_prefix": "city"}}
    )
    with Mosquitto(tmp_path / "broker") as broker:
        async with listening(broker.port) as heard:
            values = settings.model_dump()
            values["relay"]["mqtt_port"] = broker.port
            service = build(platform, Settings.model_validate(values))
            task = asyncio.create_task(service.run(Stop()))
            await until(lambda: heard.on("city/bridge/local"), what="online")
            await platform.bus.publish([seen("s1")])
            await until(lambda: heard.sightings() == ["s1"], what="s1")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            async with bridging(tmp_path, broker.port, platform):
                await platform.bus.publish([seen("s1"), seen("s2")])
                await until(lambda: "s2" in heard.sightings(), what="s2")
            messages = heard.on("city/mk-1/sighting")
            assert len(set(ids_of(messages))) == 2
    await platform.close()


# Paho leaves a socket to the garbage collector whose handshake failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_tls_and_a_password(tmp_path: Path) -> None:
    signed = certificates.make(tmp_path / "certificates")
    other = certificates.make(tmp_path / "others")
    (tmp_path / "password").write_text("a long one\n", "utf-8")
    with Mosquitto(
        tmp_path / "broker", "bridge", "a long one", (signed.certificate, signed.key)
    ) as broker:
        right = {
            "mqtt_tls": True,
            "mqtt_ca_file": str(signed.ca),
            "mqtt_username": "bridge",
            "mqtt_password_file": str(tmp_path / "password"),
        }
        async with bridging(tmp_path, broker.port, **right):
            await until(connected, what="the bridge is connected")
        for wrong in (
            {"mqtt_ca_file": str(other.ca)},
            {"mqtt_username": "somebody"},
            {"mqtt_tls": False},
            {"mqtt_password_file": str(tmp_path / "none")},
        ):
            async with bridging(tmp_path, broker.port, **{**right, **wrong}):
                with pytest.raises(AssertionError):
                    await until(connected, 1.5)
