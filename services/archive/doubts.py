"""Whether the time may be wrong: then the archive calls nothing late and removes nothing
(docs/retention.md, edge case 14). The judgement itself is `shared.doubt`.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from services.archive import queries
from shared import doubt
from shared.clock import SECOND_US
from shared.platform import Platform
from shared.settings import Settings


class Doubts:
    """The clocks of this process, compared since its start."""

    def __init__(self, platform: Platform, settings: Settings) -> None:
        self._platform = platform
        self._limit_us = round(settings.retention.max_clock_error_s * SECOND_US)
        self._started = platform.clock.now_us(), platform.clock.monotonic_us()

    async def judge(self, connection: AsyncConnection) -> doubt.Doubt:
        clock = self._platform.clock
        readings = doubt.Readings(
            wall_us=clock.now_us(),
            monotonic_us=clock.monotonic_us(),
            started_wall_us=self._started[0],
            started_monotonic_us=self._started[1],
            database_us=await self._platform.database.now_us(connection),
            newest_commit_us=await queries.newest_commit_us(connection),
        )
        return doubt.judge(readings, self._limit_us)
