"""One SQLite file of the embedded bus: a durable one, and one for frames.

Several processes use the file at once (WAL). Each open store has a thread that writes and a thread
that reads, so that the event loop never waits for a disk and a reader never waits for a writer.
docs/architecture.md, "Ports, and what each runs on".
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

from shared.bus import damage
from shared.errors import Kind, LamppostError

BUSY_TIMEOUT_S = 10.0
SCHEMA = (
    """CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS record (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, part INTEGER NOT NULL,
        "offset" INTEGER NOT NULL, key TEXT NOT NULL, headers BLOB NOT NULL,
        at_us INTEGER NOT NULL, value BLOB NOT NULL)""",
    """CREATE UNIQUE INDEX IF NOT EXISTS record_place ON record (topic, part, "offset")""",
    """CREATE TABLE IF NOT EXISTS partition_end (
        topic TEXT NOT NULL, part INTEGER NOT NULL, next INTEGER NOT NULL,
        PRIMARY KEY (topic, part)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS committed (
        grp TEXT NOT NULL, topic TEXT NOT NULL, part INTEGER NOT NULL, next INTEGER NOT NULL,
        PRIMARY KEY (grp, topic, part)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS grp (
        grp TEXT PRIMARY KEY, generation INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS member (
        grp TEXT NOT NULL, member TEXT NOT NULL, session TEXT NOT NULL, topics TEXT NOT NULL,
        seen_us INTEGER NOT NULL, PRIMARY KEY (grp, member)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS owner (
        grp TEXT NOT NULL, topic TEXT NOT NULL, part INTEGER NOT NULL, member TEXT NOT NULL,
        PRIMARY KEY (grp, topic, part)) WITHOUT ROWID""",
)

T = TypeVar("T")
Synchronous = Literal["FULL", "OFF"]


class Store:
    """A file and its two threads. `write` and `read` run a function on the connection, in one
    transaction; errors of SQLite come out as LamppostError."""

    def __init__(self, path: Path, synchronous: Synchronous) -> None:
        self.path = path
        self._synchronous = synchronous
        self._writer = ThreadPoolExecutor(1, thread_name_prefix=f"{path.stem}-write")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix=f"{path.stem}-read")
        self._write_connection: sqlite3.Connection | None = None
        self._read_connection: sqlite3.Connection | None = None
        self._look_connection: sqlite3.Connection | None = None
        self._unsure = 0

    @classmethod
    async def open(cls, path: Path, synchronous: Synchronous) -> Store:
        store = cls(path, synchronous)
        try:
            await store._run(store._writer, store._connect_writer)
            await store._run(store._reader, store._connect_reader)
        except BaseException:
            await store.close()
            raise
        return store

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a write transaction: all of it is kept, or nothing."""
        return await self._run(
            self._writer, lambda: _in(self._write_connection, "BEGIN IMMEDIATE", work)
        )

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on a consistent snapshot."""
        return await self._run(self._reader, lambda: _in(self._read_connection, "BEGIN", work))

    async def version(self) -> int:
        """A number that changes when anybody, of any process, has written."""
        return await self._run(
            self._reader,
            lambda: int(_alive(self._read_connection).execute("PRAGMA data_version").fetchone()[0]),
        )

    def look(self) -> int:
        """The same at once, for whoever looks again and again, without two changes of threads. It
        reads shared memory and at most a page; a file that is locked counts as changed, and so
        does one whose trouble `read` will name."""
        try:
            row = _alive(self._look_connection).execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            self._unsure -= 1
            return self._unsure
        return int(row[0])

    async def close(self) -> None:
        """Close connections in their threads, then end the threads. May be called twice."""
        loop = asyncio.get_running_loop()
        for pool, work in ((self._reader, self._close_reader), (self._writer, self._close_writer)):
            try:
                await loop.run_in_executor(pool, work)
            except RuntimeError:
                continue  # The pool has ended already.
            pool.shutdown(wait=False)

    def _connect_writer(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = self._write_connection = self._connect()
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={self._synchronous}")
        connection.execute("PRAGMA journal_size_limit=16777216")
        _in(connection, "BEGIN IMMEDIATE", lambda c: [c.execute(line) for line in SCHEMA])

    def _connect_reader(self) -> None:
        connection = self._read_connection = self._connect()
        connection.execute("PRAGMA query_only=ON")
        self._look_connection = self._connect(timeout_s=0)

    def _connect(self, timeout_s: float = BUSY_TIMEOUT_S) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=timeout_s, isolation_level=None, check_same_thread=False
        )
        self.path.chmod(0o600)
        return connection

    def _close_writer(self) -> None:
        if self._write_connection is not None:
            self._write_connection.close()
            self._write_connection = None

    def _close_reader(self) -> None:
        if self._look_connection is not None:
            self._look_connection.close()
            self._look_connection = None
        if self._read_connection is not None:
            self._read_connection.close()
            self._read_connection = None

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except sqlite3.Error as error:
            found = translate(error)
            if found.kind is Kind.CORRUPT:
                damage.mark(self.path)
            raise found from error
        except OSError as error:
            raise LamppostError(Kind.UNAVAILABLE, f"The bus file is away: {error}.") from error
        except RuntimeError as error:
            raise LamppostError(Kind.CLOSED, "The bus is closed.") from error


def _alive(connection: sqlite3.Connection | None) -> sqlite3.Connection:
    if connection is None:
        raise LamppostError(Kind.CLOSED, "The bus is closed.")
    return connection


def _in(
    connection: sqlite3.Connection | None, begin: str, work: Callable[[sqlite3.Connection], T]
) -> T:
    connection = _alive(connection)
    connection.execute(begin)
    try:
        found = work(connection)
        connection.execute("COMMIT")
        return found
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def translate(error: sqlite3.Error) -> LamppostError:
    """SQLite's error as one of ours."""
    text = str(error)
    if "malformed" in text or "not a database" in text:
        return LamppostError(
            Kind.CORRUPT,
            f"The bus file is damaged: {text}.",
            fix="Start lamppost again: the file is moved aside and made anew. No footage is lost.",
        )
    if "full" in text:
        return LamppostError(Kind.FULL, "The disk of the bus is full.")
    if "locked" in text or "busy" in text:
        return LamppostError(Kind.UNAVAILABLE, "The bus is locked by another process.")
    # What a full disk looks like where SQLite cannot make the files beside its own.
    fix = "See that its disk has room and is sound." if "I/O" in text else ""
    return LamppostError(Kind.UNAVAILABLE, f"The bus failed: {text}.", fix=fix)
