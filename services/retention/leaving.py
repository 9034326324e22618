"""Takes recording dates that are over out of the database, a partition at a time (PostgreSQL).

Each step is a transaction of its own that holds the locks of the day's cameras, so that no hold and
no late segment comes between its look and its commit, and each leaves a state from which the next
run goes on:

1. pictures, then sightings: swapped for what lies in ranges that stay;
2. fragment tables: swapped for those whose segment has a row;
3. once nothing is left of the day: its empty partitions go.

Gaps stay: the ledger accounts for every second of past days too (invariant 6), and they show
nothing. Where the table is busy the swap gives way within `SWAP_LOCK_MS` and the next run tries
again; after hours of that the rows are deleted one by one. Where there are no partitions (SQLite)
every row is deleted by its claim, and nothing here runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.retention import days, queries, queries_days
from services.retention.days import FEW, DayFacts, How, Range
from shared import civil, log
from shared.clock import DAY_US, SECOND_US
from shared.db import holds as stored_holds
from shared.db import partitions, tables
from shared.errors import LamppostError
from shared.platform import Platform
from shared.retention import Policy
from shared.settings import Settings

LEAVING = (tables.segment, tables.segment_fragments, tables.sighting, tables.thumbnail)
TRIES = 3
BUSY = frozenset({"55P03", "40P01", "40001", "23514", "42P01", "57014"})
"""Locked for too long, deadlock, another was first, no partition (any more), too slow: it is tried
again."""
_log = log.get("retention.leaving")


class _Grown(Exception):
    """A camera whose lock is not held has something of the day by now."""


class _Look(NamedTuple):
    """A day as it is."""

    cameras: frozenset[str]
    ranges: tuple[Range, ...]
    facts: DayFacts


class Leaving:
    """See the module. `may_delete` is asked before each step."""

    def __init__(
        self, platform: Platform, settings: Settings, may_delete: Callable[[], bool]
    ) -> None:
        self._platform = platform
        self._days_back = settings.postgres.days_back
        self._may_delete = may_delete
        self.few = FEW
        self._policy: Policy | None = None

    def follow(self, policy: Policy) -> None:
        """The policy that stands."""
        self._policy = policy

    def takes(self, day: date, now_us: int) -> bool:
        """Whether the rows of that date leave with their day, so that a claim leaves them."""
        return (
            self._policy is not None
            and self._platform.database.dialect == "postgresql"
            and now_us >= days.over_us(day, self._policy)
        )

    async def run(self) -> frozenset[date]:
        """One pass over the days that are over; those whose sightings wait for their swap."""
        if self._platform.database.dialect != "postgresql":
            return frozenset()
        waiting = set()
        async with self._platform.database.read() as connection:
            there = days.days_of(
                await partitions.existing(connection), [table.name for table in LEAVING]
            )
        for day in sorted(there):
            if not self.takes(day, self._platform.clock.now_us()):
                continue
            if not self._may_delete():
                break
            if not await self._leave(day):
                waiting.add(day)
        return frozenset(waiting)

    async def to_sweep(self, waiting: Collection[date]) -> list[str]:
        """Cameras that may have sightings without footage, but for those of some dates. Hundreds of
        thousands of sightings lie in footage that is held for months: they are not looked at one by
        one, but the time between what is still there, and under no lock. What comes meanwhile is
        seen by the next run."""
        now_us = self._platform.clock.now_us()
        async with self._platform.database.read() as connection:
            if self._platform.database.dialect != "postgresql":
                return await queries.sighting_cameras(connection, now_us, waiting)
            found: set[str] = set()
            spans = await queries_days.expired_spans(connection, now_us, waiting)
            for day, of_camera in sorted(spans.items()):
                there = await queries_days.standing(connection, day, now_us)
                free = days.between(of_camera, there)
                found |= await queries_days.any_within(connection, day, now_us, free)
        return sorted(found)

    async def _leave(self, day: date) -> bool:
        """Do what is due of a day; False: its sightings wait."""
        async with self._platform.database.read() as connection:
            look = await self._look(connection, day)
        decision = days.decide(look.facts, self._platform.clock.now_us(), self.few)
        done = True
        if decision.sightings is How.SWAP:
            done = await self._try(day, look, self._swap_sightings)
        if decision.fragments is How.SWAP:
            await self._try(day, look, self._swap_fragments)
        elif decision.fragments is How.ROWS:
            await self._try(day, look, self._delete_fragments)
        if decision.drop:
            await self._try(day, look, self._drop)
        return done

    async def _look(self, connection: AsyncConnection, day: date) -> _Look:
        assert self._policy is not None
        now_us = self._platform.clock.now_us()
        cameras = await queries_days.cameras(connection, day)
        ranges = await self._ranges(connection, day, now_us)
        today = datetime.fromtimestamp(now_us // SECOND_US, UTC).date()
        facts = DayFacts(
            over_us=days.over_us(day, self._policy),
            segments=await queries_days.some(connection, tables.segment, day),
            fragments_alone=await queries_days.fragments_alone(connection, day, self.few + 1),
            sightings=await queries_days.some(connection, tables.sighting, day),
            sightings_alone=await queries_days.sightings_alone(
                connection, day, now_us, ranges, self.few + 1
            ),
            kept_share=days.kept_share(ranges, len(cameras), day, self._policy),
            made_ahead=day >= today - timedelta(days=self._days_back + 1),
        )
        return _Look(frozenset(cameras), ranges, facts)

    async def _ranges(
        self, connection: AsyncConnection, day: date, now_us: int
    ) -> tuple[Range, ...]:
        assert self._policy is not None
        begin_us, end_us = civil.day_bounds_us(day, self._policy.zone)
        # A sighting stands under the date on which it begins, by the zone of its time.
        holds = await stored_holds.load(
            connection, start_us=begin_us - 2 * DAY_US, end_us=end_us + 2 * DAY_US
        )
        return days.ranges(
            await queries_days.standing(connection, day, now_us),
            await queries_days.unexpired(connection, day, now_us),
            holds,
            now_us,
        )

    # -- Steps

    async def _try(self, day: date, look: _Look, step: Callable[[date, _Look], Any]) -> bool:
        """A step, some times where others are in the way; False: not now."""
        for _ in range(TRIES):
            if not self._may_delete():
                return False
            try:
                await step(day, look)
            except _Grown:
                async with self._platform.database.read() as connection:
                    look = await self._look(connection, day)
            except LamppostError as error:
                if error.details.get("sqlstate") not in BUSY:
                    raise
                _log.info("a day waits to leave", day=day.isoformat(), cause=str(error))
            else:
                return True
        return False

    async def _swap_sightings(self, day: date, look: _Look) -> None:
        """Pictures first, so that none is ever without its sighting; each in its own transaction,
        so that nobody waits for both."""
        for table in (tables.thumbnail, tables.sighting):
            async with self._platform.database.write(look.cameras) as connection:
                if not await queries_days.lock(connection, day, table):
                    continue
                if not await queries_days.cameras(connection, day) <= look.cameras:
                    raise _Grown
                now_us = self._platform.clock.now_us()
                ranges = await self._ranges(connection, day, now_us)
                if table is tables.sighting:
                    if not await queries_days.sightings_alone(connection, day, now_us, ranges, 1):
                        continue  # another worker was here
                    keep = queries_days.sightings_in(day, ranges)
                else:
                    keep = queries_days.thumbnails_in(day, ranges)
                kept = await partitions.drop_day(connection, table, day, keep=keep)
            _log.info("a day left", table=table.name, day=day.isoformat(), kept=kept)

    async def _swap_fragments(self, day: date, look: _Look) -> None:
        table = tables.segment_fragments
        async with self._platform.database.write(look.cameras) as connection:
            if not await queries_days.lock(connection, day, table):
                return
            keep = queries_days.fragments_of_segments(day)
            kept = await partitions.drop_day(connection, table, day, keep=keep)
        _log.info("a day left", table=table.name, day=day.isoformat(), kept=kept)

    async def _delete_fragments(self, day: date, look: _Look) -> None:
        async with self._platform.database.write(look.cameras) as connection:
            await queries_days.delete_fragments_alone(connection, day)

    async def _drop(self, day: date, look: _Look) -> None:
        """Partitions without a segment or sighting; what came since the look is kept, and with it
        its partition."""
        kept = {
            tables.segment: sa.select(tables.segment),
            tables.segment_fragments: queries_days.fragments_of_segments(day),
            tables.sighting: sa.select(tables.sighting),
            tables.thumbnail: queries_days.thumbnails_of_sightings(day),
        }
        for table in LEAVING:
            async with self._platform.database.write(look.cameras) as connection:
                await partitions.drop_day(connection, table, day, keep=kept[table])
        _log.info("nothing is left of a day", day=day.isoformat())
