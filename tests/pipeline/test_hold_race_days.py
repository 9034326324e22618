"""How whole days leave: the decision, and the swap on PostgreSQL beside those who hold and file."""

from __future__ import annotations

import asyncio
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from services.retention import days
from services.retention.days import FEW, DayFacts, Decision, How
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import partitions, tables
from shared.domain import Hold, HoldKind, HoldReason
from shared.retention import Policy
from tests.support import databases, sightings
from tests.support.retention_races import Races, opened

POLICY = Policy(1, 30, "civil_date", "Asia/Hong_Kong")
DAY = date(2024, 4, 16)
OVER_US = days.over_us(DAY, POLICY)


def facts(**changes: Any) -> DayFacts:
    made = DayFacts(
        over_us=OVER_US,
        segments=True,
        fragments_alone=0,
        sightings=True,
        sightings_alone=0,
        kept_share=0.05,
        made_ahead=False,
    )
    return made._replace(**changes)


@pytest.mark.parametrize(
    ("found", "later_us", "expected"),
    [
        (facts(sightings_alone=FEW + 1), -1, Decision(How.NOT, How.NOT, False)),
        (facts(sightings_alone=FEW + 1), 0, Decision(How.NOT, How.SWAP, False)),
        (facts(sightings_alone=FEW), 0, Decision(How.NOT, How.ROWS, False)),
        (facts(fragments_alone=FEW + 1), 0, Decision(How.SWAP, How.NOT, False)),
        (facts(), 0, Decision(How.NOT, How.NOT, False)),
        # Much stays, or the swap was refused for hours: then row by row.
        (facts(sightings_alone=FEW + 1, kept_share=0.6), 0, Decision(How.NOT, How.ROWS, False)),
        (facts(sightings_alone=FEW + 1), 3 * HOUR_US, Decision(How.NOT, How.ROWS, False)),
        # Nothing is left, whatever lies about that belonged to something.
        (facts(segments=False, sightings=False), 0, Decision(How.NOT, How.NOT, True)),
        (
            facts(segments=False, sightings=False, fragments_alone=9),
            0,
            Decision(How.NOT, How.NOT, True),
        ),
        (
            facts(segments=False, sightings=False, made_ahead=True),
            0,
            Decision(How.NOT, How.NOT, False),
        ),
    ],
)
def test_what_is_done_about_a_day(found: DayFacts, later_us: int, expected: Decision) -> None:
    assert days.decide(found, OVER_US + later_us) == expected


def hold(start_us: int, end_us: int, **changes: Any) -> Hold:
    return Hold(
        id="h",
        camera_ids=("cam",),
        start_us=start_us,
        end_us=end_us,
        case_ref="C",
        reason=HoldReason.COURT_ORDER,
        requester_id="o",
        placed_at_us=0,
        **changes,
    )


def test_ranges_are_apart_and_know_the_one_before() -> None:
    found = days.ranges([("cam", 0, 10), ("cam", 10, 20), ("cam", 50, 60), ("b", 5, 5)], [], [], 0)
    assert [(one.camera_id, one.start_us, one.end_us) for one in found] == [
        ("b", 4, 6),
        ("cam", -1, 21),
        ("cam", 49, 61),
    ]
    assert [one.from_us for one in found] == [4 - days.LONGEST_US, -1 - days.LONGEST_US, 21]


def test_a_range_far_from_the_one_before_looks_back_no_longer_than_a_row_may_last() -> None:
    later_us = 3 * HOUR_US
    found = days.ranges([("cam", 0, 10), ("cam", later_us, later_us + 10)], [], [], 0)
    assert found[1].from_us == found[1].start_us - days.LONGEST_US > found[0].end_us


@pytest.mark.parametrize(
    ("changes", "keeps"),
    [
        ({}, True),
        ({"lapses_at_us": 100}, False),
        ({"lapses_at_us": 101}, True),
        ({"released_at_us": 100}, True),  # the 72 h after it, at some expiry
        ({"released_at_us": 100, "kind": HoldKind.SYSTEM}, False),
    ],
)
def test_a_hold_that_may_keep_something_has_a_range(changes: Any, keeps: bool) -> None:
    found = days.ranges([], [], [hold(0, 10, **changes)], 100)
    assert bool(found) is keeps


def test_too_many_ranges_become_few_that_contain_them() -> None:
    spans = [("cam", n * HOUR_US, n * HOUR_US + 1) for n in range(100)]
    found = days.ranges(spans, [], [], 0, most=10)
    assert len(found) <= 10
    assert found[0].start_us <= 0 and found[-1].end_us >= spans[-1][2]


def test_the_times_without_a_segment_are_those_between_them() -> None:
    spans = {"a": (0, 100), "b": (0, 100), "c": (0, 100)}
    there = [("a", -5, 10), ("a", 40, 50), ("a", 50, 60), ("b", 0, 100), ("d", 0, 100)]
    found = [(one.camera_id, one.start_us, one.end_us) for one in days.between(spans, there)]
    assert found == [("a", 10, 40), ("a", 60, 100), ("c", 0, 100)]


# On PostgreSQL


async def a_day(races: Races, count: int = 6) -> tuple[date, list[str], str]:
    """Some segments of the history's first camera with a sighting in each, about to expire, the
    first of which is held: date, ids in order of time, id of a sighting of a camera without any."""
    w = races.world
    midnight_us = w.clock.now_us() - w.clock.now_us() % DAY_US + 16 * HOUR_US + 40 * DAY_US
    w.clock.set_us(midnight_us - 300 * SECOND_US)
    found = []
    camera = "cam-0-a"
    rows = []
    for number in range(count):
        start_us = midnight_us - 30 * DAY_US - (count - number) * 40 * SECOND_US
        name = await w.file(camera, start_us, 40.0)
        assert name is not None
        found.append(name)
        made = sightings.sighting(name[:30], camera, start_us, 5.0)
        rows.append(sightings.row(made, now_us=w.clock.now_us(), expires_at_us=midnight_us))
    other = sightings.sighting("other", "cam-1-a", midnight_us - 30 * DAY_US - HOUR_US, 5.0)
    rows.append(sightings.row(other, now_us=w.clock.now_us(), expires_at_us=midnight_us))
    await databases.insert(w.database, tables.sighting, *rows)
    first_us = midnight_us - 30 * DAY_US - count * 40 * SECOND_US
    await w.hold(first_us + 5 * SECOND_US, first_us + 10 * SECOND_US, cameras=(camera,))
    w.clock.set_us(midnight_us)
    return rows[0]["recording_date"], found, "other"


async def left(races: Races) -> tuple[set[str], set[str], set[str]]:
    w = races.world
    return (
        {row["id"] for row in await w.rows()},
        {row["segment_id"] for row in await w.rows(tables.segment_fragments)},
        {row["id"] for row in await w.rows(tables.sighting)},
    )


@pytest.mark.servers
async def test_a_day_leaves_but_for_what_is_held(tmp_path: Path) -> None:
    async with opened(tmp_path) as races:
        day, every, _ = await a_day(races)
        worker = races.world.service()
        worker._leaving.few = 0
        assert (await worker.run_once()).stopped == ""
        kept = every[0]
        assert await left(races) == ({kept}, {kept}, {kept[:30]})
        # Once the hold has lapsed nothing is left, and the day's partitions go.
        races.world.clock.set_us(races.world.clock.now_us() + 80 * HOUR_US)
        for _ in range(2):
            assert (await worker.run_once()).stopped == ""
        async with races.world.database.read() as connection:
            there = await partitions.existing(connection)
        assert not {partitions.partition(table.name, day) for table in (
            tables.segment, tables.segment_fragments, tables.sighting, tables.thumbnail
        )} & there  # fmt: skip
        assert partitions.partition("gap", day) in there  # the ledger accounts for past days


@pytest.mark.servers
@pytest.mark.parametrize(
    ("camera", "from_s", "to_s", "swept"),
    [
        ("cam-0-a", 1, 5, False),  # within the held segment
        ("cam-0-a", -5, 1, False),  # begins before it
        ("cam-0-a", 39, 50, False),  # ends after it
        ("cam-0-a", -9, 100, False),  # around it
        ("cam-0-a", -9, -1, True),  # ends before it begins
        ("cam-0-a", 40, 45, True),  # begins where it ends
        ("cam-1-a", 1, 5, True),  # of a camera without any
    ],
)
async def test_what_is_swept_has_no_footage(
    tmp_path: Path, camera: str, from_s: int, to_s: int, swept: bool
) -> None:
    async with opened(tmp_path) as races:
        await a_day(races)
        w = races.world
        worker = w.service()
        worker._leaving.few = 0
        assert (await worker.run_once()).stopped == ""
        [held] = await w.rows()
        start_us = held["start_us"] + from_s * SECOND_US
        made = sightings.sighting("late", camera, start_us, to_s - from_s)
        now_us = w.clock.now_us()
        await databases.insert(
            w.database, tables.sighting, sightings.row(made, now_us=now_us, expires_at_us=now_us)
        )
        assert await worker._leaving.to_sweep(()) == ([camera] if swept else [])
        assert (await worker.run_once()).stopped == ""
        assert ("late" in (await left(races))[2]) is not swept


@pytest.mark.servers
async def test_a_swap_gives_way_to_a_reader_and_is_done_later(tmp_path: Path) -> None:
    async with opened(tmp_path) as races:
        _, every, _ = await a_day(races)
        worker = races.world.service()
        worker._leaving.few = 0
        async with races.world.database.read() as reader:
            await reader.execute(sa.select(tables.sighting.c.id))
            outcome = await worker.run_once()
            assert (outcome.stopped, outcome.purged) == ("", len(every) - 1)
        assert (await left(races))[2] > {every[0][:30]}, "rows wait for the swap"
        assert (await worker.run_once()).stopped == ""
        assert (await left(races))[2] == {every[0][:30]}


@pytest.mark.servers
async def test_after_hours_of_readers_the_rows_are_deleted(tmp_path: Path) -> None:
    async with opened(tmp_path) as races:
        _, every, _ = await a_day(races)
        races.world.clock.set_us(races.world.clock.now_us() + days.ROWS_AFTER_US)
        worker = races.world.service()
        worker._leaving.few = 0
        async with races.world.database.read() as reader:
            await reader.execute(sa.select(tables.sighting.c.id))
            assert (await worker.run_once()).stopped == ""
        assert await left(races) == ({every[0]}, {every[0]}, {every[0][:30]})


@pytest.mark.servers
async def test_a_late_segment_that_comes_while_its_day_leaves_is_filed(tmp_path: Path) -> None:
    async with opened(tmp_path) as races:
        _, every, _ = await a_day(races)
        w = races.world
        held = next(row for row in await w.rows() if row["id"] == every[0])
        worker = w.service()
        worker._leaving.few = 0
        runs = asyncio.gather(worker.run_once(), w.service("w2").run_once())
        late = [
            await w.file("cam-0-a", held["start_us"] + 6 * SECOND_US + n, 1.0, tries=9)
            for n in range(8)
        ]
        for outcome in await runs:
            assert outcome.stopped == "", outcome
        rows, fragments, _ = await left(races)
        assert set(late) | {every[0]} == rows == fragments
