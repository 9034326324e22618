"""Days of retention in seconds: the product's own code on a simulated clock (`lamppost simulate`).

Segments go through the archive's decision and commit, holds through the api's functions, purges
through the retention service, on real stores in a folder of its own; only time and pictures are
made up, and nothing is synced to disk. One `Day` a local date; the verdict says whether anything
was overdue, or held and lost (docs/retention.md, "See it happen").
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

from services.api import holds
from services.api.holds import HoldRequest
from services.archive import filing
from services.archive.commit import Committer, Outcome, holds_of
from services.retention.policy import ensure_policy
from services.retention.service import RetentionService
from shared import civil, ids, outbox, retention, standing
from shared.audit import Actor
from shared.blobs import HELD, STANDARD
from shared.blobs.files import FileBlobs
from shared.bus.embedded import EmbeddedBus
from shared.clock import DAY_US, HOUR_US, SECOND_US, SimulatedClock
from shared.db import tables
from shared.db.rows import camera_row
from shared.db.sqlite import SqliteDatabase
from shared.domain import Camera, ClockSource, Codec, Hold, HoldReason, Segment, Source
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.settings import Settings, validated
from shared.spool import Filed
from shared.tombstones import unpack_segments

OFFICER = Actor("simulated-officer", "Simulated officer")
BATCH = 144
MAX_DAYS, MAX_CAMERAS = 400, 100
RENEW_US = 2 * DAY_US
STEP_US = 6 * HOUR_US
"""How often it looks: often enough for the limit of 24 h to mean something."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to simulate."""

    days: int = 40
    cameras: int = 2
    segment_s: int = 600
    segment_bytes: int = 1024
    start: date = date(2024, 1, 20)
    """The first local date: the default has a leap day on its way."""
    timezone: str = "Asia/Hong_Kong"
    basis: Literal["civil_date", "instant"] = "civil_date"
    retention_days: int = 30
    state_dir: Path | None = None
    """Where the stores are made; None: a temporary folder, removed at the end."""


@dataclass(frozen=True, slots=True)
class Day:
    """One local date at its end: counts of segments, of that day or standing then."""

    date: date
    hours: float
    """23, 24 or 25."""
    recorded: int
    stored: int
    """In the store at the day's end."""
    held: int
    """Kept past their expiry by a hold or its grace."""
    expired: int
    """Reached their expiry this day."""
    purged: int
    overdue: int
    holds_active: int
    note: str = ""


@dataclass(slots=True)
class Verdict:
    """What the whole run proves; `ok` when nothing was late and nothing held was lost."""

    days: int = 0
    recorded: int = 0
    purged: int = 0
    overdue: int = 0
    """The worst day's."""
    held_lost: int = 0
    early: int = 0
    """Purged before their expiry."""
    unexplained: int = 0
    """Rows without bytes, bytes without a row, or purges without exactly one tombstone."""
    stopped: str = ""
    """Why retention stopped, if it did."""

    @property
    def ok(self) -> bool:
        return not (
            self.overdue or self.held_lost or self.early or self.unexplained or self.stopped
        )


@dataclass(slots=True)
class Simulation:
    """`async for day in simulation.run()`, then `simulation.verdict`."""

    options: Options
    verdict: Verdict = field(default_factory=Verdict)

    def __post_init__(self) -> None:
        options = self.options
        if not (1 <= options.days <= MAX_DAYS and 1 <= options.cameras <= MAX_CAMERAS):
            raise LamppostError(
                Kind.INVALID, f"Simulate 1 to {MAX_DAYS} days of 1 to {MAX_CAMERAS} cameras."
            )
        if not (60 <= options.segment_s <= 3600 and 64 <= options.segment_bytes <= 1_000_000):
            raise LamppostError(
                Kind.INVALID, "A simulated segment has 60 to 3600 seconds and 64 to 1000000 bytes."
            )

    async def run(self) -> AsyncIterator[Day]:
        """Each local date in turn."""
        with tempfile.TemporaryDirectory(prefix="lamppost-simulate-") as folder:
            state = self.options.state_dir or Path(folder)
            async with opened(state, self.options) as town:
                for number in range(self.options.days):
                    yield await town.live_a_day(number)
                await town.judge(self.verdict)


@asynccontextmanager
async def opened(state: Path, options: Options) -> AsyncIterator[Town]:
    """A town on fresh stores below `state`."""
    settings = validated(
        {
            "state_dir": state,
            "site": {"timezone": options.timezone},
            "retention": {"basis": options.basis, "days": options.retention_days},
        }
    )
    zone = civil.zone(options.timezone)
    clock = SimulatedClock(civil.midnight_us(options.start, zone))
    await asyncio.to_thread(state.mkdir, parents=True, exist_ok=True)
    platform = Platform(
        clock=clock,
        bus=await EmbeddedBus.open(
            state / "bus.db", clock=clock, partitions=1, session_timeout_s=10.0
        ),
        blobs=FileBlobs(state / "blobs", clock=clock, durable=False),
        database=SqliteDatabase(state / "lamppost.db", clock=clock, durable=False),
        internal_key="simulated" * 4,
    )
    try:
        town = Town(platform, settings, options, clock)
        await town.found()
        yield town
    finally:
        await platform.close()


class Town:
    """Cameras that record, an officer who holds, a retention service that runs every six hours."""

    def __init__(
        self, platform: Platform, settings: Settings, options: Options, clock: SimulatedClock
    ) -> None:
        self.platform, self._settings, self._options = platform, settings, options
        self._clock = clock
        self._zone = civil.zone(options.timezone)
        self._cameras = [f"cam-{number + 1}" for number in range(options.cameras)]
        self._service = RetentionService(platform, settings)
        self._committer = Committer(platform, settings, outbox.Relay(platform, "archive"))
        self._random = random.Random(options.start.toordinal())
        self._recorded: dict[str, tuple[Segment, int]] = {}
        self._holds: dict[str, Hold] = {}
        self._never_released: set[str] = set()
        self._next_start = {camera_id: clock.now_us() for camera_id in self._cameras}
        self._last_stop = ""
        self._worst_overdue = 0

    async def found(self) -> None:
        """The schema, the policy, the cameras."""
        await self.platform.database.migrate()
        await ensure_policy(self.platform, self._settings)
        async with self.platform.database.write() as connection:
            for camera_id in self._cameras:
                camera = Camera(
                    id=camera_id, name=camera_id, source=Source("rtsp://simulated.invalid/")
                )
                await connection.execute(
                    sa.insert(tables.camera).values(camera_row(camera, self._clock.now_us()))
                )

    async def live_a_day(self, number: int) -> Day:
        """Record and purge step by step; on some days the officer acts."""
        day = self._options.start + timedelta(days=number)
        first, last = civil.day_bounds_us(day, self._zone)
        purged = recorded = 0
        notes: list[str] = []
        for now_us in [*range(first + STEP_US, last, STEP_US), last]:
            self._clock.set_us(now_us)
            recorded += await self._record()
            outcome = await self._service.run_once()
            purged += outcome.purged
            self._last_stop = outcome.stopped or self._last_stop
            if now_us == first + 12 * HOUR_US:
                notes += await self._act(number)
        found = await standing.read(self.platform)
        self._worst_overdue = max(self._worst_overdue, found.overdue_segments)
        return Day(
            date=day,
            hours=(last - first) / HOUR_US,
            recorded=recorded,
            stored=await self._count(),
            held=found.held_segments,
            expired=sum(first < expires <= last for _, expires in self._recorded.values()),
            purged=purged,
            overdue=found.overdue_segments,
            holds_active=found.holds_active,
            note="; ".join(notes),
        )

    async def _record(self) -> int:
        """File what the cameras finished since the last time, as the archive does."""
        finished: list[tuple[Segment, bytes]] = []
        for camera_id in self._cameras:
            step_us = self._options.segment_s * SECOND_US
            while self._next_start[camera_id] + step_us <= self._clock.now_us():
                start_us = self._next_start[camera_id]
                finished.append(self._segment(camera_id, start_us, start_us + step_us))
                self._next_start[camera_id] += step_us
        for begin in range(0, len(finished), BATCH):
            await self._file(finished[begin : begin + BATCH])
        return len(finished)

    def _segment(self, camera_id: str, start_us: int, end_us: int) -> tuple[Segment, bytes]:
        data = self._random.randbytes(self._options.segment_bytes)
        segment = Segment(
            id=ids.derived_id("simulated", camera_id, start_us),
            camera_id=camera_id,
            start_us=start_us,
            end_us=end_us,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            codec=Codec.H264,
            width=1280,
            height=720,
            timescale=90_000,
            init_size=0,
            init_sha256="0" * 64,
            connection_id="simulated",
            recorder="simulated",
            epoch=1,
            clock_source=ClockSource.RECEIPT,
            clock_uncertainty_us=0,
        )
        return segment, data

    async def _file(self, finished: Sequence[tuple[Segment, bytes]]) -> None:
        async with self.platform.database.read() as connection:
            policy = await self._committer.policy(connection)
            found = await holds_of(connection, [segment for segment, _ in finished])
        outcomes: list[Outcome] = []
        puts = []
        for segment, data in finished:
            decided = filing.decide(
                segment,
                policy,
                found,
                self._clock.now_us(),
                self._settings.archive.late_max_days,
            )
            if isinstance(decided, filing.Refused):
                continue
            puts.append(
                self.platform.blobs.put(
                    decided.key,
                    data,
                    sha256=segment.sha256,
                    size_bytes=segment.size_bytes,
                    tags=HELD if decided.held else STANDARD,
                )
            )
            item = Filed(segment.id, Path(), None, Path())
            now_us = self._clock.now_us()
            outcomes.append(Outcome(item, decided, decided.held, stored_at_us=now_us))
            self._recorded[segment.id] = segment, decided.expires_at_us
        await asyncio.gather(*puts)
        await self._committer.commit(outcomes)

    async def _act(self, number: int) -> list[str]:
        """The officer's diary: a hold kept to the end, one released past its expiry, one that
        lapses. Holds are placed close to the expiry, and renewed every other day."""
        keep = self._options.retention_days
        notes = [
            await self._place(name, number - keep)
            for name, offset in (("kept", 2), ("released", 3), ("lapsed", 4))
            if number == keep + offset
        ]
        if number == keep + 6 and "released" in self._holds:
            held = self._holds["released"]
            await holds.release(self.platform, OFFICER, held.id, "simulated: case closed")
            notes.append("hold released, 72 h of grace")
        for name in ("kept", "released"):
            await self._renew(name)
        return notes

    async def _place(self, name: str, number: int) -> str:
        """Hold two hours of the noon of a day that expires within two days."""
        noon = civil.midnight_us(self._options.start + timedelta(days=number), self._zone)
        start_us = noon + 13 * HOUR_US
        report = await holds.place(
            self.platform,
            self._settings,
            OFFICER,
            HoldRequest(
                camera_ids=tuple(self._cameras[: holds.MAX_CAMERAS]),
                start_us=start_us,
                end_us=start_us + 2 * HOUR_US,
                case_ref=f"SIM-{name}",
                reason=HoldReason.CRIMINAL_INVESTIGATION,
            ),
        )
        self._holds[name] = report.hold
        return f"hold placed ({name}): {report.segments} segments"

    async def _renew(self, name: str) -> None:
        hold = self._holds.get(name)
        if (
            hold is None
            or self._clock.now_us() < (hold.renewed_at_us or hold.placed_at_us) + RENEW_US
        ):
            return
        hold = await holds.get(self.platform, hold.id)
        if retention.hold_state(hold, self._clock.now_us()) is retention.HoldState.IN_FORCE:
            self._holds[name] = await holds.renew(
                self.platform,
                OFFICER,
                hold.id,
                review_at_us=self._clock.now_us() + 30 * DAY_US,
            )

    async def _count(self) -> int:
        async with self.platform.database.read() as connection:
            query = sa.select(sa.func.count()).select_from(tables.segment)
            return int((await connection.execute(query)).scalar_one())

    async def judge(self, verdict: Verdict) -> None:
        """Compare what is there with what should be, from what this town itself remembers."""
        async with self.platform.database.read() as connection:
            query = sa.select(tables.segment.c.id, tables.segment.c.key)
            rows = {row.id: row.key for row in await connection.execute(query)}
            stones = (await connection.execute(sa.select(tables.tombstone))).mappings().all()
        gone = [
            (segment.id, stone["bytes_gone_at_us"])
            for stone in stones
            for segment in unpack_segments(stone["segments"])
        ]
        keys = {info.key async for info in self.platform.blobs.list()}
        now_us = self._clock.now_us()
        current = [await holds.get(self.platform, hold.id) for hold in self._holds.values()]
        standing_holds = [
            hold
            for hold in current
            if retention.hold_state(hold, now_us) is retention.HoldState.IN_FORCE
        ]
        held = {
            segment.id
            for segment, _ in self._recorded.values()
            for hold in standing_holds
            if segment.camera_id in hold.camera_ids
            and segment.start_us < hold.end_us
            and hold.start_us < segment.end_us
        }
        verdict.days = self._options.days
        verdict.recorded = len(self._recorded)
        verdict.purged = len(gone)
        verdict.overdue = self._worst_overdue
        verdict.held_lost = len(held - rows.keys())
        verdict.early = sum(at_us < self._recorded[one][1] for one, at_us in gone)
        verdict.unexplained = (
            len(keys ^ set(rows.values()))
            + len(gone)
            - len({one for one, _ in gone})
            + len(self._recorded.keys() - rows.keys() - {one for one, _ in gone})
        )
        verdict.stopped = self._last_stop
