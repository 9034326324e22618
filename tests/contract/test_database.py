"""Every promise of port `Database`, run on every adapter: an adapter's class says how to open it.

A later adapter subclasses `DatabaseContract` and overrides `open` and `other_process`.
"""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.clock import SimulatedClock
from shared.db import Database, coordination, migrate, processes, sqlite, tables
from shared.db.indexes import ONLY_ON
from shared.db.sqlite import SqliteDatabase
from shared.errors import Kind, LamppostError

METADATA = coordination.lease.metadata
assert processes.process.metadata is METADATA  # declared where it is used, and imported here
"""Of every table, whichever module declares it."""
COUNT = sa.select(sa.func.count()).select_from(tables.policy)


async def insert_in(connection: AsyncConnection, version: int) -> None:
    await connection.execute(
        sa.insert(tables.policy).values(
            version=version,
            retention_days=30,
            basis="civil_date",
            timezone="Asia/Hong_Kong",
            effective_from_us=0,
        )
    )


async def insert(database: Database, version: int) -> None:
    async with database.write(["b", "a"]) as connection:
        await insert_in(connection, version)


async def count(database: Database) -> int:
    async with database.read() as connection:
        return int((await connection.execute(COUNT)).scalar_one())


class DatabaseContract:
    """What every adapter does."""

    def other_process(
        self, database: Database
    ) -> AbstractAsyncContextManager[subprocess.Popen[str]]:
        """A process that is inside a write transaction, holding an uncommitted policy row 99."""
        raise NotImplementedError

    @pytest.fixture
    async def database(self, tmp_path: Path) -> AsyncIterator[Database]:
        raise NotImplementedError
        yield

    # Of an index that SQLite has not: it could not be compared there.
    @pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression")
    async def test_migrations_build_the_declared_schema(self, database: Database) -> None:
        def differences(connection: sa.Connection) -> list[object]:
            dialect = connection.dialect.name

            def of_this_one(item: Any, *_: object) -> bool:
                return getattr(item, "info", {}).get(ONLY_ON, dialect) == dialect

            context = MigrationContext.configure(connection, opts={"include_object": of_this_one})
            return list(compare_metadata(context, METADATA))

        async with database.read() as connection:
            assert await connection.run_sync(differences) == []

    async def test_migrating_again_changes_nothing(self, database: Database) -> None:
        await insert(database, 1)
        assert await database.migrate() == await database.migrate() == migrate.head()
        assert await count(database) == 1

    async def test_a_write_is_kept_and_an_error_undoes_it(self, database: Database) -> None:
        await insert(database, 1)
        with pytest.raises(RuntimeError):
            async with database.write() as connection:
                await connection.execute(sa.delete(tables.policy))
                raise RuntimeError("the caller fails")
        assert await count(database) == 1

    async def test_a_cancelled_write_is_undone_and_frees_the_lock(self, database: Database) -> None:
        inside, never = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            async with database.write() as connection:
                await insert_in(connection, 1)
                inside.set()
                await never.wait()

        task = asyncio.create_task(work())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await insert(database, 2)
        assert await count(database) == 1

    async def test_nothing_a_reader_does_is_kept(self, database: Database) -> None:
        async with database.read() as connection:
            await insert_in(connection, 1)
        assert await count(database) == 0

    async def test_a_reader_keeps_its_snapshot_while_a_writer_commits(
        self, database: Database
    ) -> None:
        async with database.read() as connection:
            assert (await connection.execute(COUNT)).scalar_one() == 0
            await insert(database, 1)
            assert (await connection.execute(COUNT)).scalar_one() == 0
        assert await count(database) == 1

    async def test_a_reader_does_not_see_what_is_not_committed(self, database: Database) -> None:
        async with database.write() as connection:
            await insert_in(connection, 1)
            assert await count(database) == 0
        assert await count(database) == 1

    async def test_a_doubled_row_is_a_conflict_and_undoes_the_whole(
        self, database: Database
    ) -> None:
        await insert(database, 1)
        with pytest.raises(LamppostError) as caught:
            async with database.write() as connection:
                await insert_in(connection, 2)
                await insert_in(connection, 1)
        assert (caught.value.kind, caught.value.retryable) == (Kind.CONFLICT, False)
        assert await count(database) == 1

    async def test_writers_of_one_camera_take_turns(self, database: Database) -> None:
        async def bump() -> None:
            async with database.write(["a"]) as connection:
                newest = (await connection.execute(COUNT)).scalar_one()
                await asyncio.sleep(0)
                await insert_in(connection, newest + 1)

        await asyncio.gather(*(bump() for _ in range(20)))
        assert await count(database) == 20

    async def test_another_process_in_a_write_keeps_ours_out(self, database: Database) -> None:
        async with self.other_process(database):
            assert await count(database) == 0  # readers pass
            with pytest.raises(LamppostError) as caught:
                await insert(database, 1)
            assert (caught.value.kind, caught.value.retryable) == (Kind.UNAVAILABLE, True)
        await insert(database, 1)
        assert await count(database) == 1

    async def test_a_kill_inside_a_transaction_leaves_nothing(self, database: Database) -> None:
        async with self.other_process(database) as other:
            os.kill(other.pid, signal.SIGKILL)
            other.wait(timeout=10)
        assert await count(database) == 0
        await insert(database, 99)
        assert await count(database) == 1

    async def test_more_readers_than_connections_take_turns(self, database: Database) -> None:
        assert await asyncio.gather(*(count(database) for _ in range(40))) == [0] * 40

    async def test_time_is_in_microseconds(self, database: Database) -> None:
        assert 1_600_000_000_000_000 < await database.now_us() < 4_000_000_000_000_000

    async def test_closed_is_closed(self, database: Database) -> None:
        await database.close()
        for use in (database.read, database.write):
            with pytest.raises(LamppostError) as caught:
                async with use():
                    pass
            assert caught.value.kind is Kind.CLOSED
        with pytest.raises(LamppostError):
            await database.now_us()
        await database.close()


HOLDER = """
import asyncio, sys
from pathlib import Path
from shared.clock import SystemClock
from shared.db.sqlite import SqliteDatabase
from tests.contract.test_database import insert_in

async def main():
    database = SqliteDatabase(Path(sys.argv[1]), clock=SystemClock())
    async with database.write(["a"]) as connection:
        await insert_in(connection, 99)
        print("inside", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        raise SystemExit

asyncio.run(main())
"""


class TestSqlite(DatabaseContract):
    @pytest.fixture
    async def database(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[SqliteDatabase]:
        monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 300)
        found = SqliteDatabase(tmp_path / "lamppost.db", clock=SimulatedClock())
        await found.migrate()
        yield found
        await found.close()

    @asynccontextmanager
    async def other_process(self, database: Database) -> AsyncIterator[subprocess.Popen[str]]:
        assert isinstance(database, SqliteDatabase)
        process = await asyncio.to_thread(
            subprocess.Popen,
            [sys.executable, "-c", HOLDER, str(database.path)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                assert process.stdout is not None
                assert await asyncio.to_thread(process.stdout.readline) == "inside\n"
                yield process
            finally:
                process.kill()
                process.wait(timeout=10)

    async def test_a_schema_that_is_not_there_says_so(self, tmp_path: Path) -> None:
        empty = SqliteDatabase(tmp_path / "empty.db", clock=SimulatedClock())
        with pytest.raises(LamppostError) as caught:
            await count(empty)
        assert caught.value.kind is Kind.UNAVAILABLE
        assert "migration" in str(caught.value)
        await empty.close()

    async def test_a_file_that_is_no_database_is_corrupt(self, tmp_path: Path) -> None:
        (tmp_path / "junk.db").write_bytes(b"junk" * 2_000)
        junk = SqliteDatabase(tmp_path / "junk.db", clock=SimulatedClock())
        with pytest.raises(LamppostError) as caught:
            await count(junk)
        assert caught.value.kind is Kind.CORRUPT
        await junk.close()

    async def test_a_missing_folder_is_unavailable(self, tmp_path: Path) -> None:
        away = SqliteDatabase(tmp_path / "none" / "lamppost.db", clock=SimulatedClock())
        with pytest.raises(LamppostError) as caught:
            await count(away)
        assert caught.value.kind is Kind.UNAVAILABLE
        await away.close()

    async def test_a_full_disk_is_full(self, database: SqliteDatabase) -> None:
        with pytest.raises(LamppostError) as caught:
            async with database.write() as connection:
                pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
                await connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
                for version in range(10_000):
                    await insert_in(connection, version)
        assert (caught.value.kind, caught.value.retryable) == (Kind.FULL, True)

    async def test_it_syncs_each_commit_and_logs_ahead(self, database: SqliteDatabase) -> None:
        async with database.read() as connection:
            mode = (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar_one()
            sync = (await connection.exec_driver_sql("PRAGMA synchronous")).scalar_one()
        assert (mode, sync) == ("wal", 2)
        with sqlite3.connect(database.path) as plain:
            assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        plain.close()
