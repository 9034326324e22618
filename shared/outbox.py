"""The outbox: an event is written in the transaction that makes it true, and published after.

A service calls `add` inside its write transaction; its `Relay` publishes the rows in order of id
and deletes them afterwards. A crash between the two publishes a row again with the same `ce_id`,
so a consumer that remembers what it did is never wrong (docs/architecture.md, invariant 9).

On PostgreSQL the relay publishes a batch while the one before is deleted and the one after is read.
Batches are deleted in the order in which they were published, so that what is told again is told
from its first row to the newest: nothing old is ever the last that was said of a key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from shared import civil, ids, log, metrics
from shared.bus import Message
from shared.clock import SECOND_US
from shared.db import dialects, tables
from shared.errors import Kind, LamppostError
from shared.lease import Lease
from shared.messages import TOPICS, Event, Headers, cloud_headers, encode
from shared.platform import Platform
from shared.runtime import Backoff, Stop

BATCH = 200
LARGE_BATCH = 1_000
"""On PostgreSQL, where a look and a delete cost visits to a server."""
BATCH_BYTES = 8 * 1024 * 1024
"""Values of a large batch end with the one that goes past this."""
COUNT_US = SECOND_US
"""How many rows wait is counted so often, which takes longer the more they are."""
IDLE_S = 0.5
COLUMNS = ("service", "topic", "key", "value", "headers", "created_at_us")
SET_ASIDE = "bad:"
"""Prefix of the service name of a row that the bus will never take; kept for a person to see."""

_headers = msgspec.msgpack.Decoder(Headers)
_pack = msgspec.msgpack.Encoder().encode
_table = tables.outbox
Rows: TypeAlias = Sequence[sa.Row[Any, Any, Any, Any, Any, Any]]


def event(topic: str, key: str, value: Event, *, source: str, at_us: int) -> Message:
    """A message of an event with its CloudEvents headers; `ce_id` is fixed from here on."""
    return events(topic, key, (value,), source=source, at_us=at_us)[0]


def events(
    topic: str, key: str, values: Sequence[Event], *, source: str, at_us: int
) -> list[Message]:
    """Messages of events of one kind and instant: their headers differ in `ce_id` alone."""
    if not values:
        return []
    kind = str(values[0].__struct_config__.tag)
    common = cloud_headers(kind, f"lamppost/{source}", civil.rfc3339(at_us), event_id="-")
    place = next(at for at, (name, _) in enumerate(common) if name == "ce_id")
    before, after = common[:place], common[place + 1 :]
    return [
        Message(topic, key, encode(value), (*before, ("ce_id", event_id.encode()), *after))
        for value, event_id in zip(values, ids.new_ids(len(values)), strict=True)
    ]


async def add(
    connection: AsyncConnection, service: str, messages: Sequence[Message], *, at_us: int
) -> None:
    """Write messages beside what they tell of, in the caller's transaction.

    INVALID for an unknown topic, TOO_LARGE for a value its topic will not take: the transaction
    fails now, where somebody is told, and not later in the relay.
    """
    if not messages:
        return
    for message in messages:
        check(message)
    rows = [
        (service, message.topic, message.key, message.value, _pack(message.headers), at_us)
        for message in messages
    ]
    if connection.dialect.name == "sqlite":
        # Past SQLAlchemy's own work on each value: a purge writes thousands of rows.
        await connection.exec_driver_sql(_sqlite_insert(), rows)
    else:
        values = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        await connection.execute(sa.insert(_table), values)


@cache
def _sqlite_insert() -> str:
    """The statement as SQLite's driver takes it, its marks in the order of the columns."""
    compiled = sa.insert(_table).compile(dialect=sqlite.dialect(), column_keys=COLUMNS)
    assert compiled.positiontup == list(COLUMNS)
    return str(compiled)


def check(message: Message) -> None:
    """Refuse what no bus would take."""
    topic = TOPICS.get(message.topic)
    if topic is None:
        raise LamppostError(Kind.INVALID, f"There is no topic {message.topic!r}.")
    if len(message.value) > topic.max_bytes:
        raise LamppostError(
            Kind.TOO_LARGE,
            f"{len(message.value)} bytes are over the {topic.max_bytes} of topic {topic.name}.",
        )


class Relay:
    """Publishes one service's outbox rows. Of a service's replicas the one with the lease does it,
    so that rows keep their order and nothing is told twice but after a death."""

    def __init__(
        self, platform: Platform, service: str, *, batch: int = 0, holder: str = ""
    ) -> None:
        self._platform = platform
        self._service = service
        self._apart = platform.database.dialect == "postgresql"
        """Whether the database is a server, which reads and deletes at the same time."""
        self._batch = batch or (LARGE_BATCH if self._apart else BATCH)
        self._lease = Lease(platform, f"outbox:{service}", holder=holder)
        self._wake = asyncio.Event()
        self._counted_us = -COUNT_US
        self._log = log.get(f"{service}.outbox")

    def wake(self) -> None:
        """Rows were committed: publish them now, not at the next look."""
        self._wake.set()

    async def run(self, stop: Stop) -> None:
        """Publish until the stop, then once more what is there."""
        backoff = Backoff(0.2, 5.0)
        while not stop.is_set:
            try:
                busy = await self._run_on(stop)
                backoff.reset()
            except LamppostError as error:
                self._log.warning("outbox waits", kind=error.kind.value, cause=str(error))
                await stop.sleep(self._platform.clock, backoff.next_s())
                continue
            if not busy:
                await self._wait(stop)
        try:
            await self.run_once()
            await self._lease.release()
        except LamppostError as error:
            self._log.warning("outbox kept for the next start", cause=str(error))

    async def run_once(self) -> bool:
        """Publish and delete one batch; whether there was anything."""
        self._wake.clear()
        rows = await self._mine(await self._rows(()), ())
        if rows:
            await self._settle(rows, await self._publish(rows))
        return bool(rows)

    async def _run_on(self, stop: Stop) -> bool:
        """As `run_once`; on PostgreSQL as long as there is anything, each batch published while
        the one before is deleted and the one after is read."""
        if not self._apart:
            return await self.run_once()
        self._wake.clear()
        settling: asyncio.Task[None] | None = None
        going: list[int] = []
        reading = asyncio.create_task(self._rows(going))
        try:
            while not stop.is_set and (rows := await self._mine(await reading, going)):
                mine = [row.id for row in rows]
                reading = asyncio.create_task(self._rows([*going, *mine]))
                bad = await self._publish(rows)
                if settling is not None:
                    # Where that one's rows stay, these stay too, and all are told again in order.
                    before, settling = settling, None
                    await before
                going = mine
                settling = asyncio.create_task(self._settle(rows, bad))
        finally:
            await asyncio.gather(reading, return_exceptions=True)
            if settling is not None:
                await settling
        return bool(going)

    async def _mine(self, rows: Rows, going: Sequence[int]) -> Rows:
        """The rows that were read, or read again; none while another replica publishes them."""
        if rows:
            known = self._lease.is_held
            if not await self._lease.hold():
                return []  # Another replica publishes them.
            if not known:  # It may have done so since the look.
                rows = await self._rows(going)
        # As of now: where the bus or the database is away it stays, and grows old.
        oldest_us = rows[0].created_at_us if rows else 0
        metrics.OUTBOX_OLDEST.labels(self._service).set(oldest_us / SECOND_US)
        if not rows:
            metrics.OUTBOX_ROWS.labels(self._service).set(0)
        return rows

    async def _rows(self, going: Sequence[int]) -> Rows:
        """The next rows but for those that are being published or deleted."""
        c = _table.c
        query = (
            sa.select(c.id, c.topic, c.key, c.value, c.headers, c.created_at_us)
            .where(c.service == self._service)
            .order_by(c.id)
            .limit(self._batch)
        )
        if self._apart:
            query = _within_bytes(query.where(c.id != sa.all_(_ids(going))) if going else query)
        async with self._platform.database.read() as connection:
            return (await connection.execute(query)).all()

    async def _publish(self, rows: Rows) -> set[int]:
        """Publish rows; which of them the bus will never take."""
        messages = [
            Message(row.topic, row.key, row.value, _headers.decode(row.headers)) for row in rows
        ]
        try:
            await self._platform.bus.publish(messages)
        except LamppostError as error:
            if error.kind not in (Kind.INVALID, Kind.TOO_LARGE):
                raise
            return await self._one_by_one([row.id for row in rows], messages)
        return set()

    async def _one_by_one(self, ids: list[int], messages: list[Message]) -> set[int]:
        """The bus refused the batch for good: find which rows, publish the others."""
        bad = set()
        for row_id, message in zip(ids, messages, strict=True):
            try:
                await self._platform.bus.publish([message])
            except LamppostError as error:
                if error.kind not in (Kind.INVALID, Kind.TOO_LARGE):
                    raise
                bad.add(row_id)
                metrics.BUS_POISON.labels(message.topic).inc()
                self._log.error("event set aside", row=row_id, cause=str(error))
        return bad

    async def _settle(self, rows: Rows, bad: set[int]) -> None:
        """Delete what was published, and set aside what cannot be."""
        done = [row.id for row in rows if row.id not in bad]
        clock = self._platform.clock
        waiting: int | None = None
        async with self._platform.database.write() as connection:
            mine = _table.c.id == sa.any_(_ids(done)) if self._apart else _table.c.id.in_(done)
            await connection.execute(sa.delete(_table).where(mine))
            if bad:
                name = (SET_ASIDE + self._service)[:16]
                await connection.execute(
                    sa.update(_table).where(_table.c.id.in_(bad)).values(service=name)
                )
            if clock.monotonic_us() - self._counted_us >= COUNT_US:
                self._counted_us = clock.monotonic_us()
                query = sa.select(sa.func.count()).select_from(_table)
                waiting = await connection.scalar(query.where(_table.c.service == self._service))
        if waiting is not None:
            metrics.OUTBOX_ROWS.labels(self._service).set(waiting)

    async def _wait(self, stop: Stop) -> None:
        """Until `wake`, the stop, or the next look."""
        waits = {
            asyncio.ensure_future(self._wake.wait()),
            asyncio.ensure_future(stop.wait()),
            asyncio.ensure_future(self._platform.clock.sleep(IDLE_S)),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


def _ids(ids: Sequence[int]) -> sa.BindParameter[Any]:
    """As one parameter, an array."""
    return sa.bindparam(None, list(ids), type_=dialects.array(sa.BigInteger()))


def _within_bytes(query: sa.Select[Any]) -> sa.Select[Any]:
    """Of a query's rows the first ones, up to `BATCH_BYTES` of values; at least one."""
    found = query.subquery("found")
    size = sa.func.octet_length(found.c.value)
    before = sa.func.sum(size).over(order_by=found.c.id, rows=(None, -1))
    sized = sa.select(found, sa.func.coalesce(before, 0).label("before")).subquery("sized")
    names = [column.name for column in found.c]
    return (
        sa.select(*(sized.c[name] for name in names))
        .where(sized.c.before < BATCH_BYTES)
        .order_by(sized.c.id)
    )
