"""When the newest segment was committed, which no clock may be before (docs/retention.md, "Doubt").

Every search and every playback asks. On PostgreSQL a question about all days opens each of their
partitions, and on a new connection that takes longer than the rest of a search. So it is asked of
the days near the newest commit that is known, and once a minute of all: a late recording of an
older day counts a minute later at most. What was asked within a second is not asked again there.
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.clock import SECOND_US, Clock
from shared.db import tables
from shared.db.partitions import days_within

ALL_US = 60 * SECOND_US
FRESH_US = 1 * SECOND_US
NEAR = timedelta(days=1)
"""Beyond the dates that the instant itself can stand under: a segment is filed after its time."""
EVER = date.min
_segment = tables.segment


@cache
def query(dialect: str) -> sa.Select[Any]:
    """Its commit, with the parameter `first_day` on PostgreSQL; on SQLite an index tells."""
    found = sa.select(sa.func.max(_segment.c.committed_at_us))
    if dialect != "postgresql":
        return found
    return found.where(_segment.c.recording_date >= sa.bindparam("first_day", type_=sa.Date))


class Newest:
    """What this process knows of it. Belongs to the event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._asked_us: int | None = None
        self._of_all_us: int | None = None
        self._first_day = EVER
        self._told_us: int | None = None
        self.known_us: int | None = None
        """The newest that is known."""

    async def read(self, connection: AsyncConnection) -> int | None:
        """When it was; None before the first."""
        dialect = connection.dialect.name
        values = self.values(dialect)
        return self.told(values, (await connection.execute(query(dialect), values)).scalar())

    def fresh(self, dialect: str) -> bool:
        """Whether what is known will do. On SQLite one look into an index always tells."""
        if dialect != "postgresql" or self._told_us is None:
            return False
        return self._clock.monotonic_us() - self._told_us < FRESH_US

    def values(self, dialect: str) -> dict[str, date]:
        """The parameters of `query`, now."""
        if dialect != "postgresql":
            return {}
        now_us = self._clock.monotonic_us()
        due = self._asked_us is None or now_us - self._asked_us >= ALL_US
        return {"first_day": EVER if due else self._first_day}

    def told(self, values: dict[str, date], found_us: int | None) -> int | None:
        """What `query` answered to these parameters; the newest that is known by it."""
        if values.get("first_day", EVER) == EVER:
            self._asked_us, self._of_all_us = self._clock.monotonic_us(), found_us
        known = [us for us in (found_us, self._of_all_us) if us is not None]
        self._told_us = self._clock.monotonic_us() if known else None
        self.known_us = max(known, default=None)
        if self.known_us is None:
            self._asked_us = None
            return None
        self._first_day = days_within(self.known_us, self.known_us)[0] - NEAR
        return self.known_us
