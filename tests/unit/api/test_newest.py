"""The newest commit is asked of few days, and of all of them often enough."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import sqlalchemy as sa

from services.api.newest import ALL_US, EVER, FRESH_US, Newest
from shared.clock import DAY_US, SECOND_US, SimulatedClock
from shared.db import tables
from tests.support.retention_world import world

AT_US = round(datetime(2024, 4, 16, 12, tzinfo=UTC).timestamp() * SECOND_US)
FEW = {"first_day": date(2024, 4, 14)}


def test_few_days_are_asked_between_two_looks_at_all() -> None:
    clock = SimulatedClock(AT_US)
    newest = Newest(clock)
    assert newest.values("postgresql") == {"first_day": EVER}
    assert newest.told({"first_day": EVER}, AT_US) == AT_US
    assert newest.values("postgresql") == FEW
    assert newest.told(FEW, AT_US + 5) == AT_US + 5
    clock.set_us(clock.now_us() + ALL_US)
    assert newest.values("postgresql") == {"first_day": EVER}


def test_what_lies_in_no_near_day_counts_until_all_are_asked_again() -> None:
    clock = SimulatedClock(AT_US)
    newest = Newest(clock)
    newest.told({"first_day": EVER}, AT_US)
    assert newest.told(FEW, None) == AT_US, "a late recording of an old day"
    clock.set_us(clock.now_us() + ALL_US)
    # A person said that the clock had run ahead, and the rows were corrected.
    assert newest.told(newest.values("postgresql"), AT_US - DAY_US) == AT_US - DAY_US


def test_what_was_told_within_a_second_is_not_asked_on_postgresql() -> None:
    clock = SimulatedClock(AT_US)
    newest = Newest(clock)
    assert not newest.fresh("postgresql"), "nothing is known"
    newest.told({"first_day": EVER}, None)
    assert not newest.fresh("postgresql"), "there was none, and the first counts at once"
    newest.told({"first_day": EVER}, AT_US)
    assert newest.fresh("postgresql") and newest.known_us == AT_US
    assert not newest.fresh("sqlite")
    clock.set_us(clock.now_us() + FRESH_US)
    assert not newest.fresh("postgresql")


def test_before_the_first_commit_all_days_are_asked_each_time() -> None:
    newest = Newest(SimulatedClock(AT_US))
    assert newest.told({"first_day": EVER}, None) is None
    assert newest.values("postgresql") == {"first_day": EVER}


async def test_it_is_the_newest_row_on_either_database(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        newest = Newest(w.clock)
        async with w.database.read() as connection:
            assert await newest.read(connection) is None
        await w.file("cam-1", w.clock.now_us() - 300 * SECOND_US)
        await w.file("cam-1", w.clock.now_us() - 9 * DAY_US)  # committed last, of an older day
        async with w.database.read() as connection:
            query = sa.select(sa.func.max(tables.segment.c.committed_at_us))
            expected = await connection.scalar(query)
            for _ in range(2):
                assert await newest.read(connection) == expected
