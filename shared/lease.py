"""A work that one process at a time may do, such as publishing a service's outbox: who holds the
lease does it, and loses it by saying nothing for `ttl_s`, or at once by its death where that can be
seen: another process of the same machine finds its number gone.

The database's clock judges; the holder counts from before it asked, so that it stops believing
sooner than another may begin. A holder that is stopped in the middle of a step and goes on after
its lease has passed to another may do that step twice: what is done under a lease has to bear that
(docs/invariants.md, 9).
"""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared import ids
from shared.clock import SECOND_US
from shared.db import dialects
from shared.db.coordination import lease as _table
from shared.platform import Platform

TTL_S = 15.0


@cache
def _machine() -> str:
    """What processes that can see each other's numbers have in common; empty: not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{socket.gethostname()[:64]} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process of this machine started, in ticks of the kernel; empty: there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def process_name() -> str:
    """This process, as no other was ever named."""
    machine = _machine()
    if not machine:
        return _unique()
    return f"{machine} {os.getpid()} {_started(os.getpid())}"


@cache
def _unique() -> str:
    return ids.new_id()


def is_gone(holder: str) -> bool:
    """Whether that process certainly lives no more; false where it cannot be seen from here."""
    machine, _, rest = holder.rpartition(" ")[0].rpartition(" ")
    started = holder.rpartition(" ")[2]
    if not machine or machine != _machine() or not rest.isdigit():
        return False
    return _started(int(rest)) != started


class Lease:
    """One process's side of one lease. Used by one task. `holder` is this process."""

    def __init__(
        self, platform: Platform, name: str, *, ttl_s: float = TTL_S, holder: str = ""
    ) -> None:
        self._platform = platform
        self._name = name
        self._me = holder or process_name()
        self._ttl_us = round(ttl_s * SECOND_US)
        self._until_us = 0
        """Up to when it is certainly this process's, on the monotonic clock; 0: it is not."""

    @property
    def is_held(self) -> bool:
        """Whether it is certainly this process's now. Asks nobody."""
        return self._platform.clock.monotonic_us() < self._until_us

    async def hold(self) -> bool:
        """Take or renew it; whether it is this process's. Asks the database only when a third of
        the time is over. Raises LamppostError when that cannot be asked: it is nobody's then."""
        asked_us = self._platform.clock.monotonic_us()
        if asked_us < self._until_us - 2 * self._ttl_us // 3:
            return True
        self._until_us = 0
        now_us = await self._platform.database.now_us()
        async with self._platform.database.write() as connection:
            holder = await self._take(connection, now_us, "")
            if holder != self._me and is_gone(holder):
                holder = await self._take(connection, now_us, holder)
        if holder == self._me:
            self._until_us = asked_us + self._ttl_us
        return holder == self._me

    async def _take(self, connection: AsyncConnection, now_us: int, dead: str) -> str:
        """Take it where it is free, this process's, or the dead one's; who has it now."""
        until_us = now_us + self._ttl_us
        free = sa.or_(
            _table.c.holder.in_([self._me, dead]),
            _table.c.until_us <= now_us,
            # A clock that was far ahead must not keep it for ever.
            _table.c.until_us > now_us + 2 * self._ttl_us,
        )
        await connection.execute(
            dialects.insert(connection.dialect.name, _table)
            .values(name=self._name, holder=self._me, until_us=until_us)
            .on_conflict_do_update(
                index_elements=["name"],
                set_={"holder": self._me, "until_us": until_us},
                where=free,
            )
        )
        query = sa.select(_table.c.holder).where(_table.c.name == self._name)
        return str(await connection.scalar(query))

    async def release(self) -> None:
        """Let it go at once, where it is held."""
        if not self._until_us:
            return
        self._until_us = 0
        async with self._platform.database.write() as connection:
            await connection.execute(
                sa.delete(_table).where(_table.c.name == self._name, _table.c.holder == self._me)
            )
