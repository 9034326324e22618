"""Pages of a search are all of its rows, newest first, whichever way they are read: camera by
camera, several cut to the page by the index, or in the order of time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from services.api import queries_coverage, queries_sightings
from services.api.filing import ANY_ZONE, Filing
from services.api.queries_sightings import Position, Slice
from services.api.sighting_filters import Filters
from shared import retention
from shared.clock import HOUR_US, SECOND_US
from shared.db import tables
from shared.db.partitions import days_near
from shared.platform import Platform
from tests.support import databases
from tests.support import sightings as made
from tests.support.archiving import START_US, late_clock, opened, settings_in

CAMERAS = ("cam-a", "cam-b", "cam-c")
SPAN = (START_US, START_US + HOUR_US)
KNOWN = Filing((made.POLICY.timezone,), START_US - 90 * 86_400 * SECOND_US)


async def filled(platform: Platform) -> list[tuple[int, str]]:
    """Sixty sightings at nine instants only, of three cameras and two classes; newest first."""
    draw = random.Random(7)
    instants = [START_US + 1 + draw.randrange(HOUR_US - 60 * SECOND_US) for _ in range(9)]
    some = [
        made.sighting(
            f"s{draw.randrange(10**9)}",
            draw.choice(CAMERAS),
            draw.choice(instants),
            class_name=draw.choice(("person", "car")),
        )
        for _ in range(60)
    ]
    await platform.database.ensure_days(days_near(SPAN))
    rows = [made.row(one, now_us=SPAN[1]) for one in some]
    await databases.insert(platform.database, tables.sighting, *rows)
    return sorted(((one.start_us, one.id) for one in some), reverse=True)


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
@pytest.mark.parametrize("filing", [ANY_ZONE, KNOWN])
@pytest.mark.parametrize(
    ("cameras", "every", "classes"),
    [
        (CAMERAS, True, ()),
        (CAMERAS, True, ("person",)),
        (CAMERAS, False, ()),
        (CAMERAS[:2], False, ("car",)),
        (CAMERAS[:1], False, ()),
    ],
)
async def test_pages_join_without_a_seam(
    tmp_path: Path,
    limit: int,
    filing: Filing,
    cameras: tuple[str, ...],
    every: bool,
    classes: tuple[str, ...],
) -> None:
    async with opened(settings_in(tmp_path), late_clock()) as platform:
        await filled(platform)
        wanted = Slice(cameras, SPAN, Filters(classes=classes), None, 0, every, filing)
        whole = wanted._replace(every=False)
        after, found = Position(SPAN[1]), []
        async with platform.database.read() as connection:
            ask = queries_sightings.candidates
            while rows := await ask(connection, wanted, SPAN[0], after, limit):
                found += [(row.start_us, row.id) for row in rows]
                after = Position(*found[-1])
                if len(rows) < limit:
                    break
            rows = await ask(connection, whole, SPAN[0], Position(SPAN[1]), 1_000)
            counted = await queries_sightings.counts(connection, wanted, *SPAN)
        assert found == sorted(found, reverse=True)
        assert found == [(row.start_us, row.id) for row in rows]
        assert len(found) > 10 and sum(counted.values()) == len(found)
        assert {row.camera_id for row in rows} == set(cameras)


async def test_coverage_of_every_camera_is_that_of_each(tmp_path: Path) -> None:
    """Also where it is read in the order of time, and where rows are still to come."""
    async with opened(settings_in(tmp_path), late_clock()) as platform:
        await platform.database.ensure_days(days_near((*SPAN, SPAN[1] + HOUR_US)))
        rows = []
        for number in range(120):
            begin_us = START_US + number * 90 * SECOND_US // 3
            rows.append(
                made_segment(f"g{number}", CAMERAS[number % 3], begin_us, begin_us + 60 * SECOND_US)
            )
        await databases.insert(platform.database, tables.segment, *rows)
        for now_us in (SPAN[1] + 30 * HOUR_US, SPAN[1] + 5 * SECOND_US):
            async with platform.database.read() as connection:
                asked = (CAMERAS, SPAN, now_us, None, KNOWN)
                each = await queries_coverage.covered(connection, *asked)
                every = await queries_coverage.covered(connection, *asked, every=True)
            assert every == each
            assert each.analysed_us > 0 and each.not_recorded_us > 0


def made_segment(name: str, camera_id: str, start_us: int, end_us: int) -> dict[str, object]:
    """A live row that is analysed in part."""
    values = {str: "x", int: 0, float: 0.0, bool: False, bytes: b"", dict: {}, list: []}
    row: dict[str, object] = {
        column.name: values.get(column.type.python_type)
        for column in tables.segment.columns
        if not column.nullable and column.server_default is None
    }
    span = {"start_us": start_us, "end_us": end_us}
    effective = {"effective_start_us": start_us, "effective_end_us": end_us}
    day = {"recording_date": retention.recording_date(end_us, made.POLICY.zone)}
    shares = {"analysed_us": 20 * SECOND_US, "gated_us": 10 * SECOND_US, "dropped_us": 0}
    names = {"id": name, "camera_id": camera_id, "key": name, "state": "live"}
    return {**row, **span, **effective, **day, **shares, **names, "expires_at_us": 1 << 60}
