"""Sightings of days and cameras in PostgreSQL, by COPY, with the segments they lie in.

As tests/bench/search_store.py, whose different sightings it repeats under their own ids, cameras
and times: nights are quiet, some cameras busy. The peer's plain table has the same rows, a key, a
b-tree on (camera, time), and one on time for the newest page.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import tables
from shared.db.partitions import days_near
from shared.db.rows import SIGHTING_COLUMNS, sighting_row
from shared.platform import Platform
from shared.settings import Settings
from tests.bench import measure, store
from tests.bench.search_store import FIRST_US, Sizes, drawn, prepare
from tests.support.sightings import POLICY

PLAIN = "plain_sighting"
SEGMENT_S = 300
COPIED = 20_000
ZONE_US = 8 * HOUR_US


class Stored(NamedTuple):
    """What was made."""

    settings: Settings
    key: str
    start_us: int
    end_us: int
    cameras: list[str]


def build(settings: Settings, sizes: Sizes) -> Stored:
    """Fill an empty, migrated database with ours."""
    end_us = measure.CLOCK.now_us() // HOUR_US * HOUR_US
    start_us = end_us - sizes.days * DAY_US
    names = [f"cam-{number:03}" for number in range(sizes.cameras)]
    return Stored(settings, asyncio.run(_build(settings, sizes, start_us, names)), start_us, end_us,
                  names)  # fmt: skip


async def _build(settings: Settings, sizes: Sizes, start_us: int, names: list[str]) -> str:
    key = await prepare(settings, names)
    async with store.opened(settings) as platform:
        # A policy is older than the footage, as where retention runs.
        async with platform.database.write() as connection:
            before_us = start_us - 40 * DAY_US
            await connection.execute(sa.update(tables.policy).values(effective_from_us=before_us))
        spread = range(start_us - DAY_US, start_us + (sizes.days + 2) * DAY_US, DAY_US // 2)
        await platform.database.ensure_days(days_near(spread))
        await _copy(platform, _rows(sizes, start_us))
        await _run(platform, [_segments(sizes, start_us)])
    return key


def build_peer(made: Stored) -> None:
    """The same rows in the peer's table."""

    async def work() -> None:
        async with store.opened(made.settings) as platform:
            for statements in (
                [f"CREATE TABLE {PLAIN} (LIKE sighting)"],
                [f"INSERT INTO {PLAIN} SELECT * FROM sighting"],
                [
                    f"ALTER TABLE {PLAIN} ADD PRIMARY KEY (id)",
                    f"CREATE INDEX ix_plain_camera_time ON {PLAIN} (camera_id, start_us)",
                    f"CREATE INDEX ix_plain_time ON {PLAIN} (start_us)",
                ],
            ):
                await _run(platform, statements)

    asyncio.run(work())


async def _run(platform: Platform, statements: list[str]) -> None:
    async with platform.database.write() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.execute(
            ";".join(["SET LOCAL statement_timeout = 0", *statements]), timeout=3_600
        )


async def _copy(platform: Platform, rows: Iterator[tuple[Any, ...]]) -> None:
    batch: list[tuple[Any, ...]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == COPIED:
            await _copy_batch(platform, batch)
            batch = []
    await _copy_batch(platform, batch)


async def _copy_batch(platform: Platform, batch: list[tuple[Any, ...]]) -> None:
    async with platform.database.write() as connection:
        driver: Any = await _driver(connection)
        await driver.copy_records_to_table("sighting", records=batch, columns=SIGHTING_COLUMNS)


async def _driver(connection: AsyncConnection) -> Any:
    return (await connection.get_raw_connection()).driver_connection


def _rows(sizes: Sizes, start_us: int) -> Iterator[tuple[Any, ...]]:
    """In order of time. Days have 16 busy hours, and two cameras in three are quiet ones."""
    chance = random.Random(3)
    shapes = []
    for made in drawn(sizes.shapes):
        row = sighting_row(made, POLICY, made.end_us, ended=True)
        shapes.append((made.end_us - FIRST_US, row))
    step = sizes.days * DAY_US / sizes.sightings
    for number in range(sizes.sightings):
        even_us = round(number * step)
        at_us = start_us + even_us // DAY_US * DAY_US + _by_day(even_us % DAY_US)
        length_us, shape = shapes[chance.randrange(len(shapes))]
        name = str(UUID(int=chance.getrandbits(128), version=4))
        camera = f"cam-{int(sizes.cameras * chance.random() ** 1.5):03}"
        row = dict(shape)
        row |= {
            "id": name,
            "camera_id": camera,
            "start_us": at_us,
            "end_us": at_us + length_us,
            "recording_date": _date(at_us + 1),
            "expires_at_us": at_us + 31 * DAY_US,
            "committed_at_us": at_us + length_us,
            "sent_at_us": at_us + length_us,
        }
        yield tuple(row[column] for column in SIGHTING_COLUMNS)


def _by_day(us: int) -> int:
    """Of an even clock's time of the day that of a street: one in ten by night."""
    night_us, day_us = 8 * HOUR_US, DAY_US // 10
    if us < day_us:
        return us * night_us // day_us
    return night_us + (us - day_us) * (DAY_US - night_us) // (DAY_US - day_us)


def _date(us: int) -> date:
    return date(1970, 1, 1) + timedelta(days=(us + ZONE_US - 1) // DAY_US)


def _segments(sizes: Sizes, start_us: int) -> str:
    """One after the other of each camera, most of it analysed."""
    length_us = SEGMENT_S * SECOND_US
    begin = f"({start_us} + n * {length_us}::bigint)"
    values = {
        "id": "'seg-' || camera || '-' || n",
        "camera_id": "'cam-' || lpad(camera::text, 3, '0')",
        "start_us": begin,
        "end_us": f"{begin} + {length_us}",
        "effective_start_us": begin,
        "effective_end_us": f"{begin} + {length_us}",
        "recording_date": (
            f"(timestamp '1970-01-01' + make_interval(secs =>"
            f" (({begin} + {length_us + ZONE_US - 1}) / 1000000)::float8))::date"
        ),
        "expires_at_us": f"{begin} + {31 * DAY_US}",
        "state": "'live'",
        "key": "'v1/' || camera || '/' || n",
        "committed_at_us": begin,
        "analysed_us": str(length_us // 3),
        "gated_us": str(length_us * 3 // 5),
        "dropped_us": str(length_us // 60),
    }
    columns, picked = [], []
    for column in tables.segment.columns:
        if column.name in values or (not column.nullable and column.server_default is None):
            columns.append(column.name)
            default = "'x'" if isinstance(column.type, sa.String) else "0"
            picked.append(values.get(column.name, default))
    count = sizes.days * DAY_US // length_us
    return (
        f"INSERT INTO segment ({', '.join(columns)}) SELECT {', '.join(picked)}"
        f" FROM generate_series(0, {count - 1}) AS n,"
        f" generate_series(0, {sizes.cameras - 1}) AS camera"
    )
