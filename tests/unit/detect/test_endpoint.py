"""A worker's metrics over its own port: for the key only, and never at the cost of looking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.detect.service import DetectService, build
from shared.clock import SECOND_US, SystemClock
from shared.internal_http import InternalServer
from shared.messages import DetectorStatus, decode
from shared.platform import Platform, open_platform
from shared.runtime import Stop
from shared.settings import Settings
from tests.support.detection import Fakes, frame
from tests.support.wait import until


class Worker:
    """A worker that runs."""

    def __init__(self, platform: Platform, service: DetectService) -> None:
        self.platform = platform
        self.service = service
        self.stop = Stop()
        self.running = asyncio.create_task(service.run(self.stop))

    async def look(self) -> None:
        """Until one more frame was looked at."""
        before = self.service.status().analysed

        async def looked() -> bool:
            await self.platform.bus.publish([frame("cam", self.platform.clock.now_us())])
            return self.service.status().analysed > before

        await until(looked, what="a frame that was looked at", every_s=0.1)

    async def url(self) -> str:
        await until(lambda: self.service.status().url, what="a port")
        return self.service.status().url

    async def end(self) -> None:
        self.stop.set()
        async with asyncio.timeout(5):
            await self.running


@asynccontextmanager
async def a_worker(folder: Path) -> AsyncIterator[Worker]:
    settings = Settings.model_validate({"state_dir": folder, "instance": "detector-001"})
    platform = await open_platform(settings, SystemClock(), database=False)
    worker = Worker(platform, build(platform, settings, Fakes().parts))
    try:
        yield worker
    finally:
        await worker.end()
        await platform.close()


async def test_a_worker_tells_its_metrics_to_who_has_the_key(tmp_path: Path) -> None:
    async with a_worker(tmp_path) as worker:
        said = await worker.platform.bus.consumer(["camera-status"], start="earliest")
        await worker.look()
        url = await worker.url()
        async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                refused = await client.get("/internal/metrics", headers=headers)
                assert refused.status_code == 401 and "lamppost" not in refused.text
            right = {"Authorization": f"Bearer {worker.platform.internal_key}"}
            answer = await client.get("/internal/metrics", headers=right)
        families = {each.name: each for each in text_string_to_metric_families(answer.text)}
        assert families["lamppost_frames_analysed"].samples[0].value > 0
        assert {"lamppost_detect_seconds", "lamppost_frame_age_seconds"} <= set(families)
        await worker.end()
        states = [decode(each.value, DetectorStatus) for each in await said.poll(timeout_s=0)]
        assert states[-1].stopped
        await said.close()


@pytest.mark.parametrize("step", ["start", "stop", "__init__"])
async def test_a_worker_that_cannot_listen_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    tried = asyncio.Event()

    stop = InternalServer.stop

    async def refused(server: InternalServer, *within_s: float) -> str:
        tried.set()
        if step == "stop":
            await stop(server, *within_s)
        raise OSError("no port is free")

    def broken(*_: object) -> None:
        tried.set()
        raise RuntimeError("another version of the server")

    monkeypatch.setattr(
        f"shared.internal_http.InternalServer.{step}", broken if step == "__init__" else refused
    )
    async with a_worker(tmp_path) as worker:
        if step != "stop":
            async with asyncio.timeout(10):
                await tried.wait()
        await worker.look()
        assert not worker.running.done()
        if step == "stop":
            await worker.url()
        else:
            assert worker.service.status().url == ""
    assert tried.is_set() and worker.running.exception() is None


async def test_a_reader_that_stays_does_not_delay_the_end(tmp_path: Path) -> None:
    async with a_worker(tmp_path) as worker:
        await worker.look()
        port = urlsplit(await worker.url()).port
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /internal/metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n")
        await writer.drain()
        began_us = worker.platform.clock.monotonic_us()
        await worker.end()
        assert worker.platform.clock.monotonic_us() - began_us < 1.5 * SECOND_US
        writer.close()
