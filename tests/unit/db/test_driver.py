"""The SQLite driver: one visit to the connection's thread a statement, and nothing left open."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.clock import SimulatedClock
from shared.db import driver
from shared.db.sqlite import SqliteDatabase
from shared.errors import Kind, LamppostError

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) "


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    found = SqliteDatabase(tmp_path / "d.db", clock=SimulatedClock(0), durable=False)
    async with found.write() as connection:
        await connection.exec_driver_sql("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
    yield found
    await found.close()


async def driver_of(connection: AsyncConnection) -> driver.Connection:
    opened = (await connection.get_raw_connection()).driver_connection
    assert isinstance(opened, driver.Connection)
    return opened


async def quiet(opened: Any) -> Any:
    """The SQLite connection, once all that waits for its thread is done."""
    await opened._execute(lambda: None)
    return opened._conn


async def test_a_read_visits_the_thread_once_a_statement(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.read() as connection:
        await driver_of(connection)  # it is open now
    visits = 0
    right: Any = driver.Connection._execute

    async def counted(self: Any, *work: Any) -> Any:
        nonlocal visits
        visits += 1
        return await right(self, *work)

    monkeypatch.setattr(driver.Connection, "_execute", counted)
    async with database.read() as connection:
        for _ in range(3):
            rows = (await connection.exec_driver_sql(f"{NUMBERS} SELECT i FROM n")).all()
            assert [row[0] for row in rows] == list(range(1, 201))
    assert visits == 3


async def test_a_read_leaves_no_transaction_however_it_ends(database: SqliteDatabase) -> None:
    async with database.read() as connection:
        opened = await driver_of(connection)
        await connection.exec_driver_sql("SELECT * FROM t")
        assert (await quiet(opened)).in_transaction
    assert not (await quiet(opened)).in_transaction
    async with database.read():
        pass  # nothing was asked
    assert not (await quiet(opened)).in_transaction
    with pytest.raises(LamppostError) as caught:
        async with database.read() as connection:
            await connection.exec_driver_sql("SELECT * FROM not_there")
    assert caught.value.kind is Kind.UNAVAILABLE
    assert not (await quiet(opened)).in_transaction
    with pytest.raises(RuntimeError):
        async with database.read() as connection:
            await connection.exec_driver_sql("INSERT INTO t (b) VALUES ('x')")
            raise RuntimeError
    async with database.read() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM t")).scalar() == 0


async def test_a_read_that_is_cancelled_keeps_no_writer_out(database: SqliteDatabase) -> None:
    begun = asyncio.Event()

    async def slow() -> None:
        async with database.read() as connection:
            begun.set()
            await connection.exec_driver_sql(
                f"{NUMBERS} SELECT count(*) FROM n a, n b, n c WHERE a.i + b.i + c.i < 300"
            )

    task = asyncio.create_task(slow())
    await begun.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.write() as connection:
        await connection.exec_driver_sql("INSERT INTO t (b) VALUES ('x')")
    async with database.read() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM t")).scalar() == 1


async def test_keys_and_counts_of_changes_come_back(database: SqliteDatabase) -> None:
    table = sa.table("t", sa.column("a"), sa.column("b"))
    async with database.write() as connection:
        for number in (1, 2):
            done = await connection.exec_driver_sql("INSERT INTO t (b) VALUES ('x')")
            assert done.lastrowid == number
        await connection.execute(sa.insert(table), [{"a": n, "b": "y"} for n in range(3, 9)])
        changed = await connection.execute(sa.update(table).where(table.c.b == "y").values(b="z"))
        assert changed.rowcount == 6


async def test_a_cursor_gives_its_rows_once(database: SqliteDatabase) -> None:
    async with database.read() as connection:
        opened = await driver_of(connection)
        cursor = await opened.cursor().execute(f"{NUMBERS} SELECT i FROM n LIMIT ?", [5])
        assert await cursor.fetchone() == (1,)
        assert await cursor.fetchmany(2) == [(2,), (3,)]
        assert [row async for row in cursor] == [(4,), (5,)]
        assert (await cursor.fetchone(), await cursor.fetchall()) == (None, [])
