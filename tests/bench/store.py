"""A state folder of a benchmark's own, with its schema, policy and cameras."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from services import children
from services.api.camera_store import add_cameras
from services.retention.policy import ensure_policy
from shared.db import policies, tables
from shared.domain import Camera
from shared.outbox import Relay
from shared.platform import Platform, open_platform
from shared.settings import Settings, load
from tests.bench.footage import Made
from tests.support import segments


def settings_of(state: Path, **sections: Any) -> Settings:
    """Defaults but for these; the disk may be as full as it is."""
    spool = {"min_free_ratio": 0.0, **sections.pop("spool", {})}
    values = {"state_dir": str(state), "spool": spool, **sections}
    return load({}, values)


def command(service: str) -> list[str]:
    """`lamppost run SERVICE` of this checkout."""
    return [sys.executable, "-m", "services", "run", service]


def environment(settings: Settings, instance: str = "local") -> dict[str, str]:
    """As the supervisor gives it to its children."""
    return children.environment(settings, instance, os.environ)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Platform]:
    """The platform, migrated, with its policy."""
    platform = await open_platform(settings)
    try:
        await platform.database.migrate()
        await ensure_policy(platform, settings)
        yield platform
    finally:
        await platform.close()


def prepare(settings: Settings, cameras: Sequence[Camera]) -> None:
    """Migrate, and make the cameras known to database and recorders."""

    async def work() -> None:
        async with opened(settings) as platform:
            await add_cameras(platform, settings, list(cameras))
            relay = Relay(platform, "api")
            while await relay.run_once():
                pass

    asyncio.run(work())


async def archive(platform: Platform, made: Made) -> str:
    """Store and index one segment as the archive does; its key."""
    segment = made.segment
    async with platform.database.write() as connection:
        policy = await policies.newest(connection)
        assert policy is not None
        key = segments.key_of(segment, policy)
        await platform.blobs.put(
            key, made.data, sha256=segment.sha256, size_bytes=segment.size_bytes
        )
        await connection.execute(
            sa.insert(tables.segment).values(
                segments.row(segment, policy, committed_at_us=platform.clock.now_us())
            )
        )
        await connection.execute(
            sa.insert(tables.segment_fragments).values(segments.fragments_row(segment))
        )
    return key
