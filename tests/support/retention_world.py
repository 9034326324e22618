"""A small world for retention and holds: real SQLite, real file store, a simulated clock.

Segments are filed by the archive's own decision and commit, so that rows, ledger and tags are what
the product writes. `Faults` breaks off a chosen step, as a crash does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import date
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api import holds
from services.archive import filing
from services.archive.commit import Committer, Outcome, holds_of
from services.retention.policy import ensure_policy
from services.retention.service import RetentionService
from shared import civil, ids, outbox
from shared.audit import Actor
from shared.blobs import HELD, STANDARD
from shared.blobs.files import FileBlobs
from shared.clock import SECOND_US, SimulatedClock
from shared.db import Database, tables
from shared.db.rows import camera_row
from shared.domain import Camera, HoldReason, Segment, Source
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.settings import Settings
from shared.spool import Filed
from tests.support import databases, segments

DAY_S = 86_400
OFFICER = Actor("officer-1", "Officer One")
OTHER = Actor("officer-2", "Officer Two")


class Crash(BaseException):
    """The process dies here: nothing of ours catches it."""


class Faults:
    """Which step breaks off next: `before.delete`, `after.commit`, `before.journal`, ..."""

    def __init__(self) -> None:
        self.armed: dict[str, int] = {}
        self.dead = False
        """A process that died does no further step, whatever else was under way in it."""
        self.away: set[str] = set()

    def arm(self, step: str, after: int = 0) -> None:
        """Crash at the step, once, when it comes for the (after + 1)th time."""
        self.armed[step] = after

    def disarm(self) -> None:
        self.armed.clear()
        self.dead = False

    def at(self, step: str) -> None:
        if self.dead:
            raise Crash(step)
        left = self.armed.get(step)
        if left is None:
            return
        if left == 0:
            del self.armed[step]
            self.dead = True
            raise Crash(step)
        self.armed[step] = left - 1

    def reach(self, store: str) -> None:
        """Raise UNAVAILABLE while the store is away."""
        if store in self.away:
            raise LamppostError(Kind.UNAVAILABLE, f"The {store} is away.")


class FaultyDatabase:
    """A database that can be away, and whose commits can be the last thing that happens."""

    def __init__(self, inner: Database, faults: Faults) -> None:
        self._inner, self._faults = inner, faults
        self.skew_us = 0

    @property
    def dialect(self) -> str:
        return self._inner.dialect

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        self._faults.reach("database")
        return self._inner.read()

    @asynccontextmanager
    async def write(self, cameras: Iterable[str] = ()) -> AsyncIterator[AsyncConnection]:
        self._faults.reach("database")
        async with self._inner.write(cameras) as connection:
            yield connection
            self._faults.at("before.commit")
        self._faults.at("after.commit")

    async def now_us(self, connection: object = None) -> int:
        self._faults.reach("database")
        return await self._inner.now_us() + self.skew_us

    async def ensure_days(self, days: Iterable[date]) -> None:
        self._faults.reach("database")
        await self._inner.ensure_days(days)

    async def migrate(self) -> str:
        return await self._inner.migrate()

    async def close(self) -> None:
        await self._inner.close()


class FaultyBlobs(FileBlobs):
    """A file store that can be away or die around a deletion."""

    def __init__(self, root: Path, clock: SimulatedClock, faults: Faults) -> None:
        super().__init__(root, clock=clock, durable=False)
        self._faults = faults
        self.skew_us = 0

    async def delete(self, keys: Sequence[str]) -> None:
        self._faults.reach("store")
        self._faults.at("before.delete")
        if "within.delete" in self._faults.armed:
            await super().delete(keys[: len(keys) // 2])
        self._faults.at("within.delete")
        await super().delete(keys)
        self._faults.at("after.delete")

    async def set_tags(self, keys: Sequence[str], tags: Mapping[str, str]) -> list[str]:
        self._faults.reach("store")
        return await super().set_tags(keys, tags)

    async def time_us(self) -> int:
        self._faults.reach("store")
        return await super().time_us() + self.skew_us


class FaultyJournal:
    """The tombstones' journal, which can be the last thing written."""

    def __init__(self, inner: Any, faults: Faults) -> None:
        self._inner, self._faults = inner, faults

    def append(self, *tombstones: Any) -> None:
        self._faults.at("before.journal")
        self._inner.append(*tombstones)
        self._faults.at("after.journal")

    def read(self) -> Any:
        return self._inner.read()


class _NoBus:
    """Nothing here reads the bus; events wait in the outbox."""

    async def close(self) -> None:
        return None


def local(text: str, zone: str = "Asia/Hong_Kong") -> int:
    """UTC microseconds of a local time such as 2024-04-16T12:00."""
    return civil.parse_instant(text, civil.zone(zone))


class World:
    """The stores, the clock and what the tests do with them."""

    def __init__(
        self,
        tmp: Path,
        settings: Settings,
        start_us: int,
        opened: Callable[[SimulatedClock], Database] | None = None,
        blobs: type[FaultyBlobs] = FaultyBlobs,
    ) -> None:
        self.settings = settings
        self._path = tmp / "lamppost.db"
        self.clock = SimulatedClock(start_us)
        self.faults = Faults()
        self._is_there = opened is not None
        inner = opened(self.clock) if opened else databases.opened(self._path, self.clock)
        self.database = FaultyDatabase(inner, self.faults)
        self.blobs = blobs(tmp / "blobs", self.clock, self.faults)
        self.platform = Platform(
            clock=self.clock,
            bus=_NoBus(),  # type: ignore[arg-type]
            blobs=self.blobs,
            database=self.database,  # type: ignore[arg-type]
            internal_key="x" * 32,
        )
        self._committer = Committer(self.platform, settings, outbox.Relay(self.platform, "archive"))

    async def start(self, cameras: Sequence[str] = ("cam-1", "cam-2")) -> None:
        if not self._is_there:
            await databases.migrated(self._path)
        await ensure_policy(self.platform, self.settings)
        async with self.database.write() as connection:
            for camera_id in cameras:
                camera = Camera(id=camera_id, name=camera_id, source=Source("rtsp://h/x"))
                await connection.execute(
                    sa.insert(tables.camera).values(camera_row(camera, self.clock.now_us()))
                )
            for actor in (OFFICER, OTHER):
                await connection.execute(
                    sa.insert(tables.user).values(
                        id=actor.id, name=actor.id, roles=[], created_at_us=0
                    )
                )

    async def close(self) -> None:
        await self.platform.close()

    def service(self, worker: str = "w1", lanes: int = 1) -> RetentionService:
        """A fresh worker, as after a restart; with one lane its steps have one order."""
        self.faults.dead = False
        found = RetentionService(self.platform, self.settings, worker=worker, lanes=lanes)
        found._executor._journal = FaultyJournal(  # type: ignore[assignment]
            found._executor._journal, self.faults
        )
        return found

    def to(self, when: str | int) -> None:
        """Move on to a local time of the site, or to an instant."""
        us = when if isinstance(when, int) else local(when, self.settings.site.timezone)
        self.clock.set_us(us)

    def segment(
        self,
        camera_id: str,
        start: str | int,
        seconds: float = 60.0,
        uncertainty_us: int = 0,
    ) -> tuple[Segment, bytes]:
        """A finished recording and its bytes."""
        start_us = start if isinstance(start, int) else local(start, self.settings.site.timezone)
        segment_id = ids.new_id()
        data = segment_id.encode() * 4
        end_us = start_us + round(seconds * SECOND_US)
        made = segments.make(
            camera_id, start_us, end_us, data, id=segment_id, clock_uncertainty_us=uncertainty_us
        )
        return made, data

    async def file(
        self,
        camera_id: str,
        start: str | int,
        seconds: float = 60.0,
        uncertainty_us: int = 0,
        tries: int = 1,
    ) -> str | None:
        """File a recording as the archive does; its id, or None when it is refused as late. What
        may be tried again is, so often."""
        segment, data = self.segment(camera_id, start, seconds, uncertainty_us)
        async with self.database.read() as connection:
            policy = await self._committer.policy(connection)
            found = await holds_of(connection, [segment])
        decided = filing.decide(
            segment, policy, found, self.clock.now_us(), self.settings.archive.late_max_days
        )
        if isinstance(decided, filing.Refused):
            return None
        await self.blobs.put(
            decided.key,
            data,
            sha256=segment.sha256,
            size_bytes=segment.size_bytes,
            tags=HELD if decided.held else STANDARD,
        )
        item = Filed(segment.id, Path(), None, Path())
        outcome = Outcome(
            item, accepted=decided, tagged_held=decided.held, stored_at_us=self.clock.now_us()
        )
        for left in reversed(range(tries)):
            try:
                await self._committer.commit([outcome])
                break
            except LamppostError as error:
                if not (error.retryable and left):
                    raise
        return segment.id

    async def hold(
        self,
        start: str | int,
        end: str | int,
        cameras: tuple[str, ...] = ("cam-1",),
        actor: Actor = OFFICER,
        **more: Any,
    ) -> holds.HoldReport:
        """Place a hold, by the api's own function."""
        zone = self.settings.site.timezone
        request = holds.HoldRequest(
            camera_ids=cameras,
            start_us=start if isinstance(start, int) else local(start, zone),
            end_us=end if isinstance(end, int) else local(end, zone),
            case_ref="CASE-1",
            reason=HoldReason.CRIMINAL_INVESTIGATION,
            **more,
        )
        return await holds.place(self.platform, self.settings, actor, request)

    async def keep(self, hold_id: str, until: str | int) -> None:
        """Move on to `until`, renewing the hold every two days on the way."""
        end = until if isinstance(until, int) else local(until, self.settings.site.timezone)
        while self.clock.now_us() + 2 * DAY_S * SECOND_US < end:
            self.clock.set_us(self.clock.now_us() + 2 * DAY_S * SECOND_US)
            await holds.renew(
                self.platform,
                OFFICER,
                hold_id,
                review_at_us=self.clock.now_us() + 30 * DAY_S * SECOND_US,
            )
        self.clock.set_us(end)

    async def rows(self, table: sa.Table = tables.segment) -> list[dict[str, Any]]:
        async with self.database._inner.read() as connection:
            found = (await connection.execute(sa.select(table))).mappings().all()
            return [dict(row) for row in found]

    async def live(self) -> set[str]:
        return {row["id"] for row in await self.rows() if row["state"] == "live"}

    async def objects(self) -> dict[str, Mapping[str, str]]:
        """Keys in the store, with their tags."""
        return {info.key: info.tags async for info in self.blobs.list()}

    async def tombstoned(self) -> list[str]:
        """Ids in tombstones, doubled where they stand twice."""
        from shared.tombstones import unpack_segments

        return [
            segment.id
            for row in await self.rows(tables.tombstone)
            for segment in unpack_segments(row["segments"])
        ]


def settings_for(tmp: Path, **retention: Any) -> Settings:
    """Settings with a state folder of the test's own."""
    timezone = retention.pop("timezone", "Asia/Hong_Kong")
    return Settings.model_validate(
        {"state_dir": tmp, "site": {"timezone": timezone}, "retention": retention}
    )


@asynccontextmanager
async def world(
    tmp: Path, start: str | int = "2024-04-16T00:00", **retention: Any
) -> AsyncIterator[World]:
    """A started world, closed at the end."""
    settings = settings_for(tmp, **retention)
    start_us = start if isinstance(start, int) else local(start, settings.site.timezone)
    found = World(tmp, settings, start_us)
    await found.start()
    try:
        yield found
    finally:
        await found.close()
