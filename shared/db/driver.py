"""The SQLite driver: aiosqlite, with one visit to the connection's thread for each statement.

Blocking SQLite calls run in a thread of their own, and each visit to it costs two hand-overs
between threads. aiosqlite makes four visits a statement (cursor, execute, fetch, close); a request
of the api that reads ten things would make fifty. Here a statement is executed and all its rows are
fetched in one visit: callers never stream rows, they bound what they ask for
(docs/architecture.md, "Database").
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiosqlite

CACHED_STATEMENTS = 256
"""Prepared statements kept by each connection."""
_CHUNK = 64


class _Done(NamedTuple):
    """What a statement left behind."""

    description: Any
    rowcount: int
    lastrowid: int
    rows: list[Any]


class Cursor:
    """As SQLAlchemy's adapter wants one. Everything but executing is done without a visit."""

    arraysize = 1

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._done = _Done(None, -1, 0, [])

    async def __aenter__(self) -> Cursor:
        return self

    @property
    def description(self) -> Any:
        return self._done.description

    @property
    def rowcount(self) -> int:
        return self._done.rowcount

    @property
    def lastrowid(self) -> int:
        return self._done.lastrowid

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> Cursor:
        self._done = await self._connection.visit(_execute, sql, parameters or ())
        return self

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> Cursor:
        self._done = await self._connection.visit(_execute_many, sql, parameters)
        return self

    async def fetchone(self) -> Any:
        return self._done.rows.pop(0) if self._done.rows else None

    async def fetchmany(self, size: int | None = None) -> Sequence[Any]:
        rows = self._done.rows
        taken = rows[: size or self.arraysize]
        del rows[: len(taken)]
        return taken

    async def fetchall(self) -> Sequence[Any]:
        return await self.fetchmany(len(self._done.rows))

    async def __aiter__(self) -> AsyncIterator[Any]:
        for row in await self.fetchall():
            yield row

    async def close(self) -> None:
        """The statement was closed in its visit."""


class Connection(aiosqlite.Connection):
    """A connection whose statements take one visit each.

    A read's transaction begins in the visit of its first statement, and nobody waits for its end:
    what comes next on this connection comes after it in the thread's queue.
    """

    _begins = False
    _reading = False

    def cursor(self) -> Cursor:  # type: ignore[override]
        return Cursor(self)

    def begin_read(self) -> None:
        """The next statement begins a transaction that will only read."""
        self._begins = self._reading = True

    async def visit(self, work: Any, sql: str, parameters: Any) -> Any:
        """Run `work` in the connection's thread."""
        begins, self._begins = self._begins, False
        execute: Any = self._execute  # untyped in aiosqlite
        return await execute(work, self._conn, sql, parameters, begins)

    async def commit(self) -> None:
        self._begins = self._reading = False
        await super().commit()

    async def rollback(self) -> None:
        reading, self._reading = self._reading, False
        if self._begins:
            self._begins = False
        elif reading:
            self._tx.put_nowait((None, self._conn.rollback))
        else:
            await super().rollback()


def connector(path: Path) -> Any:
    """What SQLAlchemy calls for a new connection."""

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, check_same_thread=False, cached_statements=CACHED_STATEMENTS)

    def create() -> Connection:
        connection = Connection(connect, _CHUNK)
        # A program that ends without closing must not wait for this thread.
        connection._thread.daemon = True
        return connection

    return create


def _execute(connection: sqlite3.Connection, sql: str, parameters: Any, begins: bool) -> _Done:
    cursor = connection.cursor()
    try:
        if begins:
            cursor.execute("BEGIN")
        cursor.execute(sql, parameters)
        return _done(cursor)
    finally:
        cursor.close()


def _execute_many(connection: sqlite3.Connection, sql: str, parameters: Any, begins: bool) -> _Done:
    cursor = connection.cursor()
    try:
        if begins:
            cursor.execute("BEGIN")
        cursor.executemany(sql, parameters)
        return _done(cursor)
    finally:
        cursor.close()


def _done(cursor: sqlite3.Cursor) -> _Done:
    rows = cursor.fetchall() if cursor.description else []
    return _Done(cursor.description, cursor.rowcount, cursor.lastrowid or 0, rows)
