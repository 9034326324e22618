"""An api on temporary stores, called without a network: people with roles, and their clients."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import sqlalchemy as sa
from fastapi import FastAPI

from services.api import camera_store, keys, users
from services.api.app import create_app
from services.api.context import ApiContext
from services.api.recorders import RecorderDirectory
from shared import civil, ids
from shared.blobs.files import FileBlobs
from shared.bus.embedded import EmbeddedBus
from shared.clock import SECOND_US, Clock, SimulatedClock
from shared.db import tables
from shared.domain import Camera, Role, Source
from shared.platform import Platform
from shared.retention import Policy
from shared.settings import Settings
from tests.support import databases, segments

HONG_KONG = civil.zone("Asia/Hong_Kong")
NOW_US = civil.parse_instant("2026-11-25T15:00:00", HONG_KONG)
EVERY_ROLE = tuple(Role)
POLICY = Policy(1, 30, "civil_date", "Asia/Hong_Kong")
WHY = {"purpose": "crime_investigation", "case_ref": "MK-1"}
# A valid hash whose password nobody knows: hashing is slow on purpose, most tests use keys.
NO_PASSWORD = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$" + "A" * 43


@dataclass
class Api:
    """One api and what tests do to it."""

    context: ApiContext
    app: FastAPI
    clock: SimulatedClock
    exits: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def platform(self) -> Platform:
        return self.context.platform

    async def client(self, **headers: str) -> httpx2.AsyncClient:
        """A client without credentials."""
        transport = httpx2.ASGITransport(self.app, raise_app_exceptions=False)
        client = httpx2.AsyncClient(
            transport=transport, base_url="http://lamppost.test", headers=headers
        )
        return await self.exits.enter_async_context(client)

    async def user(self, name: str, *roles: Role, **scope: Any) -> str:
        """An account; its id."""
        async with self.platform.database.write() as connection:
            return await users.insert(
                connection,
                self.clock.now_us(),
                name=name,
                password_hash=NO_PASSWORD,
                roles=list(roles),
                **scope,
            )

    async def person(self, *roles: Role, name: str = "", **scope: Any) -> httpx2.AsyncClient:
        """A client with the key of a new person who has these roles."""
        name = name or f"person-{ids.new_id()[:8]}"
        await self.user(name, *roles, **scope)
        made = await keys.create_key(self.platform, user_name=name)
        return await self.client(Authorization=f"Bearer {made.token}")

    async def cameras(self, *camera_ids: str, **values: Any) -> list[Camera]:
        """Cameras as the command line adds them."""
        values = {"source": Source(url="rtsp://10.0.0.1/main"), "district": "Mong Kok", **values}
        return await camera_store.add_cameras(
            self.platform,
            self.context.settings,
            [Camera(id=camera_id, name=camera_id, **values) for camera_id in camera_ids],
        )

    async def segment(self, camera_id: str, start_us: int, length_s: float = 60.0) -> str:
        """A segment row, as the archive writes it; its id."""
        end_us = start_us + round(length_s * SECOND_US)
        made = segments.make(
            camera_id,
            start_us,
            end_us,
            size_bytes=1_000,
            init_size=700,
            clock_uncertainty_us=2_000_000,
        )
        await self.insert(tables.segment, segments.row(made, POLICY))
        return made.id

    async def insert(self, table: sa.Table, values: dict[str, Any]) -> None:
        await databases.insert(self.platform.database, table, values)

    async def rows(self, table: sa.Table) -> list[dict[str, Any]]:
        """Every row of a table, in order of its key."""
        async with self.platform.database.read() as connection:
            found = await connection.execute(sa.select(table).order_by(*table.primary_key))
            return [dict(row) for row in found.mappings()]

    async def audited(self, action: str) -> list[dict[str, Any]]:
        return [row for row in await self.rows(tables.audit) if row["action"] == action]

    async def events(self) -> list[Any]:
        """What waits in the outbox, decoded."""
        return [msgspec.json.decode(row["value"]) for row in await self.rows(tables.outbox)]


async def platform_in(folder: Path, clock: Clock) -> Platform:
    """Embedded stores in a folder, migrated."""
    path = folder / "lamppost.db"
    await databases.migrated(path)
    database = databases.opened(path, clock, durable=True)
    return Platform(
        clock=clock,
        bus=await EmbeddedBus.open(
            folder / "bus.db", clock=clock, partitions=4, session_timeout_s=10
        ),
        blobs=FileBlobs(folder / "blobs", clock=clock),
        database=database,
        internal_key="k" * 40,
    )


@asynccontextmanager
async def opened(folder: Path, **sections: Any) -> AsyncIterator[Api]:
    """An api whose settings have these sections, at 15:00 on 25 November 2026 in Hong Kong."""
    clock = SimulatedClock(NOW_US)
    platform = await platform_in(folder, clock)
    settings = Settings.model_validate({"state_dir": folder, **sections})
    context = ApiContext(platform, settings, RecorderDirectory(platform.bus, clock))
    api = Api(context, create_app(context), clock)
    try:
        async with api.exits:
            yield api
    finally:
        await context.media.close()
        await platform.close()
