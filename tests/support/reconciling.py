"""A store with recordings whose rows go missing, and the archive that reconciles the two."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from services.archive.service import ArchiveService
from services.check.run import check
from shared import ids, retention
from shared.clock import SimulatedClock
from shared.db import rows, tables
from shared.domain import Camera, Segment, Source
from shared.platform import Platform
from shared.retention import Policy
from shared.settings import Settings
from tests.support import archiving
from tests.support.archiving import START_US, all_rows
from tests.support.media_store import Made, encoded, record

POLICY = Policy(1, 30, "civil_date", "Asia/Hong_Kong")
CAMERA = "cam"
EXPIRY_US = retention.expires_at_us(START_US, POLICY)


@dataclasses.dataclass
class Store:
    clock: SimulatedClock
    settings: Settings
    platform: Platform

    @property
    def archive(self) -> ArchiveService:
        return archiving.archive(self.platform, self.settings)

    def pass_us(self, us: int) -> None:
        self.clock.set_us(self.clock.now_us() + us)

    async def walk(self) -> None:
        """One whole walk."""
        reconciler = self.archive.reconciler
        while await reconciler.step():
            pass

    async def filed(self, start_us: int = START_US) -> list[Made]:
        """Recorded and archived, as ever."""
        found = made(start_us)
        for one in found:
            archiving.file_segment(self.settings, one.segment, one.data)
        await archiving.drain(self.archive)
        return found

    async def forget(self, *segments: Segment) -> None:
        """The database as a restore leaves it: without the rows."""
        wanted = [one.id for one in segments]
        async with self.platform.database.write() as connection:
            await connection.execute(
                sa.delete(tables.segment).where(tables.segment.c.id.in_(wanted))
            )
            table = tables.segment_fragments
            await connection.execute(sa.delete(table).where(table.c.segment_id.in_(wanted)))
            await connection.execute(sa.delete(tables.ledger_day))

    async def put(self, data: bytes, start_us: int = START_US, camera: str = CAMERA) -> str:
        """Bytes that never had a row."""
        day = retention.recording_date(start_us + 1, POLICY.zone)
        key = ids.object_key(day, camera, start_us, ids.new_id())
        digest = hashlib.sha256(data).hexdigest()
        await self.platform.blobs.put(key, data, sha256=digest, size_bytes=len(data))
        return key

    async def rows(self) -> list[dict[str, Any]]:
        found = await all_rows(self.platform, tables.segment)
        return sorted(found, key=lambda row: row["start_us"])

    async def removals(self) -> list[tuple[str, str]]:
        found = await all_rows(self.platform, tables.audit)
        return [
            (one["resource"], one["reason"]) for one in found if one["action"] == "orphan.remove"
        ]

    async def broken(self) -> Sequence[Any]:
        return (await check(self.platform, self.settings, "hash")).findings


def made(start_us: int = START_US, camera: str = CAMERA) -> list[Made]:
    found = record(encoded(), start_us=start_us, camera=camera)
    return [
        one._replace(segment=msgspec.structs.replace(one.segment, recorder="local"))
        for one in found
    ]


@asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[Store]:
    """One camera, a policy of thirty days, nothing recorded."""
    settings = archiving.settings_in(tmp_path / "state")
    clock = archiving.late_clock()
    async with archiving.opened(settings, clock) as platform:
        camera = Camera(
            id=CAMERA, name="Argyle", source=Source("file:///a.mp4"), created_at_us=START_US
        )
        async with platform.database.write() as connection:
            await connection.execute(
                sa.insert(tables.policy).values(
                    version=1, retention_days=30, basis="civil_date",
                    timezone=POLICY.timezone, effective_from_us=0,
                )
            )  # fmt: skip
            await connection.execute(sa.insert(tables.camera).values(rows.camera_row(camera, 0)))
        yield Store(clock, settings, platform)
