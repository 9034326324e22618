"""A work that one process at a time may do, such as publishing a service's outbox: who holds the
lease does it, and loses it by saying nothing for `ttl_s`.

The database's clock judges; the holder counts from before it asked, so that it stops believing
sooner than another may begin. A holder that is stopped in the middle of a step and goes on after
its lease has passed to another may do that step twice: what is done under a lease has to bear that
(docs/invariants.md, 9).
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from shared import ids
from shared.clock import SECOND_US
from shared.db.coordination import lease as _table
from shared.platform import Platform

TTL_S = 15.0


class Lease:
    """One process's side of one lease. Used by one task."""

    def __init__(self, platform: Platform, name: str, *, ttl_s: float = TTL_S) -> None:
        self._platform = platform
        self._name = name
        self._me = ids.new_id()
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
            make = postgresql if connection.dialect.name == "postgresql" else sqlite
            insert = make.insert(_table).values(
                name=self._name, holder=self._me, until_us=now_us + self._ttl_us
            )
            free = sa.or_(
                _table.c.holder == self._me,
                _table.c.until_us <= now_us,
                # A clock that was far ahead must not keep it for ever.
                _table.c.until_us > now_us + 2 * self._ttl_us,
            )
            await connection.execute(
                insert.on_conflict_do_update(
                    index_elements=["name"],
                    set_={"holder": self._me, "until_us": now_us + self._ttl_us},
                    where=free,
                )
            )
            query = sa.select(_table.c.holder).where(_table.c.name == self._name)
            mine = await connection.scalar(query) == self._me
        if mine:
            self._until_us = asked_us + self._ttl_us
        return mine

    async def release(self) -> None:
        """Let it go at once, where it is held."""
        if not self._until_us:
            return
        self._until_us = 0
        async with self._platform.database.write() as connection:
            await connection.execute(
                sa.delete(_table).where(_table.c.name == self._name, _table.c.holder == self._me)
            )
