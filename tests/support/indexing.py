"""The indexer of sightings on a platform of its own, and updates for it."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from services.archive.index import SightingIndexer
from services.archive.service import build
from shared.bus import Message
from shared.clock import SimulatedClock
from shared.db import tables
from shared.messages import SIGHTINGS, SightingUpdated, encode
from shared.platform import Platform
from shared.settings import Settings
from shared.sightings import Sighting
from tests.support import archiving, sightings
from tests.support.archiving import START_US, all_rows

JPEG = b"\xff\xd8\xff\xe0 a picture"


@dataclasses.dataclass
class World:
    settings: Settings
    platform: Platform
    clock: SimulatedClock
    index: SightingIndexer

    async def send(self, *messages: Message) -> None:
        await self.platform.bus.publish(messages)
        while await self.index.run_once():
            pass

    async def pass_time(self, seconds: float) -> None:
        """Silence: time passes, and the indexer looks."""
        await self.clock.advance(seconds)
        await self.index.run_once()

    async def rows(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in await all_rows(self.platform, tables.sighting)}

    async def thumbnails(self) -> dict[str, bytes]:
        found = await all_rows(self.platform, tables.thumbnail)
        return {row["sighting_id"]: row["jpeg"] for row in found}

    async def draw(self, **changes: Any) -> None:
        values = {
            "id": "gate", "camera_id": "cam", "kind": "line", "name": "Gate",
            "points": [[0.5, 0.0], [0.5, 1.0]], "directions": None, "version": 1,
            "created_at_us": START_US, "updated_at_us": START_US,
        }  # fmt: skip
        async with self.platform.database.write() as connection:
            await connection.execute(sa.delete(tables.zone))
            await connection.execute(sa.insert(tables.zone).values(values | changes))


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[World]:
    made, clock = archiving.settings_in(folder / "state"), archiving.late_clock()
    async with archiving.opened(made, clock) as platform:
        index = build(platform, made, "index").index
        index.wait_s = 0.0
        world = World(made, platform, clock, index)
        yield world
        await world.index.leave()


def made(number: int = 1, seconds: float = 2.0, **changes: Any) -> Sighting:
    found = sightings.sighting(f"sighting-{number}", start_us=START_US, seconds=seconds)
    return msgspec.structs.replace(found, **changes)


def update(of: Sighting, *, ended: bool = False, sent: int = 0, thumbnail: Any = None) -> Message:
    event = SightingUpdated(of, ended, START_US + sent, thumbnail)
    return Message(SIGHTINGS.name, of.camera_id, encode(event))


async def new_life(world: World) -> None:
    """A process that remembers nothing takes the place of the one before."""
    await world.index.leave()
    world.index = SightingIndexer(world.platform, world.settings)
    world.index.wait_s = 0.0
