"""The api as a running service: its port, its streams, its end."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from services.api import camera_store, keys, service, users
from shared.bus import Message
from shared.clock import SECOND_US, SystemClock
from shared.db import tables
from shared.domain import Camera, GapReason, RecordingState, Role, Source
from shared.errors import Kind, LamppostError
from shared.messages import CAMERA_STATUS, CAMERAS, GapRecorded, StatusChanged
from shared.outbox import event
from shared.platform import Platform
from shared.runtime import Stop
from shared.settings import Settings
from tests.support.api import NO_PASSWORD, opened, platform_in
from tests.support.wait import until


@asynccontextmanager
async def running(
    folder: Path, name: str = "officer"
) -> AsyncIterator[tuple[Platform, service.ApiService, httpx2.AsyncClient, Stop]]:
    """A running api on a free port, and a client with every role but audit."""
    platform = await platform_in(folder, SystemClock())
    settings = Settings.model_validate({"state_dir": folder, "api": {"port": 0}})
    api = service.build(platform, settings)
    stop = Stop()
    task = asyncio.create_task(api.run(stop))
    async with platform.database.write() as connection:
        await users.insert(
            connection,
            platform.clock.now_us(),
            name=name,
            password_hash=NO_PASSWORD,
            roles=[Role.SYSADMIN, Role.OPERATOR],
            districts=["Mong Kok"],
        )
    made = await keys.create_key(platform, user_name=name)
    headers = {"Authorization": f"Bearer {made.token}"}
    try:
        async with httpx2.AsyncClient(base_url=api.url, headers=headers, timeout=10) as client:
            yield platform, api, client, stop
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)
        await platform.close()


async def say(platform: Platform, camera_id: str, state: RecordingState) -> None:
    """A recorder's word on the bus."""
    now = platform.clock.now_us()
    status = StatusChanged(camera_id, state, now, now, "r1", 1, GapReason.SILENT, recorder_url="x")
    message = event(CAMERA_STATUS.name, camera_id, status, source="test", at_us=now)
    await platform.bus.publish([message])


async def test_it_serves_follows_recorders_and_publishes_cameras(tmp_path: Path) -> None:
    async with running(tmp_path) as (platform, api, client, _):
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).json()["checks"]["bus"] == "ok"
        metrics = (await client.get("/metrics")).text
        assert (
            'lamppost_http_responses_total{method="GET",route="/healthz",status="2xx"}' in metrics
        )
        body = {"id": "mk-1", "name": "A", "source": {"url": "rtsp://h/x"}, "district": "Mong Kok"}
        assert (await client.post("/v1/cameras", json=body)).status_code == 201
        consumer = await platform.bus.consumer([CAMERAS.name], start="earliest")
        records: list[Any] = []

        async def published() -> bool:
            records.extend(await consumer.poll(timeout_s=0.1))
            return bool(records)

        await until(published, what="the camera on its topic")
        assert json.loads(records[0].value)["camera"]["id"] == "mk-1"
        await consumer.close()

        async def heard() -> bool:
            await say(platform, "mk-1", RecordingState.RECORDING)
            return api.context.recorders.state("mk-1") is not None

        await until(heard, what="the recorder's word")
        assert (await client.get("/v1/cameras/mk-1/state")).json()["state"] == "recording"


async def read_events(
    client: httpx2.AsyncClient, wanted: int, last_id: str = "", during: Any = None
) -> list[dict[str, str]]:
    """The first events of a stream; `during` runs once it is open."""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    found: list[dict[str, str]] = []
    async with client.stream("GET", "/v1/events/camera-status", headers=headers) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        current: dict[str, str] = {}
        async for line in reply.aiter_lines():
            if line.startswith("retry") and during is not None:
                await during()
            elif ": " in line and not line.startswith(("retry", ":")):
                name, value = line.split(": ", 1)
                current[name] = value
            elif not line and current:
                found += [current] if "data" in current else []
                current = {}
            if len(found) >= wanted:
                break
    return found


async def test_events_are_scoped_and_resumed(tmp_path: Path) -> None:
    async with running(tmp_path) as (platform, api, client, _):
        source = Source(url="rtsp://h/x")
        cameras = [
            Camera(id="mk-1", name="A", source=source, district="Mong Kok"),
            Camera(id="ss-1", name="B", source=source, district="Sham Shui Po"),
        ]
        await camera_store.add_cameras(platform, api.context.settings, cameras)

        async def speak() -> None:
            await say(platform, "ss-1", RecordingState.RECORDING)
            await say(platform, "mk-1", RecordingState.CONNECTING)

        [first] = await asyncio.wait_for(read_events(client, 1, during=speak), 15)
        assert first["event"] == "camera.status"
        data = json.loads(first["data"])
        assert (data["camera_id"], data["state"], data["reason"]) == (
            "mk-1",
            "connecting",
            "silent",
        )
        assert "recorder_url" not in data
        now = platform.clock.now_us()
        gap = GapRecorded("g1", "mk-1", now - SECOND_US, now, GapReason.SILENT)
        message = event(CAMERA_STATUS.name, "mk-1", gap, source="test", at_us=now)
        await platform.bus.publish([message])
        [missed] = await asyncio.wait_for(read_events(client, 1, last_id=first["id"]), 15)
        assert (missed["event"], json.loads(missed["data"])["gap_id"]) == ("camera.gap", "g1")


async def test_a_client_that_heard_nothing_resumes_after_a_restart(tmp_path: Path) -> None:
    """The stream names its place at once: its first event may come while the api is away."""
    names = {"mk-1", "mk-2", "mk-3"}
    source = Source(url="rtsp://h/x")
    cameras = [Camera(id=name, name=name, source=source, district="Mong Kok") for name in names]
    async with running(tmp_path) as (platform, api, client, _):
        await camera_store.add_cameras(platform, api.context.settings, cameras)
        async with client.stream("GET", "/v1/events/camera-status") as reply:
            lines = reply.aiter_lines()
            assert (await anext(lines)).startswith("retry: ")
            place = (await anext(lines)).removeprefix("id: ")
    assert len(place.split(".")) == 4
    async with running(tmp_path, "second") as (platform, _, _, _):
        for name in names:
            await say(platform, name, RecordingState.RECORDING)
    async with running(tmp_path, "third") as (_, _, client, _):
        found = await asyncio.wait_for(read_events(client, 3, last_id=place), 15)
    assert {json.loads(each["data"])["camera_id"] for each in found} == names


async def test_a_stop_ends_open_streams_within_three_seconds(tmp_path: Path) -> None:
    async with running(tmp_path) as (platform, _, client, stop):
        clock = platform.clock
        async with client.stream("GET", "/v1/events/camera-status") as reply:
            lines = reply.aiter_lines()
            assert (await anext(lines)).startswith("retry")
            began = clock.monotonic_us()
            stop.set()
            async for _line in lines:
                pass
        assert clock.monotonic_us() - began < 3 * SECOND_US


async def test_a_taken_port_says_so_and_what_to_do(tmp_path: Path) -> None:
    platform = await platform_in(tmp_path, SystemClock())
    held = service.bind("127.0.0.1", 0)
    held.listen()
    port = held.getsockname()[1]
    for api, kind, words in (
        ({"port": port}, Kind.CONFLICT, f"Port {port} of 127.0.0.1 is in use."),
        ({"host": "nowhere.invalid"}, Kind.INVALID, "no such address"),
        ({"host": "203.0.113.7", "port": 0}, Kind.INVALID, "cannot listen"),
    ):
        settings = Settings.model_validate({"state_dir": tmp_path, "api": api})
        with pytest.raises(LamppostError, match=words) as caught:
            service.build(platform, settings)
        assert caught.value.kind is kind
        assert caught.value.fix
    held.close()
    await platform.close()


async def test_what_the_outbox_holds_at_the_stop_is_published(tmp_path: Path) -> None:
    async with running(tmp_path) as (platform, api, _, stop):
        camera = Camera(id="mk-1", name="A", source=Source(url="rtsp://h/x"))
        await camera_store.add_cameras(platform, api.context.settings, [camera])
        stop.set()

        async def empty() -> bool:
            async with platform.database.read() as connection:
                return not (await connection.execute(tables.outbox.select())).all()

        await until(empty, what="an empty outbox")


class LostBus:
    """A bus that nobody reaches."""

    async def reach(self) -> None:
        raise LamppostError(Kind.UNAVAILABLE, "nobody listens there")


@pytest.mark.parametrize(("metrics_port", "status"), [(0, 503), (9100, 200)])
async def test_a_lost_bus_is_told_and_takes_no_api_that_runs_alone_out_of_service(
    tmp_path: Path, metrics_port: int, status: int
) -> None:
    async with opened(tmp_path, metrics={"port": metrics_port}) as api:
        there = api.context.platform
        api.context.platform = dataclasses.replace(there, bus=LostBus())  # type: ignore[arg-type]
        answer = await (await api.client()).get("/readyz")
        api.context.platform = there
    assert answer.status_code == status
    assert answer.json()["checks"] == {"database": "ok", "bus": "unavailable", "blobs": "ok"}


class SlowBus:
    """A bus that takes its time."""

    def __init__(self, platform: Platform) -> None:
        self._bus, self._clock = platform.bus, platform.clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def publish(self, messages: Sequence[Message]) -> None:
        await self._clock.sleep(0.5)
        await self._bus.publish(messages)


async def test_a_slow_bus_gets_the_outbox_although_requests_are_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = await platform_in(tmp_path, SystemClock())
    slow = dataclasses.replace(platform, bus=SlowBus(platform))  # type: ignore[arg-type]
    settings = Settings.model_validate({"state_dir": tmp_path, "api": {"port": 0}})
    monkeypatch.setattr(service, "GRACE_S", -0.9)
    api, stop = service.build(slow, settings), Stop()
    camera = Camera(id="mk-1", name="A", source=Source(url="rtsp://h/x"))
    await camera_store.add_cameras(platform, settings, [camera])
    task = asyncio.create_task(api.run(stop))
    stop.set()
    try:
        await asyncio.wait_for(task, 20)
        async with platform.database.read() as connection:
            assert not (await connection.execute(tables.outbox.select())).all()
    finally:
        await platform.close()
