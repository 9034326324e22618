"""Port `Database` on a real PostgreSQL: the contract, and what only servers do to their clients."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import date, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from shared.clock import SystemClock
from shared.db import Database, partitions, tables
from shared.db.postgres import PostgresDatabase, lock_key, open_database
from shared.errors import Kind, LamppostError
from shared.settings import Settings, load
from tests.contract.test_database import COUNT, DatabaseContract, count, insert, insert_in
from tests.support.servers.pgbouncer import PgBouncer
from tests.support.servers.postgres import Postgres
from tests.support.servers.rtsp import make_certificates
from tests.support.wait import until

pytestmark = pytest.mark.servers
DAY = date(2024, 4, 16)
HOLDER = """
import asyncio, os, sys
from shared.clock import SystemClock
from shared.db.postgres import open_database
from shared.settings import load
from tests.contract.test_database import insert_in

async def main():
    database = open_database(load(os.environ, {}), SystemClock())
    async with database.write(["a"]) as connection:
        await insert_in(connection, 99)
        print("inside", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        raise SystemExit

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres"), durable=False) as found:
        found.fresh("warm")  # the template is made before any test's own time runs
        yield found


def settings_of(server: Postgres, name: str, **changes: object) -> Settings:
    found = load(server.environment(name), {})
    options = found.postgres.model_copy(update={"lock_timeout_s": 0.3, "days_back": 0, **changes})
    return found.model_copy(update={"postgres": options})


def database_of(server: Postgres, name: str = "contract", **changes: object) -> PostgresDatabase:
    found = open_database(settings_of(server, name, **changes), SystemClock())
    assert isinstance(found, PostgresDatabase)
    return found


class TestPostgres(DatabaseContract):
    @pytest.fixture
    async def database(self, server: Postgres) -> AsyncIterator[PostgresDatabase]:
        await asyncio.to_thread(server.fresh, "contract")
        found = database_of(server)
        self.server = server
        yield found
        await found.close()

    @asynccontextmanager
    async def other_process(self, database: Database) -> AsyncIterator[subprocess.Popen[str]]:
        process = await asyncio.to_thread(
            subprocess.Popen,
            [sys.executable, "-c", HOLDER],
            cwd=Path(__file__).parents[2],
            env=self.server.environment("contract"),
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
                await asyncio.to_thread(process.wait, 10)

    async def test_nothing_a_reader_does_is_kept(self, database: Database) -> None:
        """Here it may not even try."""
        with pytest.raises(LamppostError) as caught:
            async with database.read() as connection:
                await insert_in(connection, 1)
        assert not caught.value.retryable or caught.value.kind is Kind.UNAVAILABLE
        assert await count(database) == 0


@pytest.fixture
async def database(server: Postgres) -> AsyncIterator[PostgresDatabase]:
    await asyncio.to_thread(server.fresh, "plain")
    found = database_of(server, "plain")
    yield found
    await found.close()


async def refusal(database: Database, version: int = 1) -> LamppostError:
    with pytest.raises(LamppostError) as caught:
        await insert(database, version)
    return caught.value


# Locks


async def test_writers_of_different_cameras_run_side_by_side(database: PostgresDatabase) -> None:
    async with database.write(["a"]) as first:
        await insert_in(first, 1)
        async with database.write(["b"]) as second:
            await insert_in(second, 2)
    assert await count(database) == 2


async def test_a_writer_of_the_same_camera_waits_and_then_sees_all(
    database: PostgresDatabase,
) -> None:
    """READ COMMITTED: what it saw before it waited would be old."""
    entered = asyncio.Event()

    async def second() -> int:
        async with database.write(["b", "a"]) as connection:
            entered.set()
            return int(
                await connection.scalar(sa.select(sa.func.count()).select_from(tables.policy))
            )

    async with database.write(["a"]) as connection:
        task = asyncio.create_task(second())
        await until(lambda: _waits_for_lock(database), 5, "the second waits")
        await insert_in(connection, 1)
        assert not entered.is_set()
    assert await task == 1


async def _waits_for_lock(database: PostgresDatabase) -> bool:
    async with database.read() as connection:
        query = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        return bool(await connection.scalar(query))


async def test_a_lock_that_is_not_had_in_time_is_unavailable(database: PostgresDatabase) -> None:
    async with database.write(["a"]):
        error = await refusal(database)
    assert (error.kind, error.retryable) == (Kind.UNAVAILABLE, True)
    assert "locked" in error.message
    await insert(database, 1)


async def test_a_deadlock_of_rows_is_unavailable_for_one_of_two(server: Postgres) -> None:
    await asyncio.to_thread(server.fresh, "plain")
    database = database_of(server, "plain", lock_timeout_s=20)
    await insert(database, 1)
    await insert(database, 2)
    both = asyncio.Barrier(2)

    async def work(first: int, second: int) -> None:
        async with database.write() as connection:
            for number, version in enumerate((first, second)):
                await connection.execute(
                    sa.update(tables.policy)
                    .where(tables.policy.c.version == version)
                    .values(retention_days=first)
                )
                if number == 0:
                    await both.wait()

    found = await asyncio.gather(work(1, 2), work(2, 1), return_exceptions=True)
    await database.close()
    (error,) = [one for one in found if one is not None]
    assert isinstance(error, LamppostError)
    assert error.kind is Kind.UNAVAILABLE


def test_a_cameras_lock_is_the_same_in_every_process_and_version() -> None:
    assert lock_key("cam-1") == 3_910_952_518_373_418_389
    assert len({lock_key(f"cam-{n}") for n in range(1_000)}) == 1_000


# Through PgBouncer


@pytest.fixture(scope="module")
def bouncer(server: Postgres) -> Iterator[PgBouncer]:
    with PgBouncer(server) as found:
        yield found


async def test_behind_pgbouncer(server: Postgres, bouncer: PgBouncer) -> None:
    """More clients than connections, each transaction on another one."""
    await asyncio.to_thread(server.fresh, "bounced")
    found = load(bouncer.environment("bounced"), {})
    options = found.postgres.model_copy(update={"days_back": 0, "pool_size": 6})
    database = open_database(found.model_copy(update={"postgres": options}), SystemClock())
    await database.migrate()
    await database.ensure_days([DAY])

    async def work(number: int) -> None:
        async with database.write([f"cam-{number % 3}"]) as connection:
            await insert_in(connection, number)
            await connection.execute(sa.insert(tables.gap), [gap(f"{number}-{n}") for n in (1, 2)])
        await database.now_us()
        async with database.read() as connection:
            assert (await connection.execute(COUNT)).scalar_one() > 0
            query = sa.select(tables.policy.c.version).where(tables.policy.c.version == number)
            assert (await connection.execute(query)).scalar_one() == number

    await asyncio.gather(*(work(number) for number in range(1, 40)))
    assert await count(database) == 39
    async with database.read() as connection:  # limits hold for a transaction, not beyond
        assert await connection.scalar(sa.text("SELECT current_setting('lock_timeout')")) == "5s"
    await database.close()
    shown = await asyncio.to_thread(server.psql, "show lock_timeout", "bounced")
    assert shown == "0"


async def test_statements_prepared_by_name_where_nothing_stands_between(server: Postgres) -> None:
    await asyncio.to_thread(server.fresh, "named")
    database = database_of(server, "named", prepared_statements=True, pool_size=1)
    await insert(database, 1)
    assert [await count(database) for _ in range(3)] == [1, 1, 1]
    async with database.read() as connection:
        kept = await connection.scalar(sa.text("SELECT count(*) FROM pg_prepared_statements"))
    assert kept
    await asyncio.to_thread(server.end_connections, "named")
    assert await count(database) == 1
    await database.close()


# Servers that go and come


async def test_a_restart_costs_no_later_call(server: Postgres, database: PostgresDatabase) -> None:
    await asyncio.gather(*(count(database) for _ in range(8)))  # a full pool
    await asyncio.to_thread(server.restart)
    assert await count(database) == 0
    await insert(database, 1)


async def test_a_kill_costs_what_was_under_way_and_no_more(
    server: Postgres, database: PostgresDatabase
) -> None:
    await insert(database, 1)
    with pytest.raises(LamppostError) as caught:
        async with database.write(["a"]) as connection:
            await insert_in(connection, 2)
            await asyncio.to_thread(server.restart, kill=True)
            await insert_in(connection, 3)
    assert (caught.value.kind, caught.value.retryable) == (Kind.UNAVAILABLE, True)
    assert await count(database) in (0, 1)  # this server does not sync
    await insert(database, 4)


async def test_a_server_that_is_away_says_so_and_comes_back(
    server: Postgres, database: PostgresDatabase
) -> None:
    await asyncio.to_thread(server.stop)
    error = await refusal(database)
    assert (error.kind, error.retryable) == (Kind.UNAVAILABLE, True)
    assert "postgres.host" in error.fix
    await asyncio.to_thread(server.start)
    await insert(database, 1)


async def test_connections_that_an_administrator_ended_are_not_noticed(
    server: Postgres, database: PostgresDatabase
) -> None:
    await asyncio.gather(*(count(database) for _ in range(8)))
    assert await asyncio.to_thread(server.end_connections, "plain") > 0
    assert await asyncio.gather(*(count(database) for _ in range(8))) == [0] * 8


async def test_a_statement_that_takes_too_long_is_ended(server: Postgres) -> None:
    database = database_of(server, "warm", statement_timeout_s=0.2)
    with pytest.raises(LamppostError) as caught:
        async with database.read() as connection:
            await connection.execute(sa.text("SELECT pg_sleep(5)"))
    assert caught.value.kind is Kind.UNAVAILABLE
    assert "statement_timeout_s" in caught.value.message
    assert await count(database) == 0
    await database.close()


async def test_a_lost_clients_locks_go(database: PostgresDatabase) -> None:
    """No session is left in a transaction, and its limit is set."""
    async with database.write(["a"]) as connection:
        query = "SELECT current_setting('idle_in_transaction_session_timeout')"
        assert await connection.scalar(sa.text(query)) == "1min"


# Errors


async def test_a_wrong_password_is_named_and_not_told(server: Postgres, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2-wrong", "utf-8")
    database = database_of(server, "warm", password_file=secret)
    error = await refusal(database)
    assert error.kind is Kind.UNAVAILABLE
    assert "password" in error.message
    assert "postgres.password_file" in error.fix
    assert "hunter2" not in str(error)
    # Corrected, it works at once: the file is read at each connection.
    secret.write_text(server.password_file.read_text("utf-8"), "utf-8")
    assert await count(database) == 0
    await database.close()


async def test_tls_off_on_and_verified(server: Postgres, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    authority, other = make_certificates(tmp_path / "one"), make_certificates(tmp_path / "two")[0]

    def serve() -> None:
        server.use_certificate(*authority[1])

    await asyncio.to_thread(serve)
    used = sa.text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    for tls, ca_file, encrypted in (
        ("off", None, False),
        ("on", None, True),
        ("verify", authority[0], True),
    ):
        database = database_of(server, "warm", tls=tls, ca_file=ca_file)
        async with database.read() as connection:
            assert await connection.scalar(used) is encrypted
        await database.close()
    database = database_of(server, "warm", tls="verify", ca_file=other)
    error = await refusal(database)
    assert error.kind is Kind.UNAVAILABLE
    assert "postgres.ca_file" in error.fix
    await database.close()


async def test_a_missing_database_is_named(server: Postgres) -> None:
    database = database_of(server, "nowhere")
    error = await refusal(database)
    assert error.kind is Kind.UNAVAILABLE
    assert "CREATE DATABASE" in error.fix
    await database.close()


async def test_a_schema_that_is_not_there_says_so(server: Postgres) -> None:
    await asyncio.to_thread(server.fresh, "empty", migrated=False)
    database = database_of(server, "empty")
    with pytest.raises(LamppostError) as caught:
        await count(database)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert "migration" in caught.value.fix
    await database.close()


async def test_messages_hold_no_values(database: PostgresDatabase) -> None:
    async def refused(values: dict[str, object]) -> LamppostError:
        with pytest.raises(LamppostError) as caught:
            async with database.write() as connection:
                await connection.execute(sa.insert(tables.user).values(created_at_us=0, **values))
        return caught.value

    row = {"id": "u", "name": "secret-name", "roles": []}
    async with database.write() as connection:
        await connection.execute(sa.insert(tables.user).values(created_at_us=0, **row))
    for values, kind in (
        ({**row, "id": "v"}, Kind.CONFLICT),
        ({**row, "name": "secret-" * 100}, Kind.INVALID),
        ({**row, "name": "secret-\x00"}, Kind.INVALID),
        ({"id": "w", "name": None, "roles": ["secret"]}, Kind.CONFLICT),
    ):
        error = await refused(values)
        assert error.kind is kind, error
        assert "secret" not in str(error)
    with pytest.raises(LamppostError) as caught:
        async with database.write() as connection:
            await connection.execute(
                sa.insert(tables.policy).values(
                    version=1 << 40, retention_days=1, basis="x", timezone="x", effective_from_us=0
                )
            )
    assert caught.value.kind is Kind.INVALID


async def test_an_error_that_was_passed_over_is_no_commit(database: PostgresDatabase) -> None:
    with pytest.raises(LamppostError) as caught:
        async with database.write() as connection:
            await insert_in(connection, 1)
            with pytest.raises(sa.exc.IntegrityError):
                await insert_in(connection, 1)
    assert caught.value.kind is Kind.INTERNAL
    assert await count(database) == 0


# Migrations


async def test_many_processes_may_migrate_at_once(server: Postgres) -> None:
    await asyncio.to_thread(server.fresh, "race", migrated=False)
    found = [database_of(server, "race", lock_timeout_s=5.0) for _ in range(3)]
    assert len(set(await asyncio.gather(*(one.migrate() for one in found)))) == 1
    assert await count(found[0]) == 0
    for one in found:
        await one.close()


async def test_old_code_runs_on_a_newer_schema(database: PostgresDatabase) -> None:
    """What docs/architecture.md allows a migration to do: add a table, add a column with a
    default or without a need for a value, add an index."""
    async with database.write() as connection:
        for statement in (
            "ALTER TABLE policy ADD COLUMN reviewed_by VARCHAR(64)",
            "ALTER TABLE policy ADD COLUMN rank INTEGER NOT NULL DEFAULT 0",
            "CREATE TABLE later (id INTEGER PRIMARY KEY)",
            "CREATE INDEX ix_policy_basis ON policy (basis)",
            "UPDATE alembic_version SET version_num = '2099_01_01_later'",
        ):
            await connection.execute(sa.text(statement))
    assert await database.migrate() == "2099_01_01_later"
    await insert(database, 1)
    async with database.read() as connection:
        assert (await connection.execute(sa.select(tables.policy))).mappings().one()["version"] == 1


# Days


def gap(name: str, day: date = DAY) -> dict[str, object]:
    return {
        "id": name, "camera_id": "cam", "start_us": 0, "end_us": 1, "recording_date": day,
        "reason": "unreachable", "committed_at_us": 0,
    }  # fmt: skip


async def put(database: Database, *rows: dict[str, object]) -> None:
    async with database.write(["cam"]) as connection:
        await connection.execute(sa.insert(tables.gap), list(rows))


async def gaps(database: Database) -> list[str]:
    async with database.read() as connection:
        return sorted((await connection.execute(sa.select(tables.gap.c.id))).scalars())


async def test_a_row_without_its_days_partition_may_be_tried_again(
    database: PostgresDatabase,
) -> None:
    with pytest.raises(LamppostError) as caught:
        await put(database, gap("g"))
    assert (caught.value.kind, caught.value.retryable) == (Kind.UNAVAILABLE, True)
    await database.ensure_days([DAY])
    await put(database, gap("g"))
    assert await gaps(database) == ["g"]


async def test_migrating_makes_the_days_around_now(server: Postgres) -> None:
    await asyncio.to_thread(server.fresh, "ahead")
    database = database_of(server, "ahead", days_ahead=4, days_back=2)
    await database.migrate()
    async with database.read() as connection:
        there = await partitions.existing(connection)
    await database.close()
    assert len(there) == len(tables.DAILY) * 7


async def test_processes_may_make_the_same_days_at_once(server: Postgres) -> None:
    await asyncio.to_thread(server.fresh, "days")
    found = [database_of(server, "days", lock_timeout_s=5.0) for _ in range(3)]
    days = [DAY + timedelta(days=n) for n in range(3)]
    await asyncio.gather(*(one.ensure_days(days) for one in found))
    async with found[0].read() as connection:
        there = await partitions.existing(connection)
    assert {partitions.partition(t.name, day) for t in tables.DAILY for day in days} <= there
    for one in found:
        await one.close()


async def test_making_a_day_stops_neither_readers_nor_writers(database: PostgresDatabase) -> None:
    await database.ensure_days([DAY])
    async with database.write(["cam"]) as writer:
        await writer.execute(sa.insert(tables.gap), [gap("g")])
        async with database.read() as reader:
            await reader.execute(sa.select(tables.gap))
            await database.ensure_days([DAY + timedelta(days=1)])
    assert await gaps(database) == ["g"]


async def test_a_day_leaves_but_for_what_must_stay(database: PostgresDatabase) -> None:
    after = DAY + timedelta(days=1)
    await database.ensure_days([DAY, after])
    await put(database, gap("held"), gap("gone-1"), gap("gone-2"), gap("next", after))
    keep = sa.select(tables.gap).where(tables.gap.c.id.in_(["held", "next"]))
    async with database.write(["cam"]) as connection:
        assert await partitions.drop_day(connection, tables.gap, DAY, keep=keep) == 1
    assert await gaps(database) == ["held", "next"]
    await put(database, gap("late"))  # the partition is one as before
    async with database.write(["cam"]) as connection:
        assert await partitions.drop_day(connection, tables.gap, DAY) == 0
    assert await gaps(database) == ["next"]


async def test_what_a_swap_puts_in_place_is_a_partition_as_the_others(
    server: Postgres, database: PostgresDatabase
) -> None:
    """The same indexes and constraints, each that of the parent: none is missing, none twice."""
    after = DAY + timedelta(days=1)
    await database.ensure_days([DAY, after])

    def shape(table: str, day: date) -> list[str]:
        name = partitions.partition(table, day)
        return server.psql(
            "SELECT regexp_replace(pg_get_indexdef(i.indexrelid), 'INDEX .* USING', 'USING')"
            " || ' of ' || coalesce(p.inhparent::regclass::text, 'nobody')"
            " FROM pg_index i LEFT JOIN pg_inherits p ON p.inhrelid = i.indexrelid"
            f" WHERE i.indrelid = '{name}'::regclass UNION ALL SELECT pg_get_constraintdef(oid)"
            f" FROM pg_constraint WHERE conrelid = '{name}'::regclass ORDER BY 1",
            "plain",
        ).splitlines()

    for table in tables.DAILY:
        for number in (1, 2):  # the second time it is a copy that is copied
            async with database.write(["cam"]) as connection:
                await connection.execute(sa.insert(table).values(a_row(table, number)))
                await partitions.drop_day(connection, table, DAY, keep=sa.select(table))
        assert await asyncio.to_thread(shape, table.name, DAY) == await asyncio.to_thread(
            shape, table.name, after
        )


def a_row(table: sa.Table, number: int) -> dict[str, object]:
    """Any row of the day."""
    values = {str: str(number), int: number, float: 0.5, bool: True, bytes: b"x", date: DAY}
    return {column.name: values[column.type.python_type] for column in table.columns}


async def test_a_day_that_left_comes_back_for_whoever_still_has_something(
    server: Postgres, database: PostgresDatabase
) -> None:
    other = database_of(server, "plain")
    await database.ensure_days([DAY])
    await other.ensure_days([DAY])  # it will go on believing that the day is there
    async with database.write() as connection:
        await partitions.drop_day(connection, tables.gap, DAY, keep=sa.select(tables.gap))
    with pytest.raises(LamppostError) as caught:
        await put(other, gap("g"))
    assert caught.value.retryable
    await other.ensure_days([DAY])
    await put(other, gap("g"))
    await other.close()


async def test_a_swap_that_is_undone_changes_nothing(database: PostgresDatabase) -> None:
    await database.ensure_days([DAY])
    await put(database, gap("g"))
    with pytest.raises(RuntimeError):
        async with database.write() as connection:
            await partitions.drop_day(connection, tables.gap, DAY)
            raise RuntimeError
    assert await gaps(database) == ["g"]


async def test_a_swap_gives_way_to_a_long_reader(database: PostgresDatabase) -> None:
    await database.ensure_days([DAY])
    await put(database, gap("g"))
    async with database.read() as reader:
        await reader.execute(sa.select(tables.gap))
        with pytest.raises(LamppostError) as caught:
            async with database.write() as connection:
                await partitions.drop_day(connection, tables.gap, DAY)
        assert caught.value.kind is Kind.UNAVAILABLE
    async with database.write() as connection:
        await partitions.drop_day(connection, tables.gap, DAY)
    assert await gaps(database) == []


async def test_text_is_in_the_order_of_its_bytes_everywhere(database: Database) -> None:
    """Cursors count on it, and a comparison of two tables' texts needs one order."""
    query = sa.text(
        "SELECT c.relname || '.' || a.attname FROM pg_attribute a"
        " JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_collation o ON o.oid = a.attcollation"
        " WHERE n.nspname IN ('public', 'lamppost_days') AND c.relkind IN ('r', 'p')"
        " AND a.attnum > 0 AND o.collname <> 'C' AND c.relname <> 'alembic_version'"
    )
    async with database.read() as connection:
        assert list((await connection.execute(query)).scalars()) == []
