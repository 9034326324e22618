"""Random histories of one expiry on PostgreSQL, lived by tasks on connections of their own.

A history is a seed: what is recorded and held before the expiry, and who does what while it passes:
a hold placed, one released, one renewed, one that lapses, late segments committed, the purge by two
workers, one of whom may die, days that leave. Every statement of theirs may wait a moment
beforehand, as the seed says, and each stalls once. The judge keeps accounts of its own: from when a
segment may go, and which holds bind it.

`Mutation` changes how a transaction begins, to show that the histories find what is lost then.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.util import await_only

from services.api import holds
from services.retention.service import RetentionService
from shared.clock import DAY_US, HOUR_US, SECOND_US, SimulatedClock, SystemClock
from shared.db import tables
from shared.db.postgres import PARTITION_LOCK, PostgresDatabase, lock_key
from shared.errors import Kind, LamppostError
from shared.settings import load
from shared.tombstones import unpack_segments
from tests.support import databases, sightings
from tests.support.retention_machine import MINUTE_US, KnownHold, KnownSegment
from tests.support.retention_world import (
    OFFICER,
    Crash,
    FaultyBlobs,
    World,
    local,
    settings_for,
)

SYSTEM = SystemClock()
SPAN_DAYS = 5
"""From one history's expiry to the next one's: what was held then is purged on the way."""
AT_A_TIME = 8
"""Histories of one night, each on two cameras of its own: they share the clock and the purge."""
SLOTS = 4
"""Minutes before midnight of which footage may be recorded."""
BEFORE_US = 300 * SECOND_US


Act: TypeAlias = Callable[[], Awaitable[None]]


class Mutation(StrEnum):
    """How a transaction that should begin with the cameras' locks begins instead."""

    NONE = "none"
    NO_LOCK = "no_lock"
    LOCK_AFTER_FIRST_READ = "lock_after_first_read"
    REPEATABLE_READ = "repeatable_read"
    REPEATABLE_READ_NO_LOCK = "repeatable_read_no_lock"


class Loss(AssertionError):
    """Evidence is gone, or told of twice."""


@dataclass
class Pulse:
    """Counts statements, so that waits are in steps of the others and not in time, which passes
    sooner on a busy machine."""

    all: int = 0
    purge: int = 0

    async def until(self, more: int) -> None:
        """Wait until so many statements were begun, or nobody begins any."""
        goal = self.all + more
        await self._wait(lambda: self.all >= goal)

    async def until_purged(self, more: int) -> None:
        """The same, of statements of the purge."""
        goal = self.purge + more
        await self._wait(lambda: self.purge >= goal)

    async def _wait(self, reached: Callable[[], bool]) -> None:
        for _ in range(150):
            if reached():
                return
            await SYSTEM.sleep(0.002)


@dataclass
class Actor:
    """One who acts while the expiry passes: how it dawdles, and whether it dies."""

    chance: random.Random
    pulse: Pulse
    purges: bool = False
    dies_at: int | None = None
    done: int = 0
    stall_at: int = 0

    def __post_init__(self) -> None:
        self.stall_at = self.chance.randrange(1, 16)

    async def step(self) -> None:
        """Before a statement, a commit or a deletion."""
        self.done += 1
        self.pulse.all += 1
        self.pulse.purge += self.purges
        if self.dies_at is not None and self.done >= self.dies_at:
            raise Crash("between two statements")
        if self.done == self.stall_at:
            await self.pulse.until_purged(self.chance.randrange(1, 60))
        elif self.chance.random() < 0.25:
            await SYSTEM.sleep(self.chance.uniform(0.0, 0.004))


_actor: ContextVar[Actor | None] = ContextVar("actor", default=None)


async def _step() -> None:
    actor = _actor.get()
    if actor is not None:
        await actor.step()


class RacingDatabase(PostgresDatabase):
    """PostgreSQL with the test's clock, with actors who dawdle, and perhaps with a mutation."""

    def __init__(self, name: str, clock: SimulatedClock, mutation: Mutation) -> None:
        server = databases.server()
        found = load(server.environment(name), {}).postgres
        super().__init__(
            found.model_copy(
                update={
                    "days_back": 0,
                    "pool_size": 20,
                    "lock_timeout_s": 20.0,
                    "prepared_statements": True,
                }
            ),
            clock=clock,
            password_file=server.password_file,
        )
        self._simulated, self._mutation = clock, mutation
        self._late: dict[int, list[int]] = {}
        sa.event.listen(self._engine.sync_engine, "before_cursor_execute", self._before)
        sa.event.listen(self._engine.sync_engine, "after_cursor_execute", self._after)

    async def now_us(self, connection: AsyncConnection | None = None) -> int:
        await super().now_us(connection)
        return self._simulated.now_us()

    @asynccontextmanager
    async def write(self, cameras: Iterable[str] = ()) -> AsyncIterator[AsyncConnection]:
        names = sorted(cameras)
        late = self._mutation is Mutation.LOCK_AFTER_FIRST_READ
        async with super().write([] if late else names) as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            if late and names:
                self._late[id(driver)] = [lock_key(name) for name in names]
            try:
                yield connection
            finally:
                self._late.pop(id(driver), None)
            await _step()

    def _begin_write(self, keys: Iterable[int]) -> str:
        listed = list(keys)
        if listed == [PARTITION_LOCK]:
            return super()._begin_write(listed)
        if self._mutation in (Mutation.NO_LOCK, Mutation.REPEATABLE_READ_NO_LOCK):
            listed = []
        begin = super()._begin_write(listed)
        if self._mutation in (Mutation.REPEATABLE_READ, Mutation.REPEATABLE_READ_NO_LOCK):
            begin = begin.replace("READ COMMITTED", "REPEATABLE READ")
        return begin

    def _before(self, *_: Any) -> None:
        await_only(_step())

    def _after(self, connection: Any, *_: Any) -> None:
        driver = connection.connection.driver_connection
        for key in self._late.pop(id(driver), ()):
            await_only(driver.execute(f"SELECT pg_advisory_xact_lock({key})"))


class RacingBlobs(FaultyBlobs):
    """Deletion takes its time, too."""

    async def delete(self, keys: Sequence[str]) -> None:
        await _step()
        await super().delete(keys)
        await _step()


@dataclass
class History:
    """Two cameras of one seed, and what the judge remembers of them."""

    number: int
    chance: random.Random = field(default_factory=random.Random)
    segments: list[KnownSegment] = field(default_factory=list)
    holds: list[KnownHold] = field(default_factory=list)
    promised: set[tuple[str, str]] = field(default_factory=set)
    """Holds, and segments that they called preserved."""

    @property
    def cameras(self) -> tuple[str, str]:
        return f"cam-{self.number}-a", f"cam-{self.number}-b"


class Races:
    """Nights of `AT_A_TIME` histories, one after another in one database; the clock goes from
    expiry to expiry. What a night leaves held is judged on in the next."""

    def __init__(self, folder: Path, name: str, mutation: Mutation = Mutation.NONE) -> None:
        self._settings = settings_for(folder)
        first = local("2024-01-01T00:00")
        self.world = World(
            folder,
            self._settings,
            first,
            lambda clock: RacingDatabase(name, clock, mutation),
            RacingBlobs,
        )
        self._midnight_us = first + 31 * DAY_US
        self._histories = [History(number) for number in range(AT_A_TIME)]
        self._workers = {name: self._worker(name) for name in ("w1", "w2")}
        self._few = 0

    async def start(self) -> None:
        """On a migrated database."""
        await self.world.start([name for one in self._histories for name in one.cameras])
        await self._workers["w1"].run_once()
        self._workers["w2"]._leaving.follow(await self._workers["w2"]._policy_in_force())

    def _worker(self, name: str) -> RetentionService:
        return RetentionService(self.world.platform, self._settings, worker=name, lanes=2)

    async def play(self, seed: int) -> None:
        """One night. Raises `Loss` for what is lost, AssertionError for what stays too long."""
        chance = random.Random(seed)
        self._midnight_us += SPAN_DAYS * DAY_US
        for history in self._histories:
            history.chance = random.Random(seed * AT_A_TIME + history.number)
        self._few = chance.choice([0, 0, 2_000])
        await self._prepare()
        await self._race(chance, seed)
        await self._judge_losses()
        outcome = await self._fresh("w1").run_once()
        assert outcome.stopped == "", outcome
        await purge(self._fresh("w2"))
        await self._judge_losses()
        await self._judge_leftovers()

    def _fresh(self, name: str) -> RetentionService:
        worker = self._workers[name]
        worker._leaving.few = self._few
        return worker

    # -- Before the expiry

    @property
    def now_us(self) -> int:
        return self.world.clock.now_us()

    def _slot(self, number: int) -> int:
        """Start of a minute that ends `number` minutes before the recording date does."""
        return self._midnight_us - 30 * DAY_US - (number + 1) * MINUTE_US

    async def _prepare(self) -> None:
        """Footage that expires at the midnight, and holds from earlier, some about to lapse."""
        for lapse_s in (-2, -1, 1, 2):
            self.world.clock.set_us(self._midnight_us - 72 * HOUR_US + lapse_s * SECOND_US)
            for history in self._histories:
                if history.chance.random() < 0.12:
                    await self._hold(history, history.chance)
        self.world.clock.set_us(self._midnight_us - BEFORE_US)
        await asyncio.gather(*(self._record_some(history) for history in self._histories))
        for history in self._histories:
            if history.chance.random() < 0.5:
                await self._hold(history, history.chance)
        self.world.clock.set_us(self._midnight_us - SECOND_US)

    async def _record_some(self, history: History) -> None:
        for camera in history.cameras[: history.chance.choice([1, 1, 2])]:
            for slot in range(SLOTS):
                if history.chance.random() < 0.6:
                    await self._record(history, camera, slot)

    async def _record(self, history: History, camera: str, slot: int) -> None:
        start = self._slot(slot)
        if any(one.camera_id == camera and one.start_us == start for one in history.segments):
            return
        found = await self.world.file(camera, start, tries=6)
        if found is None:
            return
        history.segments.append(KnownSegment(found, camera, start, self._midnight_us))
        seen = [
            sightings.row(
                sightings.sighting(name, camera, start + n * 20 * SECOND_US),
                now_us=self.now_us,
                expires_at_us=self._midnight_us,
            )
            for n, name in enumerate(seen_in(found))
        ]
        for _ in range(6):
            try:
                await databases.make_room(self.world.database, *seen)
                async with self.world.database.write([camera]) as connection:
                    await connection.execute(sa.insert(tables.sighting), seen)
                return
            except LamppostError as error:
                if not error.retryable:
                    raise

    async def _hold(self, history: History, chance: random.Random) -> None:
        slots = sorted(chance.sample(range(SLOTS), 2), reverse=True)
        start, end = self._slot(slots[0]) + 20 * SECOND_US, self._slot(slots[1]) + 40 * SECOND_US
        cameras = chance.choice([history.cameras[:1], history.cameras])
        try:
            report = await self.world.hold(start, end, cameras=cameras)
        except LamppostError as error:
            if error.kind is not Kind.GONE and not error.retryable:
                raise
            return
        placed = report.hold
        made = KnownHold(
            placed.id, cameras, start, end, placed.placed_at_us, int(placed.lapses_at_us or 0)
        )
        history.holds.append(made)
        history.promised.update(
            (made.id, one.id)
            for one in history.segments
            for part in report.preserved
            if one.camera_id == part.camera_id
            and one.start_us < part.end_us
            and part.start_us < one.start_us + MINUTE_US
        )

    # -- While it passes

    async def _race(self, chance: random.Random, seed: int) -> None:
        dying = chance.randrange(20, 250) if chance.random() < 0.3 else None
        pulse = Pulse()
        purges = [self._purge(name) for name in ("w1", "w2")[: chance.choice([1, 2, 2])]]
        acts: list[tuple[Act, int | None]] = [(self._tick, None), (purges[0], dying)]
        acts += [(act, None) for act in purges[1:]]
        acts += [(act, None) for history in self._histories for act in self._acts_of(history)]
        ends = await asyncio.gather(
            *(
                self._as_actor(
                    act,
                    Actor(random.Random(f"{seed}-{number}"), pulse, act in purges, dies_at),
                )
                for number, (act, dies_at) in enumerate(acts)
            ),
            return_exceptions=True,
        )
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, Crash):
                raise end

    def _acts_of(self, history: History) -> list[Act]:
        """What happens to a history's cameras in this night, each act once or more."""
        chance = history.chance
        acts: list[Act] = []
        for _ in range(chance.choice([0, 1, 1, 1, 2])):
            own = random.Random(chance.random())
            acts.append(partial(self._hold, history, own))
        acts += [partial(self._release, history)] * chance.choice([0, 1])
        acts += [partial(self._renew, history)] * chance.choice([0, 0, 1])
        late = {(chance.choice(history.cameras), chance.randrange(SLOTS)) for _ in range(2)}
        for camera, slot in sorted(late)[: chance.choice([0, 1, 2])]:
            acts.append(partial(self._record, history, camera, slot))
        return acts

    async def _as_actor(self, act: Act, actor: Actor) -> None:
        _actor.set(actor)  # gather gives each coroutine a task, and so a context, of its own
        if not actor.purges:
            await actor.pulse.until(actor.chance.choice([0, 0, 10, 40, 150]))
        await act()

    async def _tick(self) -> None:
        actor = _actor.get()
        assert actor is not None
        for _ in range(3):
            await actor.pulse.until(actor.chance.randrange(10, 80))
            self.world.clock.set_us(self.now_us + SECOND_US)

    def _purge(self, name: str) -> Act:
        async def act() -> None:
            worker = self._fresh(name)
            try:
                for _ in range(2):
                    while self.now_us < self._midnight_us:
                        await SYSTEM.sleep(0.005)
                    await purge(worker)
            except Crash:
                self._workers[name] = found = self._worker(name)
                found._leaving.follow(await found._policy_in_force())
                raise
            except LamppostError as error:
                if not error.retryable:
                    raise

        return act

    async def _release(self, history: History) -> None:
        for known in history.holds[-3:]:
            try:
                found = await holds.release(self.world.platform, OFFICER, known.id, "done")
            except LamppostError as error:
                if error.kind is not Kind.CONFLICT and not error.retryable:
                    raise
            else:
                known.released_us = found.released_at_us
                return

    async def _renew(self, history: History) -> None:
        for known in history.holds[-3:]:
            try:
                found = await holds.renew(
                    self.world.platform, OFFICER, known.id, review_at_us=self.now_us + 9 * DAY_US
                )
            except LamppostError as error:
                if error.kind is not Kind.CONFLICT and not error.retryable:
                    raise
            else:
                known.lapses_us = int(found.lapses_at_us or 0)
                return

    # -- The judge

    def _binding(self, history: History, one: KnownSegment) -> list[KnownHold]:
        """In order of placement: a hold binds what had not expired, or what another then kept."""
        bound: list[KnownHold] = []
        touching = (hold for hold in history.holds if one.touched_by(hold))
        for hold in sorted(touching, key=lambda hold: hold.placed_us):
            if hold.placed_us < one.expires_us or any(
                other.keeps(hold.placed_us, one.expires_us) for other in bound
            ):
                bound.append(hold)
        return bound

    def _kept(self, history: History, one: KnownSegment) -> bool:
        return self.now_us < one.expires_us or any(
            hold.keeps(self.now_us, one.expires_us) for hold in self._binding(history, one)
        )

    async def _judge_losses(self) -> None:
        """Everything that is kept is whole, everything that went is told of once."""
        rows = {row["id"]: row for row in await self.world.rows()}
        fragments = {row["segment_id"] for row in await self.world.rows(tables.segment_fragments)}
        seen = {row["id"] for row in await self.world.rows(tables.sighting)}
        keys, stones = await self.world.objects(), Counter(await self._stones())
        for history in self._histories:
            for one in history.segments:
                told, row = stones[one.id], rows.get(one.id)
                if told > 1:
                    raise Loss(f"{one.id} has {told} tombstones")
                if not self._kept(history, one):
                    assert row is not None or told, f"{one.id} is gone without a tombstone"
                    continue
                if told or row is None or row["state"] != "live" or row["key"] not in keys:
                    raise Loss(f"{one.id} is held and was purged")
                if one.id not in fragments or not set(seen_in(one.id)) <= seen:
                    raise Loss(f"{one.id} is held and what belongs to it is gone")
            in_force = {one.id for one in history.holds if one.in_force(self.now_us)}
            for hold_id, name in history.promised:
                if hold_id in in_force and (stones[name] or name not in rows):
                    raise Loss(f"{name} was called preserved and is gone")

    async def _judge_leftovers(self) -> None:
        """After whole runs what nothing keeps is gone in every copy, its derivatives too."""
        rows = {row["id"] for row in await self.world.rows()}
        fragments = {row["segment_id"] for row in await self.world.rows(tables.segment_fragments)}
        seen = {row["id"] for row in await self.world.rows(tables.sighting)}
        keys = " ".join(await self.world.objects())
        for history in self._histories:
            kept = [one for one in history.segments if self._kept(history, one)]
            gone = {one.id for one in history.segments} - {one.id for one in kept}
            assert not gone & rows, "an unheld row stays"
            assert not gone & fragments, "an unheld fragment table stays"
            assert not [one for one in gone if one in keys], "unheld bytes stay"
            assert not {name for one in gone for name in seen_in(one)} & seen, "a sighting stays"
            history.segments = kept
            ids = {one.id for one in kept}
            history.promised = {pair for pair in history.promised if pair[1] in ids}
            latest = self.now_us - 2 * SPAN_DAYS * DAY_US
            history.holds = [one for one in history.holds if one.placed_us > latest]

    async def _stones(self) -> list[str]:
        """Ids in the tombstones of the last nights."""
        table = tables.tombstone
        since = self._midnight_us - 4 * SPAN_DAYS * DAY_US
        query = sa.select(table.c.segments).where(table.c.claimed_at_us >= since)
        async with self.world.database._inner.read() as connection:
            packed = (await connection.execute(query)).scalars().all()
        return [one.id for data in packed for one in unpack_segments(data)]

    async def purge_together(self, segments: int) -> list[str]:
        """So many segments of two cameras, purged by both workers at once; who was told of."""
        self._midnight_us += SPAN_DAYS * DAY_US
        end = self._midnight_us - 30 * DAY_US
        self.world.clock.set_us(self._midnight_us - BEFORE_US)
        for camera in self._histories[0].cameras:
            for number in range(segments):
                assert await self.world.file(camera, end - (number + 1) * 7 * SECOND_US, 7.0)
        self.world.clock.set_us(self._midnight_us)
        await asyncio.gather(*(worker.run_once() for worker in self._workers.values()))
        return await self._stones()

    async def close(self) -> None:
        await self.world.close()


def seen_in(segment_id: str) -> tuple[str, str]:
    """Ids of the sightings of a segment."""
    return f"{segment_id[:30]}-0", f"{segment_id[:30]}-1"


async def purge(worker: RetentionService) -> None:
    """What a run deletes, without its looks at clocks and tags before and its report after."""
    await worker._executor.resume()
    made, _ = await worker._plan(None)
    assert not made.stop, made.stop
    await worker._executor.run_all(made.claims, 1)
    await worker._sweep(await worker._leaving.run())


@asynccontextmanager
async def opened(folder: Path, mutation: Mutation = Mutation.NONE) -> AsyncIterator[Races]:
    """Histories on a database of their own."""
    name = f"races_{mutation.value}"
    await asyncio.to_thread(databases.server().fresh, name)
    races = Races(folder, name, mutation)
    try:
        await races.start()
        yield races
    finally:
        await races.close()
        await asyncio.to_thread(databases.server().drop, name)
