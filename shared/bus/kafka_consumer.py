"""A reader of the Kafka bus: one member of a group, or a reader of everything.

aiokafka fetches; which partitions, from where and for how long is decided here. `poll` is where an
assignment changes, and what a partition that stays has read is not read again. A poll that may not
wait (`timeout_s=0`) asks the brokers where the log ends, so that "nothing came" means that nothing
was there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition, errors
from aiokafka.client import AIOKafkaClient

from shared import log, metrics, timing
from shared.bus import Partition, Record, Start
from shared.bus.kafka_buffers import Buffers, record_of
from shared.bus.kafka_group import GroupMember
from shared.bus.kafka_wire import AWAY, EARLIEST, LATEST, Wire, away, end_fetching, list_offsets
from shared.clock import SECOND_US, Clock
from shared.errors import Kind, LamppostError

SLICE_S = 0.1
"""A waiting poll looks so often whether it was closed or its group has changed."""
LOOK_S = 3.0
"""Longest wait for what is known to be there, and for an answer of the brokers."""
ROUND_S = 1.5
"""Longest wait of a poll for a round of its group that goes on."""
JOIN_S = 5.0
"""Longest wait for the first round; then a poll takes its result over."""
RETRY_S = 0.05
SILENCE_S = 5.0
"""A waiting poll asks the brokers once it has heard nothing of them for so long."""
MAX_POLL_BYTES = 16 * 1024 * 1024
FETCH_BYTES = 16 * 1024 * 1024
PARTITION_BYTES = 2 * 1024 * 1024
FETCH_WAIT_MS = 250
"""A broker answers as soon as there is anything, and else after so long."""

T = TypeVar("T")


@timing.measured("bus", metrics.BUS_SECONDS, "commit")
class KafkaConsumer:
    """Port `Consumer`. Used by one task at a time."""

    def __init__(
        self,
        wire: Wire,
        clock: Clock,
        topics: frozenset[str],
        partitions: int,
        *,
        start: Start,
        given: dict[Partition, int],
        member: tuple[str, str] | None,
        session_timeout_s: float,
        check_crcs: bool = True,
    ) -> None:
        self._wire, self._clock = wire, clock
        self._topics, self._partitions = topics, partitions
        self._start, self._given = start, given
        self._assignment: frozenset[Partition] = frozenset()
        self._positions: dict[Partition, int] = {}
        self._committed: dict[Partition, int] = {}
        self._buffers = Buffers()
        self._heard_us = clock.monotonic_us()
        self._closed = False
        self._log = log.get("bus.consumer")
        client_id = member[1] if member else "lamppost-reader"
        self._client = wire.follow(AIOKafkaClient(**wire.client_arguments(client_id)))
        self._check_crcs = check_crcs
        self._fetch = self._fetcher()
        self._member: GroupMember | None = None
        if member is not None:
            self._member = GroupMember(
                self._client,
                wire,
                clock,
                group=member[0],
                name=member[1],
                topics=topics,
                partitions=partitions,
                session_timeout_s=session_timeout_s,
            )

    @property
    def assignment(self) -> frozenset[Partition]:
        return self._assignment

    @property
    def positions(self) -> Mapping[Partition, int]:
        return dict(self._positions)

    async def begin(self) -> None:
        """Connect, and join the group or take every partition. UNAVAILABLE while the brokers
        are."""
        try:
            async with asyncio.timeout(self._wire.request_timeout_s):
                await self._client.bootstrap()
                await self._start_fetching()
        except AWAY as error:
            raise away(error) from error
        member = self._member
        if member is None:
            await self._assign(
                frozenset((topic, n) for topic in self._topics for n in range(self._partitions))
            )
            return
        member.begin()
        await member.wait_joined(JOIN_S)
        await self._follow_group()

    async def poll(self, max_records: int = 500, timeout_s: float = 1.0) -> list[Record]:
        self._check_open()
        member, clock = self._member, self._clock
        deadline_us = clock.monotonic_us() + round(timeout_s * SECOND_US)
        if member is not None:
            member.called_us = clock.monotonic_us()
        while True:
            await self._follow_group()
            left_s = (deadline_us - clock.monotonic_us()) / SECOND_US
            if timeout_s <= 0:
                return await self._poll_now(max_records)
            if records := await self._take(max_records, min(SLICE_S, max(left_s, 0))):
                return records
            if left_s <= 0:
                return []
            await self._notice_silence()

    async def _poll_now(self, max_records: int) -> list[Record]:
        """What is there, with the changes of the group that it takes to get it."""
        deadline_us = self._clock.monotonic_us() + round(LOOK_S * SECOND_US)
        while True:
            if records := await self._take(max_records, 0):
                return records
            if not await self._look() or self._clock.monotonic_us() > deadline_us:
                return await self._take(max_records, 0)
            if self._member is not None and self._member.changed.is_set():
                await self._follow_group()
            elif records := await self._take(max_records, SLICE_S):
                return records

    async def commit(self, records: Sequence[Record]) -> None:
        self._check_open()
        member = self._member
        if member is None or not records:
            return
        member.called_us = self._clock.monotonic_us()
        following: dict[Partition, int] = {}
        for record in records:
            place = (record.topic, record.partition)
            following[place] = max(following.get(place, 0), record.offset + 1)
        if member.lost or member.fenced or not following.keys() <= self._assignment:
            raise member.conflict()
        ahead = {
            place: offset
            for place, offset in following.items()
            if offset > self._committed.get(place, -1)
        }
        if ahead:
            await member.commit(ahead)
            self._committed.update(ahead)

    async def owners(self) -> Mapping[Partition, str]:
        self._check_open()
        return {} if self._member is None else await self._member.owners()

    async def seek_to_beginning(self, partitions: frozenset[Partition]) -> None:
        self._check_open()
        if strange := partitions - self._assignment:
            raise LamppostError(Kind.INVALID, f"Not assigned here: {sorted(strange)}.")
        for place, offset in (await self._ask(dict.fromkeys(partitions, EARLIEST))).items():
            self._positions[place] = offset
            self._buffers.forget(place)
            self._fetch.seek(self._at(place), offset)

    async def close(self) -> None:
        """Leave the group at once. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._member is not None:
            await self._member.leave()
        await self._end()

    async def drop(self) -> None:
        """Stop without leaving, as a killed process does."""
        if self._closed:
            return
        self._closed = True
        if self._member is not None:
            await self._member.drop()
        await self._end()

    async def _end(self) -> None:
        await end_fetching(self._fetch)
        with contextlib.suppress(*AWAY):
            await self._client.close()

    # The group

    async def _follow_group(self) -> None:
        """Take over what the last round gave, and let go of what it did not."""
        member = self._member
        if member is None:
            return
        if member.fenced:
            await self._assign(frozenset())
            raise member.conflict()
        if member.refused is not None:
            raise member.refused
        if member.lost:
            # Others may have had all of it meanwhile: begin where the group is.
            member.lost = False
            await self._assign(frozenset())
        if member.changed.is_set():
            member.changed.clear()
            try:
                await self._take_over(member)
            except BaseException:
                member.changed.set()  # Not done: the next poll tries again.
                raise

    async def _take_over(self, member: GroupMember) -> None:
        granted = member.granted
        gone = self._assignment - granted
        member.shown = self._assignment | granted
        await self._assign(granted)
        member.shown = granted
        if gone:
            member.rejoin()

    async def _assign(self, mine: frozenset[Partition]) -> None:
        """Read these partitions: those that stay from where they are, the others from where the
        group is, or as the start says."""
        if mine == self._assignment and mine:
            return
        fresh = await self._starts(mine - self._assignment)
        positions = {place: at for place, at in self._positions.items() if place in mine} | fresh
        self._buffers.keep(mine)
        self._committed = {p: at for p, at in self._committed.items() if p in mine}
        if self._assignment and not mine:
            self._fetch.unsubscribe()
        self._positions, self._assignment = positions, mine
        self._fetch_on()
        if self._member is not None and not mine:
            self._member.shown = frozenset()

    def _fetch_on(self) -> None:
        """Fetch what is assigned, from where it was read to."""
        if self._assignment:
            self._fetch.assign([self._at(place) for place in sorted(self._assignment)])
        for place, offset in self._positions.items():
            self._fetch.seek(self._at(place), self._buffers.following(place, offset))

    def _fetcher(self) -> AIOKafkaConsumer:
        made = AIOKafkaConsumer(
            **self._wire.client_arguments("lamppost-fetch"),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=FETCH_WAIT_MS,
            fetch_max_bytes=FETCH_BYTES,
            max_partition_fetch_bytes=PARTITION_BYTES,
            check_crcs=self._check_crcs,
        )
        self._wire.follow(made._client)
        return made

    async def _start_fetching(self) -> None:
        await self._fetch.start()
        # What waits in our buffers keeps no other partition from being fetched.
        self._fetch._fetcher._prefetch_backoff = 0.005

    async def _revive(self) -> None:
        """aiokafka's fetching task has ended by an error: nothing would ever come again."""
        self._log.error("fetching begins anew", assigned=len(self._assignment))
        broken, self._fetch = self._fetch, self._fetcher()
        await self._start_fetching()
        self._fetch_on()
        await end_fetching(broken)

    async def _starts(self, fresh: frozenset[Partition]) -> dict[Partition, int]:
        if not fresh:
            return {}
        member = self._member
        done: dict[Partition, int] = {}
        if member is not None:
            done = await self._patiently(lambda: member.committed(fresh))
            self._committed.update(done)
        ends = await self._ask(dict.fromkeys(fresh, LATEST))
        firsts = await self._ask(dict.fromkeys(fresh, EARLIEST))
        resumed = done if self._start != "earliest" else {}
        found = {}
        for place in fresh:
            default = ends[place] if self._start == "latest" else firsts[place]
            at = self._given.pop(place, resumed.get(place, default))
            # A position past the end is of a log that is gone: begin as if there were none.
            found[place] = max(at, firsts[place]) if at <= ends[place] else default
        return found

    # Records

    async def _take(self, max_records: int, wait_s: float) -> list[Record]:
        """What is here, from all partitions in turn; else what comes within the time."""
        await self._fill(0)
        if wait_s > 0 and self._buffers.is_empty:
            if self._assignment:
                await self._fill(wait_s)
            else:
                await self._clock.sleep(min(wait_s, SLICE_S))
                self._check_open()
        found = self._buffers.drain(max_records, MAX_POLL_BYTES)
        for record in found:
            self._positions[record.topic, record.partition] = record.offset + 1
        return found

    async def _fill(self, wait_s: float) -> None:
        """Move what aiokafka has fetched into the buffers that are empty."""
        empty = [self._at(p) for p in self._assignment if not self._buffers.has(p)]
        if not empty:
            return
        try:
            if self._fetch._fetcher.error_future.done():
                await self._revive()
            found = await self._fetch.getmany(*empty, timeout_ms=round(wait_s * 1000))
        except AWAY as error:
            raise away(error) from error
        finally:
            self._check_open()
        for at, records in found.items():
            place = (self._wire.own(at.topic), at.partition)
            position = self._positions.get(place)
            if position is None:
                continue
            self._heard_us = self._clock.monotonic_us()
            self._buffers.put(
                place, (record_of(place, one) for one in records if one.offset >= position)
            )

    async def _look(self) -> bool:
        """Ask whether there is more: in the log, or of the group. Whether the poll goes on."""
        member = self._member
        if member is not None:
            await self._patiently(member.look)
            if member.joining and not await member.wait_joined(ROUND_S):
                return False
            if member.changed.is_set():
                return True
        if not self._assignment:
            return False
        ends = await self._ask(dict.fromkeys(self._assignment, LATEST))
        return any(self._positions[place] < end for place, end in ends.items())

    async def _notice_silence(self) -> None:
        """UNAVAILABLE from a poll that waits for brokers that are not there."""
        heard_us = max(self._heard_us, self._member.heard_us if self._member else 0)
        if self._clock.monotonic_us() - heard_us > SILENCE_S * SECOND_US:
            if self._member is not None and not self._assignment:
                await self._patiently(self._member.look)
            await self._ask(dict.fromkeys(self._assignment, LATEST))

    async def _ask(self, places: Mapping[Partition, int]) -> dict[Partition, int]:
        return await self._patiently(lambda: list_offsets(self._client, self._wire, places))

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """An answer of the brokers, asked again while it may yet come; UNAVAILABLE after
        `LOOK_S`."""
        last: BaseException | None = None
        try:
            async with asyncio.timeout(LOOK_S):
                while True:
                    try:
                        found = await work()
                    except errors.KafkaError as error:
                        if not error.retriable:
                            raise
                        last = error
                    else:
                        self._heard_us = self._clock.monotonic_us()
                        return found
                    await self._clock.sleep(RETRY_S)
                    self._check_open()
        except AWAY as error:
            raise away(last or error) from error

    def _at(self, place: Partition) -> TopicPartition:
        return TopicPartition(self._wire.topic(place[0]), place[1])

    def _check_open(self) -> None:
        if self._closed:
            raise LamppostError(Kind.CLOSED, "The consumer is closed.")
