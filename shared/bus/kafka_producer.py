"""Publishing to Kafka: our bounded queues stand before aiokafka, whose own buffer blocks.

`DurableProducer`: idempotent, acknowledged by all in-sync replicas, for what may not be lost. A
call ends within `PUBLISH_S`, well or with UNAVAILABLE. `PassingProducer`: for `frames`. It never
waits; past its limit the oldest record goes, counted. Each call's records of one partition are one
batch, so all or none of them is stored; of calls over several see
docs/decisions/0011-what-kafka-promises.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer, errors

from shared import log, metrics, timing
from shared.bus import Message
from shared.bus.kafka_lanes import Lane, Part, Remembered, Run, name_of, size_of, split
from shared.bus.kafka_topics import BATCH_BYTES
from shared.bus.kafka_wire import AWAY, Wire, away
from shared.bus.partitioner import partition_of
from shared.clock import Clock
from shared.errors import Kind, LamppostError
from shared.runtime import Backoff

PUBLISH_S = 5.0
"""Longest wait of a caller for the brokers."""
QUEUE_BYTES = 64 * 1024 * 1024
"""Most bytes of durable messages that wait in one process."""
FRAMES_BYTES = 24 * 1024 * 1024
"""Most bytes of frames that wait: as the embedded ring."""
STOP_S = 5.0
Explain = Callable[[], Awaitable[LamppostError]]


class _Sender:
    """Lanes and the aiokafka producer that empties them, made anew when it fails for good."""

    def __init__(self, wire: Wire, clock: Clock, partitions: int, *, durable: bool) -> None:
        self._wire = wire
        self._clock = clock
        self._partitions = partitions
        self._durable = durable
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._producer: AIOKafkaProducer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connecting: asyncio.Task[None] | None = None
        self._flights = 0
        self.bytes = 0
        self.closed = False
        self.last_error: LamppostError | None = None
        self.remembered = Remembered()
        self._log = log.get("bus.producer")
        self._limiter = log.Limiter(clock)

    def lane(self, message: Message) -> Lane:
        place = (message.topic, partition_of(message.key, self._partitions))
        found = self._lanes.get(place)
        if found is None:
            found = self._lanes[place] = Lane(*place)
        return found

    def add(self, lane: Lane, part: Part) -> None:
        """Queue a part; it goes as soon as its lane is free."""
        lane.waiting.append(part)
        self.bytes += part.size
        self._pump(lane)

    def withdraw(self, lane: Lane, part: Part) -> bool:
        """Take a part back; False when it is on its way."""
        try:
            lane.waiting.remove(part)
        except ValueError:
            return False
        self.bytes -= part.size
        return True

    def oldest(self) -> Lane | None:
        """The lane whose first part waits longest, for those who must make room."""
        waiting = (lane for lane in self._lanes.values() if lane.waiting)
        return min(waiting, key=lambda lane: lane.waiting[0].number, default=None)

    def connect(self) -> None:
        """Begin to have a producer, again and again until there is one."""
        if self._connecting is None and self._producer is None and not self.closed:
            self._connecting = self._spawn(self._connect())

    async def close(self) -> None:
        """Let what is on its way land, for a moment; then end."""
        flying = [part.done for lane in self._lanes.values() for part in lane.flying]
        if flying and self._producer is not None:
            await asyncio.wait(flying, timeout=STOP_S)
        self.closed = True
        await self.drop()

    async def drop(self) -> None:
        """End at once; what is not acknowledged fails."""
        self.closed = True
        producer, self._producer = self._producer, None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if producer is not None:
            await _end(producer)
        for lane in self._lanes.values():
            for part in [*lane.landed(), *lane.waiting]:
                _fail(part, LamppostError(Kind.CLOSED, "The bus is closed."))
            lane.waiting.clear()

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _connect(self) -> None:
        backoff = Backoff(0.2, 2.0)
        try:
            while not self.closed:
                producer = self._made()
                try:
                    async with asyncio.timeout(self._wire.request_timeout_s):
                        await producer.start()
                except AWAY as error:
                    await _end(producer)
                    self.last_error = away(error)
                    await self._clock.sleep(backoff.next_s())
                    continue
                except BaseException:
                    await _end(producer)
                    raise
                self._producer, self.last_error = producer, None
                break
        finally:
            self._connecting = None
        for lane in list(self._lanes.values()):
            self._pump(lane)

    def _made(self) -> AIOKafkaProducer:
        """Batches are ours, so aiokafka's own size, linger and partitioner are not used."""
        options: dict[str, Any] = (
            {"enable_idempotence": True, "acks": "all"} if self._durable else {"acks": 1}
        )
        made = AIOKafkaProducer(
            **self._wire.client_arguments("lamppost" if self._durable else "lamppost-frames"),
            **options,
            max_batch_size=BATCH_BYTES + 64 * 1024,
            max_request_size=BATCH_BYTES + 64 * 1024,
        )
        self._wire.follow(made.client)
        return made

    def _pump(self, lane: Lane) -> None:
        if lane.flying or not lane.waiting or self.closed:
            return
        producer = self._producer
        if producer is None:
            self.connect()
            return
        batch = producer.create_batch()
        for part in lane.take(BATCH_BYTES):
            for message in part.messages:
                taken = batch.append(
                    timestamp=None,
                    key=message.key.encode(),
                    value=message.value,
                    headers=list(message.headers),
                )
                assert taken is not None, "a part is larger than its batch"
        batch.close()
        self._spawn(self._fly(producer, lane, batch))

    async def _fly(self, producer: AIOKafkaProducer, lane: Lane, batch: Any) -> None:
        failure: BaseException | None = None
        try:
            topic = self._wire.topic(lane.topic)
            future = await producer.send_batch(batch, topic, partition=lane.partition)
            await future
        except (*AWAY, AssertionError) as error:
            failure = error
        parts = lane.landed()
        self.bytes -= sum(part.size for part in parts)
        if failure is None:
            for part in parts:
                if part.abandoned:
                    self.remembered.add(part.messages)
                if not part.done.done():
                    part.done.set_result(None)
        else:
            self._failed(producer, parts, failure)
        self._pump(lane)

    def _failed(
        self, producer: AIOKafkaProducer, parts: list[Part], failure: BaseException
    ) -> None:
        """An idempotent producer that lost a batch lost its count: it is made anew."""
        self.last_error = error = _translated(failure)
        if (withheld := self._limiter.allow("failed")) is not None:
            self._log.warning("not published", cause=str(error), withheld=withheld)
        if self._durable and self._producer is producer:
            self._producer = None
            self._spawn(_end(producer))
            self.connect()
        for part in parts:
            _fail(part, error)


@timing.measured("bus", metrics.BUS_SECONDS, "publish")
class DurableProducer:
    """For topics that may not lose anything."""

    def __init__(self, wire: Wire, clock: Clock, partitions: int, explain: Explain) -> None:
        self._sender = _Sender(wire, clock, partitions, durable=True)
        self._explain = explain

    def connect(self) -> None:
        """Begin to connect, before the first message."""
        self._sender.connect()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Returns once all are stored. UNAVAILABLE within `PUBLISH_S`: what had not left is taken
        back, what had is recognised when it is published again."""
        parts, others = self._queue(messages)
        waits = {part.done for _, part in parts} | {part.done for part in others}
        if not waits:
            return
        try:
            _, pending = await asyncio.wait(waits, timeout=PUBLISH_S)
        except asyncio.CancelledError:
            self._give_up(parts)
            raise
        failures = [done.exception() for done in waits - pending if done.exception() is not None]
        if not pending and not failures:
            return
        self._give_up(parts)
        for failure in failures:
            if isinstance(failure, LamppostError):
                raise failure
        raise await self._explain()

    async def close(self) -> None:
        await self._sender.close()

    async def drop(self) -> None:
        await self._sender.drop()

    def _queue(self, messages: Sequence[Message]) -> tuple[list[tuple[Lane, Part]], set[Part]]:
        """The new parts, and those on their way that carry messages of this call already."""
        sender = self._sender
        by_lane: dict[int, tuple[Lane, list[Message]]] = {}
        others: set[Part] = set()
        for message in messages:
            lane = sender.lane(message)
            name = name_of(message)
            if name is not None:
                if sender.remembered.pop(name):
                    continue
                if (there := lane.on_its_way(name)) is not None and there.abandoned:
                    others.add(there)
                    continue
            by_lane.setdefault(id(lane), (lane, []))[1].append(message)
        loop = asyncio.get_running_loop()
        parts = [
            (lane, Part(run, loop))
            for lane, own in by_lane.values()
            for run in split(own, BATCH_BYTES)
        ]
        if sender.bytes + sum(part.size for _, part in parts) > QUEUE_BYTES:
            raise away("too much waits for the brokers already")
        for lane, part in parts:
            sender.add(lane, part)
        return parts, others

    def _give_up(self, parts: Sequence[tuple[Lane, Part]]) -> None:
        for lane, part in parts:
            if self._sender.withdraw(lane, part):
                part.done.cancel()
            elif part.done.done():
                if not part.done.cancelled() and part.done.exception() is None:
                    self._sender.remembered.add(part.messages)
            else:
                part.abandoned = True


class PassingProducer:
    """For a topic that drops rather than waits."""

    def __init__(self, wire: Wire, clock: Clock, partitions: int) -> None:
        self._sender = _Sender(wire, clock, partitions, durable=False)
        self._log = log.get("bus.producer")
        self._limiter = log.Limiter(clock)

    def connect(self) -> None:
        """Begin to connect, before the first message."""
        self._sender.connect()

    def publish(self, messages: Sequence[Message]) -> None:
        """Queue them; past the limit the oldest go."""
        loop = asyncio.get_running_loop()
        for message in messages:
            part = Part(Run([message], size_of(message)), loop)
            part.done.add_done_callback(lambda done, topic=message.topic: _count(done, topic))  # type: ignore[misc]
            self._sender.add(self._sender.lane(message), part)
        while self._sender.bytes > FRAMES_BYTES and self._drop_oldest():
            pass

    async def close(self) -> None:
        await self._sender.close()

    async def drop(self) -> None:
        await self._sender.drop()

    def _drop_oldest(self) -> bool:
        lane = self._sender.oldest()
        if lane is None:
            return False
        part = lane.waiting[0]
        self._sender.withdraw(lane, part)
        part.done.cancel()
        if (withheld := self._limiter.allow("dropped")) is not None:
            cause = self._sender.last_error
            self._log.warning(
                "frames dropped", cause=str(cause or "the brokers are slow"), withheld=withheld
            )
        return True


def _count(done: asyncio.Future[None], topic: str) -> None:
    """A record that did not reach the brokers was dropped."""
    if done.cancelled() or done.exception() is not None:
        metrics.BUS_DROPPED.labels(topic).inc()


def _fail(part: Part, error: LamppostError) -> None:
    if not part.done.done():
        part.done.set_exception(error)
        # Looked at here: its caller may have gone.
        part.done.exception()


def _translated(failure: BaseException) -> LamppostError:
    if isinstance(failure, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError):
        return LamppostError(
            Kind.TOO_LARGE,
            "The brokers refuse a batch for its size.",
            fix="Raise message.max.bytes at the brokers, or max.message.bytes of the topic.",
        )
    if isinstance(failure, errors.TopicAuthorizationFailedError):
        return LamppostError(
            Kind.UNAVAILABLE,
            f"This user may not write to {failure}.",
            fix="Grant it Write on Lamppost's topics.",
        )
    return away(failure)


class _Lenient(set[Any]):
    """Batches of a producer that ends: each leaves once, or twice, in whatever order."""

    def remove(self, batch: Any) -> None:
        self.discard(batch)


async def _end(producer: AIOKafkaProducer) -> None:
    """Stop it without waiting for brokers that are away: what it still holds fails.

    aiokafka would send it all first, for as long as that takes. So its batches are failed, its
    connections closed, and whoever waits for metadata let go.
    """
    accumulator, client = producer._message_accumulator, producer.client
    queued = [batch for queue in accumulator._batches.values() for batch in queue]
    accumulator._pending_batches = held = _Lenient([*accumulator._pending_batches, *queued])
    accumulator.fail_all(errors.ProducerClosed())
    for future in [f for batch in held for f in (batch.future, batch._drain_waiter)]:
        if future.done() and not future.cancelled():
            future.exception()  # Looked at here: nobody else may be left to do so.
    try:
        async with asyncio.timeout(STOP_S):
            await client.close()
            client._md_update_fut = asyncio.get_running_loop().create_future()
            client._md_update_fut.set_result(False)
            await producer.stop()
    except (*AWAY, AssertionError, KeyError) as error:
        log.get("bus.producer").warning("a producer did not end in order", cause=repr(error))
