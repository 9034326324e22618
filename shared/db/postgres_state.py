"""What a PostgreSQL server is, for `lamppost doctor`: it looks, and changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.clock import SECOND_US
from shared.db import Database, partitions, tables


class State(NamedTuple):
    """What was found."""

    version_num: int
    """As the server has it: 150004 is 15.4."""
    revision: str
    """Of the schema; empty where nothing was ever migrated."""
    now_us: int
    """The server's clock."""
    days_ahead: int
    """Whole days after today (UTC) that have all their partitions, without a hole; -1 where not
    even today has."""


async def look(database: Database) -> State:
    """Ask for everything; UNAVAILABLE where the server is not reached, or its other errors."""
    async with database.read() as connection:
        asked = "SELECT current_setting('server_version_num')::int"
        version = int((await connection.exec_driver_sql(asked)).scalar_one())
        revision = await _revision(connection)
        there = await partitions.existing(connection)
    now_us = await database.now_us()
    return State(version, revision, now_us, _ahead(there, now_us))


async def _revision(connection: AsyncConnection) -> str:
    there = await connection.exec_driver_sql("SELECT to_regclass('alembic_version') IS NOT NULL")
    if not there.scalar_one():
        return ""
    found = await connection.execute(sa.text("SELECT version_num FROM alembic_version"))
    return str(found.scalar_one_or_none() or "")


def _ahead(there: set[str], now_us: int) -> int:
    today = datetime.fromtimestamp(now_us // SECOND_US, UTC).date()
    for number in range(len(there) + 1):
        day = today + timedelta(days=number)
        if any(partitions.partition(table.name, day) not in there for table in tables.DAILY):
            return number - 1
    return len(there)
