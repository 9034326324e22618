"""The embedded database: SQLite in WAL mode, one writer at a time, many readers.

A write is `BEGIN IMMEDIATE`: it excludes every other writer of every process, which is a stronger
lock than one per camera. Writers of this process queue on an asyncio lock first, in order of
arrival, so that the busy time-out only ever meets other processes.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import date
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from shared import timing
from shared.clock import Clock
from shared.db import driver
from shared.errors import Kind, LamppostError

BUSY_TIMEOUT_MS = 10_000
CHECKPOINT_PAGES = 4_000
"""Pages in the log (16 MiB) before a commit writes them back: each time costs two syncs and writes
all over the file, which a purge of a day did forty times with the usual thousand."""
POOL_SIZE = 8
READ, WRITE = "BEGIN", "BEGIN IMMEDIATE"


class SqliteDatabase:
    """Port `Database` on one file. `durable=False` skips every sync, for simulations only."""

    dialect = "sqlite"
    clock_sql: str | None = None

    def __init__(self, path: Path, *, clock: Clock, durable: bool = True) -> None:
        self.path = path
        self._clock = clock
        self._writer = asyncio.Lock()
        self._closed = False
        self._engine = create_async_engine(
            f"sqlite+aiosqlite:///{path}",
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_use_lifo=True,  # few connections work, with warm caches; the others wait
            pool_timeout=30,
            async_creator=driver.connector(path),
        )
        sa.event.listen(self._engine.sync_engine, "connect", _configure)
        if not durable:
            sa.event.listen(self._engine.sync_engine, "connect", _trust_memory)
        sa.event.listen(self._engine.sync_engine, "begin", _begin)

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return timing.transaction(self._transaction(immediate=False), "read")

    def write(self, cameras: Iterable[str] = ()) -> AbstractAsyncContextManager[AsyncConnection]:
        return timing.transaction(self._transaction(immediate=True), "write")

    @asynccontextmanager
    async def _transaction(self, *, immediate: bool) -> AsyncIterator[AsyncConnection]:
        if self._closed:
            raise LamppostError(Kind.CLOSED, "The database is closed.")
        if not self.path.parent.is_dir():
            # Said here, because a driver that fails to open leaves a thread behind for a moment.
            raise LamppostError(
                Kind.UNAVAILABLE,
                f"The folder of the database, {self.path.parent}, is not there.",
                fix="See that its disk is mounted.",
            )
        if immediate:
            async with self._writer, self._connection(WRITE) as connection:
                yield connection
        else:
            async with self._connection(READ) as connection:
                yield connection

    @asynccontextmanager
    async def _connection(self, begin: str) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.connect() as raw:
                connection = await raw.execution_options(lamppost_begin=begin)
                if begin == READ:
                    await connection.begin()
                    yield connection  # the end of the connection undoes what it did
                else:
                    async with connection.begin():
                        yield connection
        except DBAPIError as error:
            raise translate(error) from error
        except sa.exc.TimeoutError as error:
            raise LamppostError(
                Kind.UNAVAILABLE, "No database connection was free in time."
            ) from error

    async def now_us(self, connection: AsyncConnection | None = None) -> int:
        """An embedded database has the machine's clock."""
        if self._closed:
            raise LamppostError(Kind.CLOSED, "The database is closed.")
        return self._clock.now_us()

    async def ensure_days(self, days: Iterable[date]) -> None:
        """There are no partitions here."""

    async def migrate(self) -> str:
        from shared.db import migrate  # 8 MB that no service but the supervisor's needs

        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.touch(mode=0o600)  # SQLite gives what stands beside it the same mode
        async with self._writer, self._engine.connect() as connection:
            await connection.execution_options(lamppost_begin=WRITE)
            async with connection.begin():
                return await connection.run_sync(migrate.upgrade)

    async def close(self) -> None:
        self._closed = True
        await self._engine.dispose()


def _configure(connection: Any, _record: Any) -> None:
    # SQLAlchemy begins transactions itself (see _begin), so the driver must not.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "foreign_keys=ON",
        "journal_size_limit=67108864",
        f"wal_autocheckpoint={CHECKPOINT_PAGES}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _trust_memory(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous=OFF").close()


def _begin(connection: sa.Connection) -> None:
    begin = connection.get_execution_options().get("lamppost_begin", READ)
    opened = connection.connection.driver_connection
    if begin == READ and isinstance(opened, driver.Connection):
        opened.begin_read()
    else:
        connection.exec_driver_sql(begin)


def translate(error: DBAPIError) -> LamppostError:
    """The driver's error as one of ours; the message never holds bound values."""
    text = str(error.orig)
    if isinstance(error, IntegrityError):
        return LamppostError(Kind.CONFLICT, f"The database refused the row: {text}.")
    if "locked" in text or "busy" in text:
        return LamppostError(Kind.UNAVAILABLE, "The database is locked by another process.")
    if "full" in text:
        return LamppostError(Kind.FULL, "The disk of the database is full.")
    if "malformed" in text or "not a database" in text:
        return LamppostError(
            Kind.CORRUPT,
            f"The database file is damaged: {text}.",
            fix="Restore a backup: lamppost restore.",
        )
    if isinstance(error.orig, sqlite3.OperationalError) and "no such table" in text:
        return LamppostError(
            Kind.UNAVAILABLE, f"The database has no schema yet: {text}.", fix="Run the migration."
        )
    fix = "See that its disk has room and is sound." if "I/O" in text else ""
    return LamppostError(Kind.UNAVAILABLE, f"The database failed: {text}.", fix=fix)
