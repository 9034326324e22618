"""How PostgreSQL reads for a search: what the index can decide is decided before a row is read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api import queries_coverage, queries_sightings
from services.api.filing import Filing
from services.api.queries_sightings import Slice
from services.api.sighting_filters import Filters
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import tables
from shared.db.partitions import days_near
from shared.platform import Platform
from tests.support import databases, sightings
from tests.support.archiving import START_US, late_clock, opened, settings_in

pytestmark = pytest.mark.skipif(not databases.POSTGRES, reason="of PostgreSQL's planner")
CAMERAS = tuple(f"cam-{number:02}" for number in range(40))
SPAN = (START_US, START_US + HOUR_US)
KNOWN = Filing((sightings.POLICY.timezone,), START_US - 90 * DAY_US)
SEARCH, TIME, SEGMENTS = "camera_id_start_us_end_us", "_expr_idx", "_end_us_camera_id_"
"""Of the names that PostgreSQL gives the indexes of a partition, by their columns."""


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[AsyncConnection]:
    """Of a database with an hour of forty cameras whose statistics are known."""
    async with opened(settings_in(tmp_path), late_clock()) as platform:
        await filled(platform)
        async with platform.database.read() as found:
            yield found


async def filled(platform: Platform) -> None:
    await platform.database.ensure_days(days_near(SPAN))
    some = [
        sightings.sighting(
            f"s{number}",
            CAMERAS[number % len(CAMERAS)],
            START_US + number * SECOND_US,
            class_name="bus" if number % 50 == 0 else ("person", "car")[number % 2],
        )
        for number in range(3_500)
    ]
    rows = [sightings.row(one, now_us=SPAN[1]) for one in some]
    await databases.insert(platform.database, tables.sighting, *rows)
    async with platform.database.write() as connection:
        await connection.exec_driver_sql("ANALYZE sighting")


async def plan(
    connection: AsyncConnection, query: sa.Select[Any], values: dict[str, Any]
) -> list[str]:
    made: Any = query.compile(dialect=connection.dialect).construct_expanded_state(values)
    driver: Any = (await connection.get_raw_connection()).driver_connection
    # On tables so small as these a bitmap of pages, or all of them, is as good.
    await driver.execute("SET LOCAL enable_bitmapscan = off; SET LOCAL enable_seqscan = off")
    found = await driver.fetch(f"EXPLAIN {made.statement}", *made.positional_parameters)
    return [row[0] for row in found]


async def search_plan(connection: AsyncConnection, wanted: Slice) -> list[str]:
    query = queries_sightings._query_of("postgresql", wanted)
    values = queries_sightings._values(connection, wanted, SPAN[0], SPAN[1])
    values |= {"after_us": SPAN[1], "after_id": "", "most": 101}
    return await plan(connection, query, values)


def scans(lines: Sequence[str]) -> list[str]:
    return [line.strip() for line in lines if "Scan" in line]


@pytest.mark.parametrize("every", [True, False])
async def test_the_newest_of_all_cameras_come_in_the_order_of_time(
    connection: AsyncConnection, every: bool
) -> None:
    lines = await search_plan(connection, Slice(CAMERAS, SPAN, Filters(), None, 0, every, KNOWN))
    assert any(TIME in scan for scan in scans(lines)) == every, lines


@pytest.mark.parametrize("filters", [Filters(classes=("bus",)), Filters(upper=("red",))])
async def test_a_row_is_read_once_the_index_says_that_it_fits(
    connection: AsyncConnection, filters: Filters
) -> None:
    lines = await search_plan(connection, Slice(CAMERAS[:3], SPAN, filters, None, 0, False, KNOWN))
    assert len(scans(lines)) == 2 and all(SEARCH in scan for scan in scans(lines)), lines
    assert any("Index Only Scan" in scan for scan in scans(lines)), "how far the page goes"
    column = "class_name" if filters.classes else "colour_upper"
    conditions = [line for line in lines if column in line]
    assert len(conditions) == 2 and all("Index Cond" in line for line in conditions), lines


async def test_what_is_drawn_is_looked_for_in_the_index_too(connection: AsyncConnection) -> None:
    drawn = Filters(polygon=((0.1, 0.1), (0.2, 0.1), (0.2, 0.2)))
    lines = await search_plan(connection, Slice(CAMERAS[:1], SPAN, drawn, None, 0, False, KNOWN))
    (condition,) = [line for line in lines if "Index Cond" in line]
    assert condition.count("real") >= 4, lines


async def test_one_day_is_opened_where_the_zone_is_known(connection: AsyncConnection) -> None:
    wanted = Slice(CAMERAS[:1], SPAN, Filters(), None, 0, False, KNOWN)
    assert len(scans(await search_plan(connection, wanted))) == 1
    of_any = await search_plan(connection, wanted._replace(filing=Filing()))
    assert len(scans(of_any)) == 3


async def test_the_coverage_of_all_cameras_looks_up_none(connection: AsyncConnection) -> None:
    values = {
        "start_us": SPAN[0], "end_us": SPAN[1], "limit_us": SPAN[1] + HOUR_US, "open_us": 0,
        "coming_us": SPAN[1], "first_day": KNOWN.dates(*SPAN)[0], "last_day": KNOWN.dates(*SPAN)[1],
    }  # fmt: skip
    query = queries_coverage._coverage_query("postgresql", count=0, near=False)
    lines = await plan(connection, query, values)
    assert all(SEGMENTS in scan for scan in scans(lines)), lines
