"""A partition a recording date on PostgreSQL, for the tables that grow with the footage.

Partitions stand in a schema of their own, so that the schema of the tables is what the migrations
made. They are made before their day comes, and for late footage when it comes: beside the parent
and then attached, which no reader or writer notices. A day leaves by `drop_day`, in one
transaction: its partition is replaced by one that contains only what must stay, or by nothing.
There is no default partition: rows in it would have to be moved, under a lock that stops all,
before their day could get one of its own (docs/architecture.md, "Database").
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.clock import DAY_US, SECOND_US, Clock
from shared.db import Database, tables
from shared.settings import Postgres

SCHEMA = "lamppost_days"
SWAP_LOCK_MS = 300
"""Longest that `drop_day` waits for a lock: whoever comes meanwhile waits behind it."""
INDEX_S = 900.0
"""Longest that a partition's index may take."""
CHUNK = 8
_EPOCH = date(1970, 1, 1)
_STORED = {"thumbnail": " WITH (toast_tuple_target = 8160)"}
"""A picture stands in its row as long as that fits a page: aside, each is pieces and an index."""
_OF_DAY = "of_this_day"
_NAMES = re.compile(r"INDEX \S+ ON (?:ONLY )?\S+ ")
_LIKE = "INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING COMPRESSION"


def days_near(instants_us: Iterable[int]) -> set[date]:
    """The recording dates that instants can stand under, whatever the site's time zone."""
    found = set()
    for number in {us // DAY_US for us in instants_us}:
        day = _EPOCH + timedelta(days=number)
        found |= {day - timedelta(days=1), day, day + timedelta(days=1)}
    return found


def days_within(low_us: int, high_us: int) -> tuple[date, date]:
    """The first and the last recording date that instants from `low_us` to `high_us` can stand
    under. A query that names them looks into those partitions alone."""
    return _day(low_us // DAY_US - 1), _day(high_us // DAY_US + 1)


def _day(number: int) -> date:
    """The day of that number since 1970, or the nearest one that the calendar has."""
    return _EPOCH + timedelta(days=min(max(number, 0), (date.max - _EPOCH).days))


async def keep_around(database: Database, clock: Clock, options: Postgres) -> None:
    """Make the partitions of the days that are past, here and to come, as the settings say."""
    today = datetime.fromtimestamp(clock.now_us() // SECOND_US, UTC).date()
    span = range(-options.days_back, options.days_ahead + 1)
    await database.ensure_days([today + timedelta(days=number) for number in span])


def partition(table: str, day: date) -> str:
    """The qualified name of a partition."""
    return f"{SCHEMA}.{table}_{day:%Y%m%d}"


def leaf(table: sa.Table, day: date) -> sa.TableClause:
    """A day's partition as a table of its own: a query of it needs not name the date, so that an
    index without the date can answer it alone. Of use where the partition is locked."""
    bare = partition(table.name, day).partition(".")[2]
    return sa.table(bare, *map(_bare, table.columns), schema=SCHEMA)


async def existing(connection: AsyncConnection) -> set[str]:
    """The qualified names of all partitions."""
    query = sa.text(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = :schema AND c.relispartition AND c.relkind = 'r'"
    )
    found = await connection.execute(query, {"schema": SCHEMA})
    return {f"{SCHEMA}.{name}" for name in found.scalars()}


async def create(connection: AsyncConnection, days: Iterable[date]) -> int:
    """Make what is missing of the days' partitions; how many were. The caller sees to it that only
    one process at a time does."""
    there = await existing(connection)
    statements = [
        statement
        for day in sorted(days)
        for table in tables.DAILY
        if partition(table.name, day) not in there
        for statement in (_make(table.name, day), _attach(table.name, day))
    ]
    if statements:
        await script(connection, statements)
    return len(statements) // 2


async def drop_day(
    connection: AsyncConnection,
    table: sa.Table,
    day: date,
    *,
    keep: sa.Select[Any] | None = None,
) -> int:
    """Take a recording date's rows out of one table, but for those of `keep`; how many stay.

    `keep` selects whole rows of `table`, of this date. It runs in the caller's transaction, which
    holds the locks of the cameras that the date is about, so that no hold comes between. From here
    to the commit nobody reads or writes the table: do nothing else in between, and take several
    tables in the order of `tables.DAILY`. Where a lock is not had within `SWAP_LOCK_MS` it is
    UNAVAILABLE and nothing has changed: try the transaction again a little later.
    """
    old = partition(table.name, day)
    await script(connection, [f"SET LOCAL lock_timeout = {SWAP_LOCK_MS}"])
    if old not in await existing(connection):
        return 0
    new, kept = f"{old}_kept", 0
    if keep is not None:
        # Writers of this day wait from here on, so that what is copied is what there is.
        like = f"LIKE {table.name} {_LIKE}, CONSTRAINT {_OF_DAY} CHECK (recording_date = '{day}')"
        await script(connection, [
            f"LOCK TABLE {old} IN SHARE ROW EXCLUSIVE MODE",
            f"CREATE TABLE {new} ({like}){_STORED.get(table.name, '')}",
        ])  # fmt: skip
        target = sa.table(new.partition(".")[2], *map(_bare, table.columns), schema=SCHEMA)
        each = keep.subquery("stays")
        names = [column.name for column in table.columns]
        chosen = sa.select(*(each.c[name] for name in names)).where(each.c.recording_date == day)
        kept = (await connection.execute(sa.insert(target).from_select(names, chosen))).rowcount
    statements = [f"ALTER TABLE {table.name} DETACH PARTITION {old}", f"DROP TABLE {old}"]
    if kept:
        # Its indexes and the proof that it fits are made beforehand: readers would wait for both.
        await script(connection, await _indexes(connection, old, new))
        bare = old.partition(".")[2]
        statements += [
            f"ALTER TABLE {new} RENAME TO {bare}",
            _attach(table.name, day),
            f"ALTER TABLE {old} DROP CONSTRAINT {_OF_DAY}",
        ]
    elif keep is not None:
        statements.append(f"DROP TABLE {new}")
    await script(connection, statements)
    return kept


async def _indexes(connection: AsyncConnection, old: str, new: str) -> list[str]:
    """What makes a filled table's indexes as those of another: at once, from sorted entries, which
    takes a part of the time and of the log of an entry for each row as it comes."""
    query = sa.text(
        "SELECT pg_get_constraintdef(c.oid), pg_get_indexdef(i.indexrelid) FROM pg_index i"
        " LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.contype IN ('p', 'u')"
        " WHERE i.indrelid = CAST(:old AS regclass) ORDER BY i.indexrelid"
    )
    return [
        f"ALTER TABLE {new} ADD {constraint}"
        if constraint is not None
        else _NAMES.sub(f"INDEX ON {new} ", definition, count=1)
        for constraint, definition in await connection.execute(query, {"old": old})
    ]


async def index_next(connection: AsyncConnection) -> str | None:
    """Make an index that a migration gave a table alone, for the next partition without it; the
    partition, None where all have theirs. Who writes to that day waits for it, nobody else."""
    missing = sa.text(
        "SELECT t.oid::regclass::text, p.indexrelid::regclass::text,"
        " pg_get_indexdef(p.indexrelid), t.relname || '_' || x.relname"
        " FROM pg_index p JOIN pg_class x ON x.oid = p.indexrelid AND x.relkind = 'I'"
        " JOIN pg_inherits h ON h.inhparent = p.indrelid JOIN pg_class t ON t.oid = h.inhrelid"
        " JOIN pg_namespace n ON n.oid = t.relnamespace"
        " WHERE NOT p.indisvalid AND n.nspname = :schema AND NOT EXISTS ("
        " SELECT FROM pg_index i JOIN pg_inherits a ON a.inhrelid = i.indexrelid"
        " WHERE i.indrelid = t.oid AND a.inhparent = p.indexrelid)"
        " ORDER BY t.relname, x.relname LIMIT 1"
    )
    found = (await connection.execute(missing, {"schema": SCHEMA})).first()
    if found is None:
        return None
    table, parent, definition, name = found
    made = _NAMES.sub(f"INDEX {name} ON {table} ", definition, count=1)
    attached = f"ALTER INDEX {parent} ATTACH PARTITION {SCHEMA}.{name}"
    await script(connection, [made, attached], timeout_s=INDEX_S)
    return str(table)


def _bare(column: sa.Column[Any]) -> sa.ColumnClause[Any]:
    return sa.column(column.name, column.type)


def _make(table: str, day: date) -> str:
    return f"CREATE TABLE {partition(table, day)} (LIKE {table} {_LIKE}){_STORED.get(table, '')}"


def _attach(table: str, day: date) -> str:
    end = day + timedelta(days=1)
    return (
        f"ALTER TABLE {table} ATTACH PARTITION {partition(table, day)}"
        f" FOR VALUES FROM ('{day.isoformat()}') TO ('{end.isoformat()}')"
    )


async def script(
    connection: AsyncConnection, statements: Iterable[str], timeout_s: float | None = None
) -> None:
    """Run statements without parameters in one visit to the server. `timeout_s` is for what may
    take longer than the connection's statements may."""
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    await driver.execute(";\n".join(statements), timeout=timeout_s)
