"""The outbox: an event is written in the transaction that makes it true, and published after.

A service calls `add` inside its write transaction; its `Relay` publishes the rows in order of id
and deletes them afterwards. A crash between the two publishes a row again with the same `ce_id`,
so a consumer that remembers what it did is never wrong (docs/architecture.md, invariant 9).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from shared import civil, ids, log, metrics
from shared.bus import Message
from shared.db import tables
from shared.errors import Kind, LamppostError
from shared.lease import Lease
from shared.messages import TOPICS, Event, Headers, cloud_headers, encode
from shared.platform import Platform
from shared.runtime import Backoff, Stop

BATCH = 200
IDLE_S = 0.5
COLUMNS = ("service", "topic", "key", "value", "headers", "created_at_us")
SET_ASIDE = "bad:"
"""Prefix of the service name of a row that the bus will never take; kept for a person to see."""

_headers = msgspec.msgpack.Decoder(Headers)
_pack = msgspec.msgpack.Encoder().encode
_table = tables.outbox


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
        self, platform: Platform, service: str, *, batch: int = BATCH, holder: str = ""
    ) -> None:
        self._platform = platform
        self._service = service
        self._batch = batch
        self._lease = Lease(platform, f"outbox:{service}", holder=holder)
        self._wake = asyncio.Event()
        self._log = log.get(f"{service}.outbox")

    def wake(self) -> None:
        """Rows were committed: publish them now, not at the next look."""
        self._wake.set()

    async def run(self, stop: Stop) -> None:
        """Publish until the stop, then once more what is there."""
        backoff = Backoff(0.2, 5.0)
        while not stop.is_set:
            try:
                busy = await self.run_once()
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
        rows = await self._rows()
        if rows:
            known = self._lease.is_held
            if not await self._lease.hold():
                return False  # Another replica publishes them.
            if not known:  # It may have done so since the look.
                rows = await self._rows()
        if not rows:
            metrics.OUTBOX_ROWS.labels(self._service).set(0)
            return False
        messages = [
            Message(row.topic, row.key, row.value, _headers.decode(row.headers)) for row in rows
        ]
        try:
            await self._platform.bus.publish(messages)
            bad: list[int] = []
        except LamppostError as error:
            if error.kind not in (Kind.INVALID, Kind.TOO_LARGE):
                raise
            bad = await self._one_by_one([row.id for row in rows], messages)
        await self._settle([row.id for row in rows if row.id not in bad], bad)
        return True

    async def _rows(self) -> Sequence[sa.Row[Any, Any, Any, Any, Any]]:
        query = (
            sa.select(_table.c.id, _table.c.topic, _table.c.key, _table.c.value, _table.c.headers)
            .where(_table.c.service == self._service)
            .order_by(_table.c.id)
            .limit(self._batch)
        )
        async with self._platform.database.read() as connection:
            return (await connection.execute(query)).all()

    async def _one_by_one(self, ids: list[int], messages: list[Message]) -> list[int]:
        """The bus refused the batch for good: find which rows, publish the others."""
        bad = []
        for row_id, message in zip(ids, messages, strict=True):
            try:
                await self._platform.bus.publish([message])
            except LamppostError as error:
                if error.kind not in (Kind.INVALID, Kind.TOO_LARGE):
                    raise
                bad.append(row_id)
                metrics.BUS_POISON.labels(message.topic).inc()
                self._log.error("event set aside", row=row_id, cause=str(error))
        return bad

    async def _settle(self, done: list[int], bad: list[int]) -> None:
        mine = _table.c.service == self._service
        async with self._platform.database.write() as connection:
            await connection.execute(sa.delete(_table).where(_table.c.id.in_(done)))
            if bad:
                name = (SET_ASIDE + self._service)[:16]
                await connection.execute(
                    sa.update(_table).where(_table.c.id.in_(bad)).values(service=name)
                )
            waiting = await connection.scalar(
                sa.select(sa.func.count()).select_from(_table).where(mine)
            )
        metrics.OUTBOX_ROWS.labels(self._service).set(waiting or 0)

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
