"""A state folder with a spool, embedded ports and a simulated clock, and segments for it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from services.archive.service import ArchiveService, build
from shared import ids
from shared.blobs.files import FileBlobs
from shared.bus import Record
from shared.bus.embedded import EmbeddedBus
from shared.clock import SECOND_US, Clock, SimulatedClock
from shared.db import rows, tables
from shared.domain import (
    Fragment,
    Gap,
    GapReason,
    Hold,
    HoldReason,
    Segment,
)
from shared.platform import Platform
from shared.settings import Settings
from shared.spool import RecorderSpool
from tests.support import databases, segments

START_US = 1_713_225_600_000_000
"""2024-04-16 08:00 in Hong Kong."""
MINUTE_US = 60 * SECOND_US


def settings_in(state_dir: Path, **sections: Any) -> Settings:
    return Settings.model_validate({"state_dir": state_dir, **sections})


@asynccontextmanager
async def opened(settings: Settings, clock: Clock) -> AsyncIterator[Platform]:
    """The embedded platform without its syncs, which only a power cut could miss."""
    path = settings.state_dir / "lamppost.db"
    await databases.migrated(path)
    bus = await EmbeddedBus.open(
        settings.state_dir / "bus.db", clock=clock, partitions=1, session_timeout_s=10.0
    )
    platform = Platform(
        clock=clock,
        bus=bus,
        blobs=FileBlobs(settings.path(settings.stores.blobs_dir), clock=clock, durable=False),
        database=databases.opened(path, clock),
        internal_key="0" * 32,
    )
    try:
        yield platform
    finally:
        await platform.close()


def video(start_us: int, camera_id: str = "cam", size: int = 1_000) -> bytes:
    """Bytes that stand for a recording; nobody here decodes them."""
    seed = f"{camera_id} {start_us} ".encode()
    return (seed * (size // len(seed) + 1))[:size]


def segment(start_us: int = START_US, camera_id: str = "cam", **changes: Any) -> Segment:
    """A minute of a camera, with fragments that fit `video`."""
    data = changes.pop("data", None) or video(start_us, camera_id)
    end_us = changes.get("end_us", start_us + MINUTE_US)
    half = (len(data) - 100) // 2
    middle = (start_us + end_us) // 2
    made = segments.make(
        camera_id,
        start_us,
        end_us,
        data,
        init_size=100,
        fragments=tuple(
            Fragment(
                offset,
                half,
                first,
                last,
                True,
                hashlib.sha256(data[offset : offset + half]).digest(),
            )
            for offset, first, last in (
                (100, start_us, middle),
                (100 + half, middle, end_us),
            )
        ),
        id=ids.derived_id("segment", camera_id, start_us),
        width=768,
        height=576,
        connection_id=ids.derived_id("connection", camera_id),
        recorder="local",
    )
    return msgspec.structs.replace(made, **changes)


def file_segment(settings: Settings, made: Segment, data: bytes | None = None) -> Path:
    """As a recorder does: write under tmp/, then file."""
    spool = RecorderSpool(settings.path(settings.spool.dir), made.recorder)
    path = spool.open_path(made.camera_id, made.start_us, made.id)
    path.write_bytes(video(made.start_us, made.camera_id) if data is None else data)
    return spool.file_segment(path, made)


def gap(start_us: int = START_US, camera_id: str = "cam", **changes: Any) -> Gap:
    made = Gap(
        id=ids.derived_id("gap", camera_id, start_us),
        camera_id=camera_id,
        start_us=start_us,
        end_us=start_us + MINUTE_US,
        reason=GapReason.SILENT,
        recorder="local",
        epoch=1,
    )
    return msgspec.structs.replace(made, **changes)


def file_gap(settings: Settings, made: Gap) -> Path:
    return RecorderSpool(settings.path(settings.spool.dir), "local").file_gap(made)


def spool_files(settings: Settings) -> list[str]:
    """Names of what waits, of every recorder."""
    return sorted(path.name for path in settings.path(settings.spool.dir).glob("*/new/*"))


def aside_files(settings: Settings) -> list[Path]:
    return sorted(settings.path(settings.spool.dir).glob("*/bad/*"))


async def drain(service: ArchiveService) -> None:
    """Until the spool says there is nothing, then publish what there is."""
    while await service.spool.run_once():
        pass
    while await service.relay.run_once():
        pass


def archive(platform: Platform, settings: Settings) -> ArchiveService:
    return build(platform, settings, "spool")


async def all_rows(platform: Platform, table: sa.Table) -> list[dict[str, Any]]:
    async with platform.database.read() as connection:
        found = (await connection.execute(sa.select(table))).mappings().all()
    return [dict(row) for row in found]


async def all_keys(platform: Platform) -> list[str]:
    return [found.key async for found in platform.blobs.list()]


async def events(platform: Platform, topic: str) -> list[Record]:
    consumer = await platform.bus.consumer([topic], start="earliest")
    found: list[Record] = []
    while batch := await consumer.poll(500, timeout_s=0):
        found.extend(batch)
    await consumer.close()
    return found


def hold(start_us: int, end_us: int, now_us: int, **changes: Any) -> Hold:
    made = Hold(
        id="hold-1",
        camera_ids=("cam",),
        start_us=start_us,
        end_us=end_us,
        case_ref="CASE-1",
        reason=HoldReason.CRIMINAL_INVESTIGATION,
        requester_id="officer",
        officers=("officer",),
        placed_at_us=now_us,
        lapses_at_us=now_us + 72 * 3_600 * SECOND_US,
    )
    return msgspec.structs.replace(made, **changes)


async def place(platform: Platform, made: Hold) -> None:
    async with platform.database.write(made.camera_ids) as connection:
        await connection.execute(sa.insert(tables.hold).values(rows.hold_row(made)))
        await connection.execute(
            sa.insert(tables.hold_camera),
            [{"hold_id": made.id, "camera_id": camera_id} for camera_id in made.camera_ids],
        )


def late_clock(after_us: int = MINUTE_US) -> SimulatedClock:
    """A clock that stands `after_us` past the start of the first segment."""
    return SimulatedClock(START_US + after_us)
