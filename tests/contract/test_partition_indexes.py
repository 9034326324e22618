"""An index that a migration gives a table of partitions: made one partition at a time, taken up
where a process was killed, and whole before anything rests on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import date, timedelta

import pytest
import sqlalchemy as sa

from shared.db import migrate, partitions, revisions, tables
from shared.db.postgres import PostgresDatabase
from tests.contract.test_database_postgres import a_row, database_of
from tests.support.servers.postgres import Postgres

pytestmark = pytest.mark.servers
FIRST = date(2024, 4, 16)
DAYS = [FIRST + timedelta(days=number) for number in range(4)]
BEFORE = "2026_11_26_process"
NEW = ("ix_sighting_search_dense", "ix_sighting_start", "ix_segment_end")
OLD = "ix_sighting_search"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres"), durable=False) as found:
        yield found


@pytest.fixture
async def database(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PostgresDatabase]:
    """As the release before left it, with days that have rows."""
    await asyncio.to_thread(server.fresh, "before", migrated=False)
    found = database_of(server, "before", lock_timeout_s=5.0)
    with monkeypatch.context() as patched:
        patched.setattr(migrate, "behind", until(BEFORE))
        await found.migrate()
    await found.ensure_days(DAYS)
    async with found.write() as connection:
        for day in DAYS:
            row = {**a_row(tables.sighting, day.day), "recording_date": day}
            await connection.execute(sa.insert(tables.sighting).values(row))
    yield found
    await found.close()


def until(revision: str):  # type: ignore[no-untyped-def]
    """What is behind, for a release whose newest revision is this one."""

    def behind(connection: sa.Connection) -> str | None:
        there = revisions.current(connection)
        return None if there == revision else there or ""

    return behind


async def indexes(database: PostgresDatabase) -> dict[str, tuple[bool, int]]:
    """The tables' own indexes: whether each is whole, and how many partitions have theirs."""
    query = sa.text(
        "SELECT c.relname, i.indisvalid, (SELECT count(*) FROM pg_inherits h"
        " WHERE h.inhparent = c.oid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " WHERE i.indrelid IN ('sighting'::regclass, 'segment'::regclass)"
    )
    async with database.read() as connection:
        return {row[0]: (row[1], row[2]) for row in await connection.execute(query)}


async def days(database: PostgresDatabase) -> int:
    async with database.read() as connection:
        there = await partitions.existing(connection)
    return sum(name.startswith(f"{partitions.SCHEMA}.sighting_") for name in there)


async def test_it_is_whole_and_the_one_before_gone(database: PostgresDatabase) -> None:
    before = await indexes(database)
    assert OLD in before and not before.keys() & set(NEW)
    assert await database.migrate() == revisions.head()
    after = await indexes(database)
    assert OLD not in after
    assert {name: after[name] for name in NEW} == dict.fromkeys(NEW, (True, await days(database)))
    async with database.read() as connection:
        count = sa.select(sa.func.count()).select_from(tables.sighting)
        assert await connection.scalar(count) == len(DAYS)


async def test_a_migration_that_was_killed_goes_on_where_it_was(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    made: list[str] = []
    index_next = partitions.index_next

    async def dies(connection: object) -> str | None:
        if len(made) == 5:
            raise Killed
        found = await index_next(connection)  # type: ignore[arg-type]
        made.extend([found] if found else [])
        return found

    with monkeypatch.context() as patched:
        patched.setattr(partitions, "index_next", dies)
        with pytest.raises(Killed):
            await database.migrate()
    between = await indexes(database)
    assert sum(between[name][1] for name in NEW) == 5, "each is kept once it is made"
    assert OLD in between and not all(between[name][0] for name in NEW), "nothing rests on it yet"
    # What comes meanwhile, from code of either release, has its indexes.
    late = FIRST - timedelta(days=30)
    await database.ensure_days([late])
    assert await database.migrate() == revisions.head()
    after = await indexes(database)
    assert {name: after[name] for name in NEW} == dict.fromkeys(NEW, (True, await days(database)))
    assert OLD not in after


async def test_several_processes_migrate_it_at_once(
    server: Postgres, database: PostgresDatabase
) -> None:
    others = [database_of(server, "before", lock_timeout_s=20.0) for _ in range(3)]
    try:
        found = await asyncio.gather(*(one.migrate() for one in others))
    finally:
        for one in others:
            await one.close()
    assert set(found) == {revisions.head()}
    after = await indexes(database)
    assert {name: after[name] for name in NEW} == dict.fromkeys(NEW, (True, await days(database)))


async def test_the_servers_clock_is_the_same_in_a_query_of_other_things(
    database: PostgresDatabase,
) -> None:
    async with database.read() as connection:
        first = await database.now_us(connection)
        own = await connection.scalar(sa.text(f"SELECT {database.clock_sql}"))
        assert first <= own <= await database.now_us(connection)
