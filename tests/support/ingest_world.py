"""A recorder service on a real embedded bus, with a fake media path, and what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.ingest.media import StateChanged
from services.ingest.service import IngestService
from services.ingest.service import build as build_ingest
from shared.bus import Bus, Consumer, Message
from shared.clock import Clock, SystemClock
from shared.domain import Camera, RecordingState
from shared.messages import (
    CameraChanged,
    RecorderStatus,
    StatusChanged,
    StatusEvent,
    decode,
    encode,
)
from shared.platform import Platform, open_platform
from shared.runtime import Stop
from shared.settings import Settings
from shared.spool import RecorderSpool
from tests.support.fake_media import FakeMedia
from tests.support.wait import until


def settings_of(state_dir: Path, instance: str = "recorder-1", **ingest: object) -> Settings:
    return Settings.model_validate(
        {
            "state_dir": state_dir,
            "instance": instance,
            "ingest": {"status_interval_s": 0.2, **ingest},
            "stores": {"bus_partitions": 8},
        }
    )


class World:
    """A platform, a recorder with its fake media, and what is said on the bus."""

    def __init__(self, platform: Platform, settings: Settings, watcher: Consumer) -> None:
        self.platform = platform
        self.settings = settings
        self.media = FakeMedia(platform.clock)
        self.service: IngestService = build_ingest(platform, settings, self.media)
        self.statuses: list[StatusChanged] = []
        self.recorders: list[RecorderStatus] = []
        self.stop = Stop()
        self._watcher = watcher
        self._task: asyncio.Task[None] | None = None

    @property
    def spool(self) -> RecorderSpool:
        return RecorderSpool(self.settings.path(self.settings.spool.dir), self.settings.instance)

    def start(self) -> None:
        self._task = asyncio.create_task(self.service.run(self.stop))

    async def end(self) -> None:
        self.stop.set()
        if self._task is not None:
            await asyncio.wait_for(self._task, 10)
            self._task = None

    async def configure(self, *cameras: Camera) -> None:
        await configure(self.platform.bus, *cameras)

    async def say(self, *events: StateChanged) -> None:
        """The media path reports, and the bus is told."""
        for event in events:
            self.service._take(event)
        await self.service._out.flush()

    async def hear(self) -> None:
        """Take in what was said on the bus."""
        for record in await self._watcher.poll(timeout_s=0):
            event = decode(record.value, StatusEvent)  # type: ignore[arg-type]
            if isinstance(event, StatusChanged):
                self.statuses.append(event)
            elif isinstance(event, RecorderStatus):
                self.recorders.append(event)

    def last(self, camera_id: str) -> StatusChanged | None:
        return next((s for s in reversed(self.statuses) if s.camera_id == camera_id), None)

    async def until_state(self, camera_id: str, state: RecordingState) -> StatusChanged:
        async def said() -> bool:
            await self.hear()
            last = self.last(camera_id)
            return last is not None and last.state is state

        await until(said, what=f"{camera_id} {state.value}")
        found = self.last(camera_id)
        assert found is not None
        return found


async def configure(bus: Bus, *cameras: Camera) -> None:
    await bus.publish([Message("cameras", c.id, encode(CameraChanged(c))) for c in cameras])


@asynccontextmanager
async def a_world(
    state_dir: Path, clock: Clock | None = None, instance: str = "recorder-1", **ingest: object
) -> AsyncIterator[World]:
    settings = settings_of(state_dir, instance, **ingest)
    platform = await open_platform(settings, clock or SystemClock())
    try:
        world = World(
            platform, settings, await platform.bus.consumer(["camera-status"], start="earliest")
        )
        try:
            yield world
        finally:
            await world.end()
    finally:
        await platform.close()
