"""Port `Database` on PostgreSQL 15 and newer, by asyncpg.

One transaction a block, and no state of a session: limits are set for the transaction, statements
are not prepared by name (unless told so), and what a lock excludes is a transaction's lock, so that
PgBouncer may stand between, in transaction mode. Writes are READ COMMITTED and take the cameras'
locks before their first look: any stronger level would go on with what it saw before it waited
(docs/retention.md, "Hold against purge: the race"). Beginning, limits and locks are one visit to
the server, and at the same time the test whether a pooled connection is alive.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from shared import log, timing
from shared.clock import Clock
from shared.db import Database, migrate, partitions
from shared.db import postgres_errors as errors
from shared.db.dialects import SERVER_CLOCK
from shared.errors import Kind, LamppostError
from shared.redaction import hide
from shared.settings import Postgres, Settings

CONNECT_S = 5.0
END_S = 5.0
"""Longest wait for a ROLLBACK; then the connection is cut, which undoes just as well."""
ANSWER_S = 10.0
"""So much longer than its own limit may a statement stay unanswered: then the network is down."""
IDLE_MS = 60_000
"""A transaction whose owner says nothing for so long is ended, so that a lost client's locks go."""
MIGRATE_S = 900
POOL_WAIT_S = 30
MAX_DAYS = 5_000
MIGRATION_LOCK, PARTITION_LOCK = 7_310_868_735, 7_310_868_736
_logger = log.get("db")


def open_database(settings: Settings, clock: Clock) -> Database:
    """The database of the settings; does not connect yet."""
    given = settings.postgres
    return PostgresDatabase(
        given,
        clock=clock,
        password_file=settings.path(given.password_file) if given.password_file else None,
        ca_file=settings.path(given.ca_file) if given.ca_file else None,
    )


def lock_key(camera_id: str) -> int:
    """The camera's advisory lock: 64 bits that every process and version computes alike."""
    digest = hashlib.sha256(b"lamppost.camera:" + camera_id.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


class PostgresDatabase:
    """See the module and the port."""

    dialect = "postgresql"
    clock_sql: str | None = SERVER_CLOCK

    def __init__(
        self,
        options: Postgres,
        *,
        clock: Clock,
        password_file: Path | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self.options = options
        self._clock = clock
        self._password_file, self._ca_file = password_file, ca_file
        self._days: set[date] = set()
        self._closed = False
        statement_ms = round(options.statement_timeout_s * 1000)
        self._limits = (
            f"SET LOCAL statement_timeout = {statement_ms};"
            f" SET LOCAL lock_timeout = {round(options.lock_timeout_s * 1000)};"
            f" SET LOCAL idle_in_transaction_session_timeout = {IDLE_MS};"
            " SET LOCAL jit = off"
        )
        named = options.prepared_statements
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            pool_size=options.pool_size,
            max_overflow=0,
            pool_use_lifo=True,  # few connections work, with warm caches; the others wait
            pool_timeout=POOL_WAIT_S,
            connect_args={
                "async_creator_fn": self._connect,
                "prepared_statement_cache_size": 256 if named else 0,
                "prepared_statement_name_func": _named if named else _unnamed,
            },
        )
        sa.event.listen(self._engine.sync_engine, "handle_error", _translate_silence)

    # -- The port

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        begin = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {self._limits}"
        return timing.transaction(self._transaction(begin, keeps=False), "read")

    def write(self, cameras: Iterable[str] = ()) -> AbstractAsyncContextManager[AsyncConnection]:
        begin = self._begin_write([lock_key(name) for name in sorted(cameras)])
        return timing.transaction(self._transaction(begin), "write")

    async def now_us(self, connection: AsyncConnection | None = None) -> int:
        if connection is not None:
            found = await connection.exec_driver_sql(f"SELECT {SERVER_CLOCK}")
            return int(found.scalar_one())
        async with self._transaction(f"BEGIN; {self._limits}", keeps=False) as own:
            return await self.now_us(own)

    async def ensure_days(self, days: Iterable[date]) -> None:
        missing = sorted(set(days) - self._days)
        for first in range(0, len(missing), partitions.CHUNK):
            some = missing[first : first + partitions.CHUNK]
            async with self._transaction(self._begin_write([PARTITION_LOCK])) as connection:
                await partitions.create(connection, some)
            if len(self._days) > MAX_DAYS:
                self._days.clear()
            self._days.update(some)

    async def migrate(self) -> str:
        """A revision at a time, and what it left to the partitions before the next: an index over
        a city's month takes minutes, in which nobody may wait for all of it."""
        begin = (
            f"BEGIN ISOLATION LEVEL READ COMMITTED; {self._limits};"
            f" SET LOCAL statement_timeout = {MIGRATE_S * 1000};"
            f" SET LOCAL idle_in_transaction_session_timeout = {MIGRATE_S * 1000};"
            f" SET LOCAL lock_timeout = {MIGRATE_S * 1000};"
            f" SELECT pg_advisory_xact_lock({MIGRATION_LOCK});"
            f" SET LOCAL lock_timeout = {round(self.options.lock_timeout_s * 1000)};"
            f" CREATE SCHEMA IF NOT EXISTS {partitions.SCHEMA}"
        )
        more = True
        while more:
            await self._index_partitions(begin)
            async with self._transaction(begin, answer_s=MIGRATE_S) as connection:
                revision, more = await connection.run_sync(migrate.step)
        await self._index_partitions(begin)
        await partitions.keep_around(self, self._clock, self.options)
        return revision

    async def _index_partitions(self, begin: str) -> None:
        """One at a time, each in a transaction of its own: a process that is killed here goes on
        where it was, and another that migrates waits for one of them at most."""
        done: str | None = ""
        while done is not None:
            async with self._transaction(begin, answer_s=MIGRATE_S) as connection:
                done = await partitions.index_next(connection)
            if done:
                _logger.info("a partition has its index", partition=done)

    async def close(self) -> None:
        self._closed = True
        await self._engine.dispose()

    # -- Transactions

    def _begin_write(self, keys: Iterable[int]) -> str:
        begin = f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {self._limits}"
        listed = ",".join(map(str, keys))
        if not listed:
            return begin
        # In the order of the list: a set has none, and two that wait for each other never end.
        return (
            f"{begin}; SELECT pg_advisory_xact_lock(k) FROM unnest('{{{listed}}}'::bigint[])"
            " WITH ORDINALITY AS t(k, n)"
        )

    @asynccontextmanager
    async def _transaction(
        self, begin: str, *, keeps: bool = True, answer_s: float | None = None
    ) -> AsyncIterator[AsyncConnection]:
        if self._closed:
            raise LamppostError(Kind.CLOSED, "The database is closed.")
        try:
            connection, driver = await self._begun(begin, answer_s)
            try:
                try:
                    yield connection
                except BaseException:
                    await _undo(driver)
                    raise
                if keeps:
                    await _commit(driver)
                else:
                    await _undo(driver)
            finally:
                await asyncio.shield(asyncio.ensure_future(connection.close()))
        except (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise self._translated(error) from error

    async def _begun(self, begin: str, answer_s: float | None) -> tuple[AsyncConnection, Any]:
        """A connection of the pool inside its transaction. What a restarted server left of the
        pool is thrown away on the way, so that no caller meets it."""
        for _ in range(self.options.pool_size):
            connection = await self._checked_out()
            try:
                return connection, await self._begin_on(connection, begin, answer_s)
            except BaseException as error:
                lost = isinstance(error, Exception) and errors.is_lost(error)
                if lost:
                    with suppress(Exception):
                        await connection.invalidate()
                await asyncio.shield(asyncio.ensure_future(connection.close()))
                if not isinstance(error, Exception):
                    raise
                # A silent server is silent on every connection; each would take its time to tell.
                if not lost or isinstance(errors.cause_of(error), TimeoutError):
                    raise self._translated(error) from error
        connection = await self._checked_out()
        try:
            return connection, await self._begin_on(connection, begin, answer_s)
        except BaseException as error:
            await asyncio.shield(asyncio.ensure_future(connection.close()))
            if isinstance(error, Exception):
                raise self._translated(error) from error
            raise

    async def _begin_on(
        self, connection: AsyncConnection, begin: str, answer_s: float | None
    ) -> Any:
        # SQLAlchemy begins nothing of its own; BEGIN and COMMIT are said here.
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        driver: Any = (await connection.get_raw_connection()).driver_connection
        try:
            await driver.execute(begin, timeout=answer_s)
        except BaseException:
            await _undo(driver)
            raise
        return driver

    async def _checked_out(self) -> AsyncConnection:
        try:
            return await self._engine.connect()
        except (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, sa.exc.TimeoutError,
                OSError, TimeoutError) as error:  # fmt: skip
            raise self._translated(error) from error

    async def _connect(self, *_: object, **__: object) -> Any:
        """A new connection. The password is read each time: one that is changed works at once."""
        options = self.options
        return await asyncpg.connect(
            host=options.host,
            port=options.port,
            user=options.user,
            password=self._password(),
            database=options.database,
            ssl=self._tls(),
            timeout=CONNECT_S,
            command_timeout=options.statement_timeout_s + ANSWER_S,
            statement_cache_size=0,
            server_settings={"application_name": "lamppost"},
        )

    def _password(self) -> str:
        if self._password_file is None:
            return ""  # None would send the driver to look through the user's own files
        try:
            return hide(self._password_file.read_text("utf-8").strip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            raise LamppostError(
                Kind.UNAVAILABLE,
                f"Cannot read the database's password: {type(error).__name__}.",
                fix="postgres.password_file names its file.",
            ) from error

    def _tls(self) -> ssl.SSLContext | bool:
        if self.options.tls == "off":
            return False
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
        except OSError as error:
            raise LamppostError(
                Kind.UNAVAILABLE,
                f"Cannot use the authority's certificate: {type(error).__name__}.",
                fix="postgres.ca_file names a PEM file.",
            ) from error
        if self.options.tls == "on":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _translated(self, error: BaseException) -> LamppostError:
        if isinstance(error, LamppostError):
            return error
        found = errors.translate(error)
        if found.details.get("sqlstate") == "23514" and found.kind is Kind.UNAVAILABLE:
            self._days.clear()  # another process took the day out; the next try makes it anew
        return found


def _unnamed() -> str:
    return ""


_numbers = itertools.count(1)


def _named() -> str:
    """A name that no other statement of this process has."""
    return f"lamppost_{next(_numbers)}"


def _translate_silence(context: sa.engine.ExceptionContext) -> None:
    """A statement that is not answered, or a broken connection, raises no error of the driver's.
    Said here, because a TimeoutError of the caller's own must pass through untouched."""
    error = context.original_exception
    if isinstance(error, OSError | TimeoutError):
        raise errors.translate(error) from error


async def _commit(driver: Any) -> None:
    try:
        tag = await driver.execute("COMMIT")
    except TimeoutError as error:
        driver.terminate()
        raise errors.translate(error) from error
    except BaseException:
        driver.terminate()
        raise
    if tag != "COMMIT":
        # PostgreSQL undoes a transaction in which a statement failed, whoever caught the error.
        raise LamppostError(
            Kind.INTERNAL, "The transaction was undone: an error inside it was passed over."
        )


async def _undo(driver: Any) -> None:
    """Roll back; a connection that does not answer is cut, which undoes as well."""
    if driver.is_closed():
        return
    try:
        async with asyncio.timeout(END_S):
            await driver.execute("ROLLBACK")
    except Exception:
        driver.terminate()
    except BaseException:
        driver.terminate()
        raise
