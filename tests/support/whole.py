"""The recording path whole, in one process: real recorder, archive, retention, relays and files.

Cameras replay a generated clip through the file source. Services can be started and ended one by
one; what they say on the bus and what they leave in the database is at hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from services.api.camera_store import SERVICE, add_cameras
from services.archive.service import build as build_archive
from services.check.report import Report
from services.check.run import check
from services.ingest.service import build as build_ingest
from services.retention.policy import ensure_policy
from services.retention.service import RetentionService
from shared import intervals
from shared.clock import SECOND_US, Clock, SystemClock
from shared.db import tables
from shared.domain import Camera, GapReason, RecordingState, Source
from shared.intervals import Interval
from shared.messages import RecorderStatus, StatusChanged, StatusEvent, decode
from shared.outbox import Relay
from shared.platform import Platform, open_platform
from shared.runtime import Service, Stop
from shared.settings import Settings
from tests.support.video import write_video
from tests.support.wait import until


def settings_for(folder: Path, **sections: dict[str, Any]) -> Settings:
    """Short segments below `folder`, and a clip in `folder/footage` for the cameras."""
    clip = folder / "footage" / "street.mp4"
    if not clip.exists():
        write_video(clip, frames=100, gop=25, width=320, height=240)
    values: dict[str, Any] = {
        "state_dir": folder / "state",
        "instance": "recorder-001",
        "ingest": {"footage_dirs": [clip.parent], "segment_s": 2, "status_interval_s": 0.3},
        "spool": {"min_free_ratio": 0},
        "archive": {"scan_interval_s": 0.1},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return Settings.model_validate(values)


class Whole:
    """See the module."""

    def __init__(self, platform: Platform, settings: Settings) -> None:
        self.platform = platform
        self.settings = settings
        self.cameras: dict[str, StatusChanged] = {}
        self.recorder: RecorderStatus | None = None
        self.retention = RetentionService(platform, settings)
        self.api: Any = None
        """What a test makes of the api beside its service."""
        self._running: dict[str, tuple[Stop, asyncio.Task[None]]] = {}

    @property
    def spool(self) -> Path:
        return self.settings.path(self.settings.spool.dir) / self.settings.instance

    async def add(self, *names: str) -> None:
        """Cameras that replay the clip, as a person adds them."""
        clip = self.settings.ingest.footage_dirs[0] / "street.mp4"
        made = [
            Camera(id=name, name=name, source=Source(url=clip.resolve().as_uri())) for name in names
        ]
        await add_cameras(self.platform, self.settings, made)
        self.start("relay", Relay(self.platform, SERVICE))

    def start(self, name: str, service: Service | Relay | None = None) -> None:
        """Start a service by name, unless it runs."""
        if name in self._running:
            return
        build = {"ingest": build_ingest, "archive": build_archive}
        made = service or build[name](self.platform, self.settings)
        stop = Stop()
        self._running[name] = stop, asyncio.create_task(made.run(stop), name=name)

    async def end(self, name: str) -> None:
        """Ask it to end, and wait."""
        stop, task = self._running.pop(name)
        stop.set()
        await asyncio.wait_for(task, 20)

    async def end_all(self) -> None:
        """Recorders first; then everything filed is archived; then the rest."""
        if "ingest" in self._running:
            await self.end("ingest")
        if "archive" in self._running:
            await self.until_filed()
        for name in list(self._running):
            await self.end(name)

    async def until_filed(self) -> None:
        await until(lambda: not any((self.spool / "new").iterdir()), 20, "the spool is empty")

    async def state(self, camera_id: str) -> StatusChanged | None:
        """The camera's newest word."""
        consumer = self._consumer
        for record in await consumer.poll(timeout_s=0):
            event = decode(record.value, StatusEvent)  # type: ignore[arg-type]
            if isinstance(event, StatusChanged):
                self.cameras[event.camera_id] = event
            elif isinstance(event, RecorderStatus):
                self.recorder = event
        return self.cameras.get(camera_id)

    async def until_state(
        self,
        camera_id: str,
        state: RecordingState,
        reason: GapReason | None = None,
        timeout_s: float = 20.0,
    ) -> StatusChanged:
        found: list[StatusChanged] = []

        async def said() -> bool:
            last = await self.state(camera_id)
            found[:] = [last] if last else []
            return last is not None and (last.state, last.reason) == (state, reason)

        try:
            await until(said, timeout_s)
        except AssertionError:
            raise AssertionError(f"not {state.value} {reason} in time; last: {found}") from None
        return found[0]

    async def rows(self, table: sa.Table) -> list[dict[str, Any]]:
        async with self.platform.database.read() as connection:
            found = (await connection.execute(sa.select(table))).mappings().all()
        return [dict(row) for row in found]

    async def segments(self) -> int:
        async with self.platform.database.read() as connection:
            counted = sa.select(sa.func.count()).select_from(tables.segment)
            return int(await connection.scalar(counted) or 0)

    async def gaps_us(self, reason: GapReason) -> int:
        """Time of all gaps of a reason."""
        rows = await self.rows(tables.gap)
        return sum(r["end_us"] - r["start_us"] for r in rows if r["reason"] == reason.value)

    async def check(self) -> Report:
        """`lamppost check --depth hash`."""
        return await check(self.platform, self.settings, "hash")

    async def holes(self, camera_id: str, until_us: int) -> list[Interval]:
        """Stretches over 0.1 s from the camera's creation on that neither row covers."""
        [camera] = [row for row in await self.rows(tables.camera) if row["id"] == camera_id]
        known = [
            (row["start_us"], row["end_us"])
            for table in (tables.segment, tables.gap)
            for row in await self.rows(table)
            if row["camera_id"] == camera_id
        ]
        left = intervals.subtract([(camera["created_at_us"], until_us)], intervals.union(known))
        return [(start, end) for start, end in left if end - start > SECOND_US // 10]

    async def open(self) -> None:
        self._consumer = await self.platform.bus.consumer(["camera-status"], start="earliest")

    async def close(self) -> None:
        for name in list(self._running):
            await self.end(name)


@asynccontextmanager
async def whole(
    settings: Settings, clock: Clock | None = None, cameras: Sequence[str] = ("cam-1",)
) -> AsyncIterator[Whole]:
    """The path with `cameras`, migrated and under its policy; nothing runs yet but the relay."""
    platform = await open_platform(settings, clock or SystemClock())
    try:
        await platform.database.migrate()
        await ensure_policy(platform, settings)
        made = Whole(platform, settings)
        await made.open()
        try:
            if cameras:
                await made.add(*cameras)
            yield made
        finally:
            await made.close()
    finally:
        await platform.close()
