"""The database that tests run on: SQLite, or PostgreSQL where TEST_DATABASE=postgresql says so.

One place opens it for every helper of the tests, so that the same suites prove every query on both.
A path stands for a database: opened again, by the next life of a service, it is the same one.
Tests that are about SQLite itself ask for it by `only_sqlite`.
"""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import os
import shutil
import sqlite3
import tempfile
from contextlib import ExitStack, closing
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.clock import Clock, SimulatedClock
from shared.db import Database, tables
from shared.db.sqlite import SqliteDatabase
from shared.settings import load
from tests.support.servers.postgres import Postgres

POSTGRES = os.environ.get("TEST_DATABASE", "sqlite") == "postgresql"
only_sqlite = pytest.mark.skipif(POSTGRES, reason="this is about SQLite's file")
MOST = 6
"""Databases of past tests that stay on the server; each is some megabytes."""
_server: list[Postgres] = []
_names: dict[str, None] = {}
_schema: list[bytes] = []


def server() -> Postgres:
    """The process's own server, started when it is first asked for, ended with the process."""
    if not _server:
        exits = ExitStack()
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="lamppost-tests-")))
        _server.append(exits.enter_context(Postgres(folder, durable=False)))
        atexit.register(exits.close)
    return _server[0]


def name_of(path: Path) -> str:
    """The database on the server that a path stands for."""
    return "t" + hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:20]


def _ready(path: Path) -> str:
    """Its name, once it is there and migrated."""
    name = name_of(path)
    if name not in _names:
        old = list(_names)[: max(0, len(_names) - MOST + 1)]
        server().fresh(name, drop=old)
        for gone in old:
            del _names[gone]
        _names[name] = None
    return name


def opened(path: Path, clock: Clock, *, durable: bool = False) -> Database:
    """The path's database, which `migrated` made."""
    if not POSTGRES:
        return SqliteDatabase(path, clock=clock, durable=durable)
    from shared.db.postgres import PostgresDatabase

    class Simulated(PostgresDatabase):
        """Its clock is the test's, as SQLite's is; a server has the machine's."""

        clock_sql = None

        async def now_us(self, connection: AsyncConnection | None = None) -> int:
            await super().now_us(connection)
            return clock.now_us()

    found = load(server().environment(_ready(path)), {}).postgres
    options = found.model_copy(update={"days_back": 0, "pool_size": 4})
    return Simulated(options, clock=clock, password_file=server().password_file)


async def migrated(path: Path) -> None:
    """Put a migrated, empty database at the path if there is none; the migrations run once a test
    process."""
    if POSTGRES:
        await asyncio.to_thread(_ready, path)
    elif not await asyncio.to_thread(path.exists):
        await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        if not _schema:
            database = SqliteDatabase(path, clock=SimulatedClock(), durable=False)
            await database.migrate()
            await database.close()
            _schema.append(await asyncio.to_thread(_whole, path))
        await asyncio.to_thread(path.write_bytes, _schema[0])


def _whole(path: Path) -> bytes:
    """A database file with what still stands in its log."""
    with closing(sqlite3.connect(path)) as plain:
        return plain.serialize()


def copy(source: Path, target: Path) -> None:
    """A database as another one is now, which nobody has open."""
    if not POSTGRES:
        shutil.copyfile(source, target)
        return
    server().fresh(name_of(target), template=_ready(source))
    _names[name_of(target)] = None


def run_sql(path: Path, statement: str, *values: Any) -> int:
    """One statement with `?` for values, without a running loop; how many rows it met."""
    if not POSTGRES:
        with closing(sqlite3.connect(path)) as plain, plain:
            return plain.execute(statement, values).rowcount
    parts = statement.split("?")
    numbered = "".join(f"{part}${n}" for n, part in enumerate(parts[:-1], 1)) + parts[-1]

    async def run() -> int:
        database = opened(path, SimulatedClock(0))
        try:
            async with database.write() as connection:
                return (await connection.exec_driver_sql(numbered, values)).rowcount
        finally:
            await database.close()

    return asyncio.run(run())


async def make_room(database: Database, *rows: Any) -> None:
    """What the archive does before it inserts: rows of these values have their day's partition."""
    days = {row["recording_date"] for row in rows if isinstance(row.get("recording_date"), date)}
    await database.ensure_days(days)


async def insert(database: Database, table: sa.Table, *rows: dict[str, Any]) -> None:
    """Rows, in one transaction."""
    if table in tables.DAILY:
        await make_room(database, *rows)
    async with database.write() as connection:
        for row in rows:
            await connection.execute(sa.insert(table).values(**row))
