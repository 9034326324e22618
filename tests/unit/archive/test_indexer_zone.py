"""The site's time zone changes: a sighting that has a row keeps it, under the date it was filed."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from shared.db import tables
from tests.support.archiving import all_rows
from tests.support.indexing import JPEG, World, made, new_life, opened, update

HONG_KONG, NEW_YORK = date(2024, 4, 16), date(2024, 4, 15)
"""The dates of one instant there and there."""


async def site_in(world: World, version: int, timezone: str) -> None:
    async with world.platform.database.write() as connection:
        await connection.execute(
            sa.insert(tables.policy).values(
                version=version, retention_days=30, basis="civil_date", timezone=timezone,
                effective_from_us=version,
            )
        )  # fmt: skip


async def dates(world: World, table: sa.Table) -> list[date]:
    return [row["recording_date"] for row in await all_rows(world.platform, table)]


@pytest.fixture
async def world(tmp_path: Path) -> Any:
    async with opened(tmp_path) as found:
        await site_in(found, 1, "Asia/Hong_Kong")
        yield found


@pytest.mark.parametrize("remembers", [True, False], ids=["one life", "a new life"])
async def test_a_later_update_finds_the_row(world: World, remembers: bool) -> None:
    await world.send(update(made(1, 2.0), thumbnail=JPEG))
    await site_in(world, 2, "America/New_York")
    if not remembers:
        await new_life(world)
    await world.send(update(made(1, 4.0), sent=1, thumbnail=JPEG + b"better"))
    [row] = await all_rows(world.platform, tables.sighting)
    assert (row["recording_date"], row["end_us"]) == (HONG_KONG, made(1, 4.0).end_us)
    assert await dates(world, tables.thumbnail) == [HONG_KONG]
    await world.send(update(made(2)))
    assert sorted(await dates(world, tables.sighting)) == [NEW_YORK, HONG_KONG]


async def test_a_stale_update_that_no_mark_names_adds_none(world: World) -> None:
    """Delivered again long after, by a process that remembers nothing."""
    await world.send(update(made(1, 2.0)), update(made(2, 2.0)))
    await world.send(update(made(1, 4.0), sent=1))
    before = await world.rows()
    await site_in(world, 2, "America/New_York")
    await new_life(world)
    await world.send(update(made(1, 2.0)), update(made(2, 2.0)), update(made(1, 4.0), sent=1))
    assert len(await all_rows(world.platform, tables.sighting)) == 2
    assert await world.rows() == before


async def test_a_new_picture_alone_stands_under_its_sightings_date(world: World) -> None:
    await world.send(update(made(1, 4.0)))
    await site_in(world, 2, "America/New_York")
    await new_life(world)
    await world.send(update(made(1, 2.0), thumbnail=JPEG))
    assert await dates(world, tables.thumbnail) == [HONG_KONG]
    assert await world.thumbnails() == {"sighting-1": JPEG}
