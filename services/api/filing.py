"""Under which recording dates a time can stand: what a query names so that PostgreSQL opens few
partitions.

A row stands under the date of its instant in the zone of the policy that was in force when it was
filed (docs/decisions/0009). Before the first policy the archive files by its settings, and late
footage by today's policy; so a time that begins well after the first policy can stand under the
dates of the policies' zones alone, and any other under those of every zone there is.
"""

from __future__ import annotations

from datetime import date
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from shared import civil
from shared.clock import DAY_US
from shared.db.partitions import days_within

SETTLED_US = DAY_US
"""After the first policy: who has not seen it yet, or has a wrong clock, files by it then."""


class Filing(NamedTuple):
    """The zones of all policies, and when the first was written."""

    zones: tuple[str, ...] = ()
    since_us: int = 0

    def dates(self, low_us: int, high_us: int) -> tuple[date, date]:
        """The first and the last date that instants of [low, high] can stand under."""
        if not self.zones or low_us < self.since_us + SETTLED_US:
            return days_within(low_us, high_us)
        zones = [civil.zone(name) for name in self.zones]
        first = min(civil.local_date(low_us, zone) for zone in zones)
        return first, max(civil.local_date(high_us, zone) for zone in zones)


ANY_ZONE = Filing()
"""Where nothing is known of the policies."""


def days_of(
    connection: AsyncConnection, low_us: int, high_us: int, filing: Filing = ANY_ZONE
) -> dict[str, Any]:
    """The parameters `first_day` and `last_day` of a query of these instants; none on SQLite."""
    if connection.dialect.name != "postgresql":
        return {}
    first, last = filing.dates(low_us, high_us)
    return {"first_day": first, "last_day": last}
