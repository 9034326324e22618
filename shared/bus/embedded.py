"""The embedded bus: Kafka's promises on SQLite files, for the processes of one machine.

Durable topics lie in one file beside the database; an acknowledged publish is synced to disk.
`frames` lies in a small ring in memory (shared/bus/frames.py). Records of the same process are
noticed at once, those of other processes soon after (shared/bus/watch.py). See
docs/architecture.md, "Ports".
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared import ids, log, metrics, timing
from shared.bus import Consumer, Message, Partition, Start, damage, log_table
from shared.bus.consumer import EmbeddedConsumer
from shared.bus.frames import RING_BYTES, FrameFolder
from shared.bus.groups import Member
from shared.bus.store import Store
from shared.bus.watch import Watch
from shared.clock import SECOND_US, Clock
from shared.errors import Kind, LamppostError
from shared.messages import ALL_TOPICS, Topic

MAX_PUBLISH = 10_000
"""Most messages in one publish, which is one transaction."""
HEADERS_MAX_BYTES = 16 * 1024
FRAMES_CUT_BYTES = RING_BYTES // 32
"""The ring is cut each time this process has added so much; its overshoot is bounded by it."""


@timing.measured("bus", metrics.BUS_SECONDS, "publish")
class EmbeddedBus:
    """Port `Bus` on local files. Every process of an installation opens its own."""

    def __init__(
        self,
        durable: Store,
        frames: Store,
        folder: FrameFolder,
        *,
        clock: Clock,
        partitions: int,
        session_timeout_s: float,
    ) -> None:
        self.clock = clock
        self.partition_count = partitions
        self.session_timeout_us = round(session_timeout_s * SECOND_US)
        self._durable = durable
        self._frames = frames
        self._folder = folder
        self._consumers: set[EmbeddedConsumer] = set()
        self._watch = Watch(self._read_stores, self.notify)
        self._closed = False
        self._frame_bytes = 0
        self._log = log.get("bus")
        self._limiter = log.Limiter(clock)

    @classmethod
    async def open(
        cls, path: Path, *, clock: Clock, partitions: int, session_timeout_s: float
    ) -> EmbeddedBus:
        """Open or make the files; INVALID when they were made with other partitions. A damaged log
        is moved aside and made anew; CORRUPT when another process has it open."""
        folder = FrameFolder(path)
        durable = await _open_log(path, folder, partitions, clock.now_us())
        try:
            frames = await Store.open(await asyncio.to_thread(folder.acquire), "OFF")
        except BaseException:
            await durable.close()
            await asyncio.to_thread(folder.release)
            raise
        return cls(
            durable,
            frames,
            folder,
            clock=clock,
            partitions=partitions,
            session_timeout_s=session_timeout_s,
        )

    async def publish(self, messages: Sequence[Message]) -> None:
        self._check_open()
        if len(messages) > MAX_PUBLISH:
            raise LamppostError(Kind.TOO_LARGE, f"At most {MAX_PUBLISH} messages a publish.")
        kept: list[Message] = []
        passing: list[Message] = []
        for message in messages:
            (kept if check(message).durable else passing).append(message)
        now_us = self.clock.now_us()
        if kept:
            await self._durable.write(
                lambda c: log_table.append(c, kept, self.partition_count, now_us)
            )
        if passing:
            await self._publish_passing(passing, now_us)
        self.notify()

    async def _publish_passing(self, messages: list[Message], now_us: int) -> None:
        """Into the ring. A full or locked ring drops these records: nobody waits for a frame."""
        self._frame_bytes += sum(len(m.value) + log_table.RECORD_OVERHEAD for m in messages)
        cut = self._frame_bytes >= FRAMES_CUT_BYTES

        def put(c: sqlite3.Connection) -> int:
            log_table.append(c, messages, self.partition_count, now_us)
            return log_table.drop_oldest(c, RING_BYTES) if cut else 0

        try:
            dropped = await self._frames.write(put)
        except LamppostError as error:
            if error.kind not in (Kind.UNAVAILABLE, Kind.FULL):
                raise
            dropped = len(messages)
            if (held := self._limiter.allow("frames")) is not None:
                self._log.warning("frames dropped", cause=str(error), withheld=held)
        else:
            self._frame_bytes = 0 if cut else self._frame_bytes
        if dropped:
            metrics.BUS_DROPPED.labels(messages[0].topic).inc(dropped)

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
        for topic in topics:
            find(topic)
        made = EmbeddedConsumer(
            self,
            frozenset(topics),
            Member(group, member or f"m-{ids.new_id()}", ids.new_id()) if group else None,
            start,
            dict(positions or {}),
        )
        await made.begin()
        self._consumers.add(made)
        self._watch.begin()
        return made

    async def partitions(self, topic: str) -> int:
        self._check_open()
        find(topic)
        return self.partition_count

    async def reach(self) -> None:
        self._check_open()
        await self._durable.version()

    async def trim(self, now_us: int) -> int:
        self._check_open()
        dropped = 0
        for topic in ALL_TOPICS.values():
            while True:
                found = await self.store(topic.name).write(
                    lambda c, topic=topic: log_table.trim(c, topic, now_us)  # type: ignore[misc]
                )
                dropped += found
                if found < log_table.TRIM_BATCH:
                    break
        return dropped

    async def close(self) -> None:
        if self._closed:
            return
        for consumer in list(self._consumers):
            try:
                await consumer.close()
            except LamppostError as error:
                self._log.warning("left without saying so", cause=str(error))
        await self.abandon()

    async def abandon(self) -> None:
        """Let go of the files without leaving any group, as a killed process does."""
        self._closed = True
        await self._watch.end()
        for consumer in list(self._consumers):
            await consumer.drop()
        await self._durable.close()
        await self._frames.close()
        await asyncio.to_thread(self._folder.release)

    def store(self, topic: str) -> Store:
        """The store that a topic lies in."""
        return self._durable if ALL_TOPICS[topic].durable else self._frames

    @property
    def durable(self) -> Store:
        """The store that also holds the groups."""
        return self._durable

    def notify(self) -> None:
        """Wake this process's readers: there may be something for them."""
        for consumer in self._consumers:
            consumer.wake()

    def _read_stores(self) -> set[Store]:
        return {store for consumer in self._consumers for store in consumer.stores()}

    def forget(self, consumer: EmbeddedConsumer) -> None:
        """A consumer was closed."""
        self._consumers.discard(consumer)

    def _check_open(self) -> None:
        if self._closed:
            raise LamppostError(Kind.CLOSED, "The bus is closed.")


async def _open_log(path: Path, folder: FrameFolder, partitions: int, now_us: int) -> Store:
    """The durable store, read through where recording depends on it."""

    async def attempt() -> Store:
        store = await Store.open(path, "FULL")
        try:
            await store.write(lambda c: _check_partitions(c, partitions))
            await store.read(damage.read_vital)
        except BaseException:
            await store.close()
            raise
        return store

    found = await asyncio.to_thread(damage.file_id, path)
    cause = "It was found damaged while it was in use."
    if not await asyncio.to_thread(damage.is_marked, path):
        try:
            return await attempt()
        except LamppostError as error:
            if error.kind is not Kind.CORRUPT:
                raise
            cause = error.message
    aside = await asyncio.to_thread(damage.set_aside, path, found, folder.lock_path, now_us)
    if aside is not None:
        log.get("bus").error(
            "the bus was damaged and is made anew",
            cause=cause,
            aside=aside.name,
            lost="events of the last 24 hours that were told already; no footage and no row",
        )
    return await attempt()


def find(name: str) -> Topic:
    """The topic of that name, or INVALID."""
    topic = ALL_TOPICS.get(name)
    if topic is None:
        raise LamppostError(
            Kind.INVALID, f"There is no topic {name!r}.", fix="shared/messages.py names them all."
        )
    return topic


def check(message: Message) -> Topic:
    """The message's topic; INVALID or TOO_LARGE when it cannot be taken."""
    topic = find(message.topic)
    if len(message.value) > topic.max_bytes:
        raise LamppostError(
            Kind.TOO_LARGE,
            f"{len(message.value)} bytes are over the {topic.max_bytes} of topic {topic.name}.",
        )
    size = 0
    for name, value in message.headers:
        size += len(name) + len(value)
    if size > HEADERS_MAX_BYTES:
        raise LamppostError(
            Kind.TOO_LARGE, f"Headers are over the {HEADERS_MAX_BYTES} bytes of a message."
        )
    return topic


def _check_partitions(c: sqlite3.Connection, partitions: int) -> None:
    """A key must stay in its partition: the number is fixed when the file is made."""
    c.execute(
        "INSERT INTO meta (name, value) VALUES ('partitions', ?) ON CONFLICT (name) DO NOTHING",
        (partitions,),
    )
    made = c.execute("SELECT value FROM meta WHERE name = 'partitions'").fetchone()[0]
    if made != partitions:
        raise LamppostError(
            Kind.INVALID,
            f"The bus was made with {made} partitions, the settings say {partitions}.",
            fix=f"Set stores.bus_partitions to {made}.",
        )
