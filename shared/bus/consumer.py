"""A reader of the embedded bus: one member of a group, or a reader of everything."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from shared import log, metrics, timing
from shared.bus import Partition, Record, Start, groups, log_table
from shared.clock import SECOND_US
from shared.errors import Kind, LamppostError

if TYPE_CHECKING:
    from shared.bus.embedded import EmbeddedBus
    from shared.bus.store import Store

FULL_LOOK_S = 1.0
"""A waiting poll asks for silent members so often, even when nothing was written."""
MAX_POLL_BYTES = 16 * 1024 * 1024
IDLE_LIMIT = 30
"""A member that has not polled for so many session time-outs is alive no more, though its process
is: its work hangs. Until then the process speaks for it, so that slow work loses no partition."""

T = TypeVar("T")


@timing.measured("bus", metrics.BUS_SECONDS, "commit")
class EmbeddedConsumer:
    """Port `Consumer`. Used by one task at a time; `wake` may come from others of the loop."""

    def __init__(
        self,
        bus: EmbeddedBus,
        topics: frozenset[str],
        me: groups.Member | None,
        start: Start,
        given: dict[Partition, int],
    ) -> None:
        self._bus = bus
        self._topics = topics
        self._me = me
        self._start = start
        self._given = given
        self._positions: dict[Partition, int] = {}
        self._assignment: frozenset[Partition] = frozenset()
        self._generation = -1
        self._turn = 0
        self._nothing: list[int] | None = None
        """What the stores looked like when there was nothing to read."""
        self._looked_us = 0
        self._called_us = bus.clock.monotonic_us()
        self._beaten_us = self._called_us
        self._wake = asyncio.Event()
        self._heart: asyncio.Task[None] | None = None
        self._closed = False
        self._log = log.get("bus.consumer")

    @property
    def assignment(self) -> frozenset[Partition]:
        return self._assignment

    @property
    def positions(self) -> Mapping[Partition, int]:
        return dict(self._positions)

    async def begin(self) -> None:
        """Join the group, or take every partition."""
        if self._me is None:
            everything = frozenset(
                (topic, part) for topic in self._topics for part in range(self._bus.partition_count)
            )
            await self._assign(everything)
            return
        await self._join(self._me)
        self._heart = asyncio.create_task(self._beat())

    async def poll(self, max_records: int = 500, timeout_s: float = 1.0) -> list[Record]:
        self._check_open()
        self._called_us = self._bus.clock.monotonic_us()
        over = asyncio.Event()

        def end() -> None:
            over.set()
            self._wake.set()

        loop = asyncio.get_running_loop()
        alarm = loop.call_later(timeout_s, end) if timeout_s > 0 else None
        try:
            while True:
                self._wake.clear()
                versions = self._versions()
                records = await self._look(max_records, versions)
                if records or alarm is None or over.is_set():
                    return records
                await self._wait(over, versions)
        finally:
            if alarm is not None:
                alarm.cancel()

    async def _look(self, max_records: int, versions: list[int]) -> list[Record]:
        """What the group and the logs have. Nothing, where nobody has written since they had
        nothing, and silent members were asked for a moment ago."""
        now_us = self._bus.clock.monotonic_us()
        if versions == self._nothing and now_us - self._looked_us < FULL_LOOK_S * SECOND_US:
            return []
        await self._follow_group()
        records = await self._fetch(max_records)
        self._nothing, self._looked_us = None if records else versions, now_us
        return records

    async def commit(self, records: Sequence[Record]) -> None:
        self._check_open()
        me = self._me
        if me is None or not records:
            return
        self._called_us = self._bus.clock.monotonic_us()
        following: dict[Partition, int] = {}
        for record in records:
            place = (record.topic, record.partition)
            following[place] = max(following.get(place, 0), record.offset + 1)

        def durable(c: sqlite3.Connection) -> None:
            groups.beat(c, me, self._bus.clock.monotonic_us())
            if not groups.owns(c, me, following.keys()):
                raise LamppostError(
                    Kind.CONFLICT,
                    f"Member {me.name} of group {me.group} no longer has these partitions.",
                    fix="Poll again: it shows the new assignment, and the records come again.",
                )
            log_table.commit(c, me.group, self._in(self._bus.durable, following))

        await self._bus.durable.write(durable)
        for store in self._stores():
            if store is not self._bus.durable and (part := self._in(store, following)):
                await store.write(lambda c, part=part: log_table.commit(c, me.group, part))  # type: ignore[misc]

    async def owners(self) -> Mapping[Partition, str]:
        self._check_open()
        me = self._me
        if me is None:
            return {}
        found = await self._bus.durable.read(
            lambda c: groups.owners(
                c, me.group, self._bus.clock.monotonic_us(), self._bus.session_timeout_us
            )
        )
        return {place: name for place, name in found.items() if place[0] in self._topics}

    async def seek_to_beginning(self, partitions: frozenset[Partition]) -> None:
        self._check_open()
        if strange := partitions - self._assignment:
            raise LamppostError(Kind.INVALID, f"Not assigned here: {sorted(strange)}.")
        for place in partitions:
            self._positions[place] = 0
        self._nothing = None
        self._wake.set()

    async def close(self) -> None:
        """Leave the group at once. May be called twice. Where the log cannot be written nothing is
        raised: the others see the silence and take over."""
        if self._closed:
            return
        await self.drop()
        if (me := self._me) is None:
            return
        try:
            await self._bus.durable.write(lambda c: groups.leave(c, me))
        except LamppostError as error:
            self._log.warning("left without saying so", group=me.group, cause=str(error))
        self._bus.notify()

    async def drop(self) -> None:
        """Stop without leaving, as a killed process does."""
        self._closed = True
        self._bus.forget(self)
        self._wake.set()
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.gather(self._heart, return_exceptions=True)

    def wake(self) -> None:
        """Something was written, by this process or another."""
        self._wake.set()

    async def _wait(self, over: asyncio.Event, versions: list[int]) -> None:
        """Until this process or another has written, the poll is over, or a full look is due."""
        due = asyncio.Event()

        def look() -> None:
            due.set()
            self._wake.set()

        timer = asyncio.get_running_loop().call_later(FULL_LOOK_S, look)
        try:
            while True:
                await self._wake.wait()
                # Before the look: who writes after it wakes this once more.
                self._wake.clear()
                self._check_open()
                if over.is_set() or due.is_set() or self._versions() != versions:
                    return
        finally:
            timer.cancel()

    async def _follow_group(self) -> None:
        """Evict the silent, and take over what changed in the group."""
        me = self._me
        if me is None:
            return
        now_us = self._bus.clock.monotonic_us()
        timeout_us = self._bus.session_timeout_us
        view = await self._bus.durable.read(lambda c: groups.look(c, me, now_us, timeout_us))
        if view.session is None:
            await self._assign(frozenset())
            await self._join(me)
        elif view.session != me.session:
            raise LamppostError(
                Kind.CONFLICT,
                f"Another process has joined group {me.group} as {me.name}.",
                fix="Give each process its own name (LAMPPOST_INSTANCE), or end one of the two.",
            )
        if view.silent or view.generation != self._generation:
            await self._settle(me)
        await self._beat_when_due(me)

    async def _join(self, me: groups.Member) -> None:
        def work(c: sqlite3.Connection) -> None:
            groups.join(c, me, self._topics, self._bus.clock.monotonic_us())

        self._generation = -1
        await self._bus.durable.write(work)
        self._bus.notify()

    async def _settle(self, me: groups.Member) -> None:
        def work(c: sqlite3.Connection) -> tuple[list[str], int, frozenset[Partition]] | None:
            now_us = self._bus.clock.monotonic_us()
            # First say that this member lives, so that it never evicts itself.
            if not groups.beat(c, me, now_us):
                return None
            gone = groups.evict_silent(c, me.group, now_us, self._bus.session_timeout_us)
            return gone, *groups.settle(c, me, self._bus.partition_count)

        found = await self._bus.durable.write(work)
        if found is None:
            return  # Evicted or displaced since the look: the next poll sees it.
        gone, generation, mine = found
        for name in gone:
            self._log.warning("silent member removed", group=me.group, member=name)
        await self._assign(mine)
        if generation != self._generation:
            self._generation = generation
            self._bus.notify()

    async def _assign(self, mine: frozenset[Partition]) -> None:
        """Begin new partitions where the group left them, forget lost ones."""
        fresh = mine - self._assignment
        positions = {place: at for place, at in self._positions.items() if place in mine}
        for store in self._stores():
            here = frozenset(p for p in fresh if self._bus.store(p[0]) is store)
            if here:
                positions.update(await store.read(self._starts(here)))
        self._positions = positions
        self._assignment = mine

    def _starts(
        self, fresh: frozenset[Partition]
    ) -> Callable[[sqlite3.Connection], dict[Partition, int]]:
        def work(c: sqlite3.Connection) -> dict[Partition, int]:
            resumes = self._me is not None and self._start != "earliest"
            done = log_table.committed(c, self._me.group, fresh) if self._me and resumes else {}
            found = {}
            for place in fresh:
                end = log_table.end_of(c, place)
                default = end if self._start == "latest" else 0
                at = self._given.pop(place, done.get(place, default))
                # A position past the end is of a log that is gone: begin as if there were none.
                found[place] = at if at <= end else default
            return found

        return work

    async def _fetch(self, max_records: int) -> list[Record]:
        self._turn += 1
        found: list[Record] = []
        for store in self._stores():
            here = self._in(store, self._positions)
            if not here or len(found) >= max_records:
                continue
            fetched = await store.read(
                lambda c, here=here, room=max_records - len(found): log_table.fetch(  # type: ignore[misc]
                    c, here, room, MAX_POLL_BYTES, self._turn
                )
            )
            found.extend(fetched.records)
            self._positions.update(fetched.positions)
        return found

    async def _beat(self) -> None:
        """Say that the member lives while its process does and its work is not stuck."""
        me = self._me
        assert me is not None
        every_s = self._bus.session_timeout_us / SECOND_US / 6
        while True:
            await self._bus.clock.sleep(every_s)
            idle_us = self._bus.clock.monotonic_us() - self._called_us
            if idle_us > IDLE_LIMIT * self._bus.session_timeout_us:
                continue
            try:
                await self._beat_when_due(me)
            except LamppostError as error:
                self._log.warning("heartbeat missed", group=me.group, cause=str(error))

    async def _beat_when_due(self, me: groups.Member) -> None:
        now_us = self._bus.clock.monotonic_us()
        if now_us - self._beaten_us >= self._bus.session_timeout_us // 3:
            self._beaten_us = now_us
            await self._bus.durable.write(
                lambda c: groups.beat(c, me, self._bus.clock.monotonic_us())
            )

    def _stores(self) -> list[Store]:
        found: list[Store] = []
        for topic in sorted(self._topics):
            store = self._bus.store(topic)
            if store not in found:
                found.append(store)
        return found

    def _in(self, store: Store, places: Mapping[Partition, T]) -> dict[Partition, T]:
        return {p: value for p, value in places.items() if self._bus.store(p[0]) is store}

    def stores(self) -> list[Store]:
        """Those in which anything that changes matters here: records, or the group."""
        found = self._stores()
        if self._me is not None and self._bus.durable not in found:
            found.append(self._bus.durable)
        return found

    def _versions(self) -> list[int]:
        """What changes when a store or the groups do."""
        return [store.look() for store in self.stores()]

    def _check_open(self) -> None:
        if self._closed:
            raise LamppostError(Kind.CLOSED, "The consumer is closed.")
