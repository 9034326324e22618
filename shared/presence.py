"""That a process with a database is there, since when, and which release it is: a row that it
renews, for the status of the whole installation.

Recorders and detect workers have no database and say the same on the bus. By the database's clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared import log
from shared.clock import SECOND_US
from shared.db import dialects
from shared.db.processes import process as _table
from shared.errors import LamppostError
from shared.platform import Platform
from shared.runtime import Stop, loop
from shared.version import version

EVERY_S = 20.0
SILENT_US = 90 * SECOND_US
"""A process that was not heard for so long is there no more, and anybody drops its row."""
MAX_DROPPED = 100
"""Rows of silent processes that one look drops."""
MAX_READ = 1_000
LEAVE_S = 2.0
"""Longest wait for the database at the end: silence says the same, a little later."""


class Process(NamedTuple):
    """What a process said last."""

    service: str
    name: str
    version: str
    started_us: int
    seen_us: int


class Presence:
    """One process's row. Used by one task."""

    def __init__(
        self, platform: Platform, service: str, name: str, *, release: str | None = None
    ) -> None:
        self._platform = platform
        self._key = {"service": service, "name": name}
        self._version = (version() if release is None else release)[:100]
        self._started_us: int | None = None
        """None: nothing was said yet."""

    async def run(self, stop: Stop) -> None:
        """Say it again and again until the stop."""
        clock = self._platform.clock
        await loop("presence", self.run_once, stop, clock, idle_s=EVERY_S, max_backoff_s=EVERY_S)

    async def run_once(self) -> bool:
        """Say it, and drop the rows of those who are silent."""
        now_us = await self._platform.database.now_us()
        started_us = now_us if self._started_us is None else self._started_us
        values = {
            "version": self._version,
            "started_at_us": started_us,
            "seen_at_us": now_us,
        }
        async with self._platform.database.write() as connection:
            await connection.execute(
                dialects.insert(connection.dialect.name, _table)
                .values(**self._key, **values)
                .on_conflict_do_update(index_elements=["service", "name"], set_=values)
            )
        self._started_us = started_us
        # In a transaction of its own, which waits for nobody's row while it has this one's.
        async with self._platform.database.read() as connection:
            silent = await _rows(connection, _is_silent(now_us), MAX_DROPPED)
        if silent:
            async with self._platform.database.write() as connection:
                for one in silent:
                    await connection.execute(sa.delete(_table).where(*_is(one)))
        return False

    async def leave(self) -> None:
        """It is there no more; a row of a successor of the same name stays."""
        if self._started_us is None:
            return
        c = _table.c
        async with self._platform.database.write() as connection:
            await connection.execute(
                sa.delete(_table).where(
                    c.service == self._key["service"],
                    c.name == self._key["name"],
                    c.started_at_us == self._started_us,
                )
            )


async def say(platform: Platform, service: str, name: str, stop: Stop) -> None:
    """Say that this process is there until the stop, then that it is there no more. A database that
    is away stops nothing, neither at the begin nor at the end."""
    me = Presence(platform, service, name)
    await me.run(stop)
    try:
        async with asyncio.timeout(LEAVE_S):
            await me.leave()
    except (LamppostError, TimeoutError) as error:
        log.get("presence").warning("left without saying so", cause=str(error))


@asynccontextmanager
async def told(platform: Platform, service: str, name: str) -> AsyncIterator[None]:
    """The same while this lasts."""
    stop = Stop()
    task = asyncio.create_task(say(platform, service, name, stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait({task}, timeout=2 * LEAVE_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def read(platform: Platform, connection: AsyncConnection) -> list[Process]:
    """Those that are there, in order of service and name."""
    now_us = await platform.database.now_us(connection)
    return await _rows(connection, sa.not_(_is_silent(now_us)), MAX_READ)


def _is_silent(now_us: int) -> sa.ColumnElement[bool]:
    """Also one from the future: a clock that was far ahead must not keep a row for ever."""
    seen_us = _table.c.seen_at_us
    return sa.or_(seen_us <= now_us - SILENT_US, seen_us > now_us + SILENT_US)


def _is(one: Process) -> tuple[sa.ColumnElement[bool], ...]:
    """That row, unless it has spoken since."""
    c = _table.c
    return c.service == one.service, c.name == one.name, c.seen_at_us == one.seen_us


async def _rows(
    connection: AsyncConnection, where: sa.ColumnElement[bool], most: int
) -> list[Process]:
    query = sa.select(_table).where(where).order_by(_table.c.service, _table.c.name).limit(most)
    return [Process(*row) for row in await connection.execute(query)]
