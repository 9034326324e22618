"""An api with two cameras and somebody who searches them, for tests of searches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from services.api.models_sightings import SightingPage
from shared.clock import SECOND_US
from shared.db import tables
from shared.domain import Role, SiteKind
from shared.sightings import Sighting, Zone
from tests.support import databases
from tests.support import sightings as made
from tests.support.api import NOW_US, WHY, Api, opened

MINUTE_US = 60 * SECOND_US


@dataclass
class World:
    """An api with two cameras, and an analyst."""

    api: Api
    client: httpx2.AsyncClient

    async def add(self, *sightings: Sighting, **changes: Any) -> None:
        rows = [made.row(each, now_us=max(NOW_US, each.end_us), **changes) for each in sightings]
        await databases.insert(self.api.platform.database, tables.sighting, *rows)

    async def add_zone(self, camera_id: str, zone: Zone) -> None:
        await self.api.insert(
            tables.zone,
            {
                "id": zone.id,
                "camera_id": camera_id,
                "kind": zone.kind,
                "name": zone.name,
                "points": [list(point) for point in zone.points],
                "directions": zone.directions,
                "version": 1,
                "created_at_us": 0,
                "updated_at_us": 0,
            },
        )

    async def get(self, path: str = "", **params: Any) -> httpx2.Response:
        asked = {**WHY, **{name.rstrip("_"): value for name, value in params.items()}}
        return await self.client.get(f"/v1/sightings{path}", params=asked)

    async def page(self, **params: Any) -> dict[str, Any]:
        reply = await self.get(**params)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    async def names(self, **params: Any) -> list[str]:
        """Ids of all pages; each page's reply is as OpenAPI says."""
        found: list[str] = []
        cursor = None
        while True:
            page = await self.page(**params, **({"cursor": cursor} if cursor else {}))
            SightingPage.model_validate(page, extra="forbid")
            found += [item["id"] for item in page["items"]]
            cursor = page["next"]
            if cursor is None:
                return found


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """`mk-1` in Mong Kok, with a position, and `sp-1` in Sham Shui Po."""
    async with opened(folder) as api:
        await api.cameras("mk-1", latitude=22.3, longitude=114.2)
        await api.cameras("sp-1", district="Sham Shui Po", site_kind=SiteKind.GOVERNMENT_BUILDING)
        yield World(api, await api.person(Role.ANALYST, Role.INVESTIGATOR, name="ada"))


def ago(minutes: float, name: str, camera_id: str = "mk-1", **changes: Any) -> Sighting:
    return made.sighting(name, camera_id, NOW_US - round(minutes * MINUTE_US), **changes)
