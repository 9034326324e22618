"""The embedded database keeps the port's promises."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from shared.clock import SimulatedClock
from shared.db import tables
from shared.db.sqlite import SqliteDatabase
from shared.errors import Kind, LamppostError


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    found = SqliteDatabase(tmp_path / "lamppost.db", clock=SimulatedClock())
    await found.migrate()
    yield found
    await found.close()


async def test_migrations_build_the_declared_schema(database: SqliteDatabase) -> None:
    def differences(connection: sa.Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), tables.metadata))

    async with database.read() as connection:
        assert await connection.run_sync(differences) == []


async def test_migrating_twice_changes_nothing(database: SqliteDatabase) -> None:
    assert await database.migrate() == await database.migrate()


async def _insert(database: SqliteDatabase, version: int) -> None:
    async with database.write(["a"]) as connection:
        await connection.execute(
            sa.insert(tables.policy).values(
                version=version,
                retention_days=30,
                basis="civil_date",
                timezone="Asia/Hong_Kong",
                effective_from_us=0,
            )
        )


async def _count(database: SqliteDatabase) -> int:
    async with database.read() as connection:
        return int(
            (
                await connection.execute(sa.select(sa.func.count()).select_from(tables.policy))
            ).scalar_one()
        )


async def test_a_write_is_kept_and_an_error_undoes_it(database: SqliteDatabase) -> None:
    await _insert(database, 1)
    with pytest.raises(RuntimeError):
        async with database.write() as connection:
            await connection.execute(sa.delete(tables.policy))
            raise RuntimeError("the caller fails")
    assert await _count(database) == 1


async def test_a_reader_keeps_its_snapshot_while_a_writer_commits(database: SqliteDatabase) -> None:
    async with database.read() as connection:
        query = sa.select(sa.func.count()).select_from(tables.policy)
        assert (await connection.execute(query)).scalar_one() == 0
        await _insert(database, 1)
        assert (await connection.execute(query)).scalar_one() == 0
    assert await _count(database) == 1


async def test_a_doubled_row_is_a_conflict(database: SqliteDatabase) -> None:
    await _insert(database, 1)
    with pytest.raises(LamppostError) as caught:
        await _insert(database, 1)
    assert caught.value.kind is Kind.CONFLICT


async def test_writers_take_turns(database: SqliteDatabase) -> None:
    await asyncio.gather(*(_insert(database, number) for number in range(20)))
    assert await _count(database) == 20


async def test_closed_is_closed(database: SqliteDatabase) -> None:
    await database.close()
    with pytest.raises(LamppostError) as caught:
        async with database.read():
            pass
    assert caught.value.kind is Kind.CLOSED
