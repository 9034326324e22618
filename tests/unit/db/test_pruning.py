"""On PostgreSQL a query of some hours opens the partitions of those hours and no others: it answers
while another day's is locked, as when that day leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api import queries_coverage, queries_sightings
from services.api.queries_sightings import Position, Slice
from services.api.sighting_filters import Filters
from services.archive import queries_index
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import tables
from shared.db.partitions import days_near, days_within, partition, script
from shared.errors import LamppostError
from shared.platform import Platform
from tests.support import databases, sightings
from tests.support.archiving import START_US, late_clock, opened, settings_in

DAY = datetime.fromtimestamp(START_US // SECOND_US, UTC).date()
LONG_AGO = DAY - timedelta(days=9)
SPAN = (START_US, START_US + HOUR_US)
ASKED = Slice(("cam",), SPAN, Filters(), None, 0)
Query = Callable[[AsyncConnection], Awaitable[object]]


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    """With a sighting, and another day whose partitions nobody may open."""
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(opened(settings_in(tmp_path), late_clock()))
        await made.database.ensure_days({*days_near(SPAN), LONG_AGO})
        one = sightings.sighting("seen", start_us=START_US + 1)
        await databases.insert(
            made.database, tables.sighting, sightings.row(one, now_us=START_US + HOUR_US)
        )
        lock = await stack.enter_async_context(made.database.write())
        names = [partition(table.name, LONG_AGO) for table in tables.DAILY]
        await script(lock, [f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE" for name in names])
        yield made


async def _search(connection: AsyncConnection) -> list[str]:
    after = Position(SPAN[1])
    found = await queries_sightings.candidates(connection, ASKED, SPAN[0], after, 10)
    return [row.id for row in found]


async def _counts(connection: AsyncConnection) -> int:
    return sum((await queries_sightings.counts(connection, ASKED, *SPAN)).values())


async def _segments(connection: AsyncConnection) -> int:
    return len(await queries_sightings.seen_segments(connection, "cam", SPAN))


async def _covered(connection: AsyncConnection) -> int:
    coverage = await queries_coverage.covered(connection, ["cam"], SPAN, SPAN[1], None)
    return coverage.analysed_us


async def _days(connection: AsyncConnection) -> list[str]:
    return list(await queries_index.days(connection, ["seen", "other"], days_near([START_US])))


@pytest.mark.skipif(not databases.POSTGRES, reason="SQLite has no partitions")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (_search, ["seen"]), (_counts, 1), (_segments, 0), (_covered, 0), (_days, ["seen"]),
    ],
)  # fmt: skip
async def test_what_asks_for_an_hour_opens_no_other_day(
    platform: Platform, query: Query, expected: object
) -> None:
    async with platform.database.read() as connection:
        await script(connection, ["SET LOCAL lock_timeout = 500"])
        assert await query(connection) == expected


@pytest.mark.skipif(not databases.POSTGRES, reason="SQLite has no partitions")
async def test_what_names_no_day_waits_for_all(platform: Platform) -> None:
    """Else the test above would say nothing."""
    with pytest.raises(LamppostError):
        async with platform.database.read() as connection:
            await script(connection, ["SET LOCAL lock_timeout = 500"])
            await connection.exec_driver_sql("SELECT count(*) FROM sighting")


def test_days_within_hold_every_zones_date_and_know_the_calendars_ends() -> None:
    noon_us = DAY_US // 2
    assert days_within(noon_us + DAY_US, noon_us + DAY_US) == (date(1970, 1, 1), date(1970, 1, 3))
    assert days_within(-(1 << 62), 1 << 62) == (date(1970, 1, 1), date.max)
