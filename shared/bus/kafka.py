"""Port `Bus` on Kafka 4: topics, keys and groups as the embedded bus has them, across machines.

Keys are in the partition that shared/bus/partitioner.py says, whoever publishes. Brokers that are
away stop nothing here: a process starts without them, and each call ends with UNAVAILABLE that
names the cause. Known differences from the embedded bus stand in
docs/decisions/0011-what-kafka-promises.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from shared import ids, log
from shared.bus import Bus, Consumer, Message, Partition, Start, kafka_topics, kafka_wire
from shared.bus.embedded import MAX_PUBLISH, check, find
from shared.bus.kafka_consumer import KafkaConsumer
from shared.bus.kafka_producer import DurableProducer, PassingProducer
from shared.bus.kafka_reach import Reach
from shared.bus.kafka_renewal import Renewal
from shared.bus.kafka_wire import Wire, away
from shared.clock import SECOND_US, Clock
from shared.errors import Kind, LamppostError
from shared.messages import ALL_TOPICS, CAMERAS
from shared.runtime import Backoff
from shared.settings import Settings

OPEN_S = 10.0
"""Longest wait for brokers at start; then they are looked for in the background."""
CAUSE_US = 5 * SECOND_US
"""A cause that was found out holds for so long."""


class KafkaBus:
    """See the module. Belongs to one event loop."""

    def __init__(self, settings: Settings, wire: Wire, clock: Clock) -> None:
        self._settings, self._wire, self._clock = settings, wire, clock
        self._partition_count = settings.stores.bus_partitions
        self._durable = DurableProducer(wire, clock, self._partition_count, self._why)
        self._passing = PassingProducer(wire, clock, self._partition_count)
        self._renewal = Renewal(settings, wire, clock)
        self._reach = Reach(wire, clock, CAMERAS.name)
        self._consumers: set[KafkaConsumer] = set()
        self._ready = False
        self._refused: LamppostError | None = None
        self._background: list[asyncio.Task[None]] = []
        self._cause = ""
        self._cause_us = -CAUSE_US
        self._finding = asyncio.Lock()
        self._closed = False
        self._log = log.get("bus")
        self._limiter = log.Limiter(clock, interval_s=10.0)

    async def open(self) -> None:
        """Check or make the topics. INVALID when they are otherwise than the settings say. Brokers
        that are away are looked for in the background: until then every call is UNAVAILABLE."""
        try:
            async with asyncio.timeout(OPEN_S):
                await self._prepare()
        except TimeoutError:
            await self._say_why()
        except LamppostError as error:
            if not error.retryable:
                raise
            await self._say_why()
        self._background.append(asyncio.create_task(self._renewal.run()))
        if not self._ready:
            self._background.append(asyncio.create_task(self._prepare_later()))

    async def publish(self, messages: Sequence[Message]) -> None:
        self._check_open()
        if len(messages) > MAX_PUBLISH:
            raise LamppostError(Kind.TOO_LARGE, f"At most {MAX_PUBLISH} messages a publish.")
        kept: list[Message] = []
        passing: list[Message] = []
        for message in messages:
            (kept if check(message).durable else passing).append(message)
        if passing:
            self._passing.publish(passing)
        if kept:
            await self._require()
            await self._durable.publish(kept)

    async def consumer(
        self,
        topics: Sequence[str],
        *,
        group: str | None = None,
        member: str = "",
        start: Start = "committed",
        positions: Mapping[Partition, int] | None = None,
    ) -> Consumer:
        self._check_open()
        found = [find(topic) for topic in topics]
        await self._require()
        made = KafkaConsumer(
            self._wire,
            self._clock,
            frozenset(topics),
            self._partition_count,
            start=start,
            given=dict(positions or {}),
            member=(group, member or f"m-{ids.new_id()}") if group else None,
            session_timeout_s=self._settings.stores.session_timeout_s,
            # A spoiled frame is a picture that cannot be decoded; to sum 40 KB costs more.
            check_crcs=any(topic.durable for topic in found),
        )
        self._consumers.add(made)
        try:
            await made.begin()
        except LamppostError as error:
            await self._forget(made)
            if error.kind is Kind.UNAVAILABLE:
                raise await self._why(error) from error
            raise
        except BaseException:
            await self._forget(made)
            raise
        return made

    async def partitions(self, topic: str) -> int:
        self._check_open()
        find(topic)
        return self._partition_count

    async def reach(self) -> None:
        self._check_open()
        if self._refused is not None:
            raise self._refused
        if not self._ready:
            raise away(self._cause or "its topics are looked for")
        await self._reach.ask()

    async def trim(self, now_us: int) -> int:
        """Kafka drops and compacts by itself, by its own clock: always 0."""
        self._check_open()
        return 0

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._stop_background()
        await asyncio.gather(*(consumer.close() for consumer in self._consumers))
        await asyncio.gather(self._durable.close(), self._passing.close(), self._reach.close())

    async def abandon(self) -> None:
        """Let go of the brokers without leaving any group, as a killed process does."""
        self._closed = True
        await self._stop_background()
        await asyncio.gather(*(consumer.drop() for consumer in self._consumers))
        await asyncio.gather(self._durable.drop(), self._passing.drop(), self._reach.close())

    async def _stop_background(self) -> None:
        background, self._background = self._background, []
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)

    async def _forget(self, consumer: KafkaConsumer) -> None:
        self._consumers.discard(consumer)
        await consumer.close()

    # Brokers that are away

    async def _prepare(self) -> None:
        await kafka_topics.ensure(self._settings, self._wire, self._clock)
        self._ready = True
        self._durable.connect()
        self._passing.connect()

    async def _prepare_later(self) -> None:
        backoff = Backoff(0.2, 2.0)
        while not self._ready:
            await self._clock.sleep(backoff.next_s())
            # A wrong password, once it is corrected, costs no start.
            await self._renewal.look()
            try:
                await self._prepare()
            except LamppostError as error:
                if not error.retryable:
                    self._refused = error
                    self._log.error("the bus cannot be used", cause=str(error))
                    return
                await self._say_why()
        self._log.info("the bus is there", topics=len(ALL_TOPICS))

    async def _require(self) -> None:
        if self._refused is not None:
            raise self._refused
        if not self._ready:
            raise await self._why()

    async def _why(self, error: LamppostError | None = None) -> LamppostError:
        """UNAVAILABLE with its cause, found out by trying at most every few seconds."""
        async with self._finding:
            if self._clock.monotonic_us() - self._cause_us > CAUSE_US:
                self._cause = await kafka_wire.cause(self._wire)
                self._cause_us = self._clock.monotonic_us()
        if self._cause:
            return away(self._cause)
        return error or away("the brokers did not answer in time")

    async def _say_why(self) -> None:
        error = await self._why()
        if (withheld := self._limiter.allow("away")) is not None:
            self._log.warning("the bus is away", cause=str(error), withheld=withheld)

    def _check_open(self) -> None:
        if self._closed:
            raise LamppostError(Kind.CLOSED, "The bus is closed.")


async def open_bus(settings: Settings, clock: Clock) -> Bus:
    """The bus of the settings, its topics checked or made. Brokers that are away are no error: see
    `KafkaBus.open`."""
    wire = await asyncio.to_thread(kafka_wire.wire_of, settings)
    bus = KafkaBus(settings, wire, clock)
    try:
        await bus.open()
    except BaseException:
        await bus.abandon()
        raise
    return bus
