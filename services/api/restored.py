"""While the database is known to have forgotten purges, nothing that was recorded is shown.

A retention worker notices it by its journal and opens the breaker (services/retention/restored.py).
Until the tombstones are replayed the rows may name footage that has to be gone, people may have
rights again that they lost, and a released hold may stand again: so searches and stored footage are
refused on every replica, and what is recorded now stays visible live (docs/retention.md).
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from shared import standing
from shared.clock import SECOND_US
from shared.errors import Kind, LamppostError
from shared.platform import Platform

KNOWN_US = SECOND_US
"""So long an answer of the database holds, so that a search costs no visit more."""


class Restored:
    """Asks the database, at most once a second."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._asked_us = -KNOWN_US
        self._forgotten = False

    async def check(self) -> None:
        """DOUBT while the database has forgotten purges."""
        asked_us = self._platform.clock.monotonic_us()
        if asked_us - self._asked_us >= KNOWN_US:
            async with self._platform.database.read() as connection:
                self._forgotten = await standing.forgotten(connection)
            self._asked_us = asked_us
        if self._forgotten:
            raise _refusal()


async def check(connection: AsyncConnection) -> None:
    """The same by a connection that is open anyway, as it is now."""
    if await standing.forgotten(connection):
        raise _refusal()


def _refusal() -> LamppostError:
    return LamppostError(
        Kind.DOUBT,
        "The database was restored from a backup and has forgotten what was deleted since, so "
        "nothing recorded is shown.",
        fix="The operator replays the tombstones: `lamppost restore --tombstones FOLDER`.",
    )
