"""Sign-in attempts are limited by name and by address, over all replicas of the api.

They stand in the database, so that who is sent to another replica, or waits for a restart, gains
nothing. Names and addresses are kept as hashes only: what is typed in place of a name is sometimes
a password. The table is bounded (docs/access-audit-evidence.md, "Signing in").
"""

from __future__ import annotations

import hashlib

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.clock import SECOND_US
from shared.db import dialects
from shared.db.coordination import sign_in_attempt as _table
from shared.errors import Kind, LamppostError
from shared.platform import Platform

MAX_BY_NAME = 10
MAX_BY_ADDRESS = 50
"""More, because an office may share one."""
WINDOW_US = 300 * SECOND_US
MAX_KEYS = 10_000
SWEEP_US = 10 * SECOND_US


class LoginLimiter:
    """So many failed attempts in five minutes for a name, and for an address.

    An attempt counts from its beginning, so that a thousand at once are limited too; one that
    succeeds is taken back.
    """

    def __init__(self, platform: Platform) -> None:
        self._database, self._clock = platform.database, platform.clock
        self._swept_us = -SWEEP_US

    async def begin(self, name: str, address: str) -> None:
        """Count an attempt; LIMITED when the name or the address has used its own up."""
        limits = ((_address(address), MAX_BY_ADDRESS), (_name(name), MAX_BY_NAME))
        now_us = self._clock.now_us()
        async with self._database.write() as connection:
            # Always in this order: two attempts at once wait for each other, and not for ever.
            found = [await _locked(connection, key, now_us) for key, _ in limits]
            for recent, (_, most) in zip(found, limits, strict=True):
                if len(recent) >= most:
                    raise _limited(recent[-most] + WINDOW_US - now_us)
            for recent, (key, _) in zip(found, limits, strict=True):
                await _put(connection, key, [*recent, now_us])
            await self._sweep(connection, now_us)

    async def succeeded(self, name: str, address: str) -> None:
        """Forget the name's attempts, and this one of the address."""
        now_us = self._clock.now_us()
        async with self._database.write() as connection:
            recent = await _locked(connection, _address(address), now_us)
            await _put(connection, _address(address), recent[:-1])
            await connection.execute(sa.delete(_table).where(_table.c.key == _name(name)))

    async def _sweep(self, connection: AsyncConnection, now_us: int) -> None:
        """Drop what is over, and the oldest where there are too many: bounded beats perfect."""
        if self._clock.monotonic_us() - self._swept_us < SWEEP_US:
            return
        self._swept_us = self._clock.monotonic_us()
        newest = sa.select(_table.c.at_us).order_by(_table.c.at_us.desc()).offset(MAX_KEYS).limit(1)
        before_us = await connection.scalar(newest)
        over_us = max(now_us - WINDOW_US, before_us or 0)
        await connection.execute(sa.delete(_table).where(_table.c.at_us <= over_us))


async def _locked(connection: AsyncConnection, key: str, now_us: int) -> list[int]:
    """The recent attempts of a key, in order, nobody else's to change until the end."""
    row = {"key": key, "at_us": now_us, "times": []}
    await connection.execute(
        dialects.insert(connection.dialect.name, _table).values(row).on_conflict_do_nothing()
    )
    query = sa.select(_table.c.times).where(_table.c.key == key).with_for_update()
    times = (await connection.execute(query)).scalar_one()
    # A clock that was far ahead must not lock anybody out for ever.
    return sorted(at for at in times if now_us - WINDOW_US < at <= now_us + WINDOW_US)


async def _put(connection: AsyncConnection, key: str, times: list[int]) -> None:
    values = {"times": times, "at_us": times[-1] if times else 0}
    await connection.execute(sa.update(_table).where(_table.c.key == key).values(values))


def _limited(wait_us: int) -> LamppostError:
    wait_s = max(1, wait_us // SECOND_US)
    return LamppostError(
        Kind.LIMITED,
        "Too many failed sign-ins.",
        fix=f"Wait {wait_s} seconds.",
        details={"retry_after_s": wait_s},
    )


def _name(name: str) -> str:
    return _hash(f"name:{name[:100]}")


def _address(address: str) -> str:
    return _hash(f"address:{address}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
