"""On PostgreSQL a batch is published while the one before is deleted, and still told in order."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from shared import outbox
from shared.bus import Message
from shared.db import Database, tables
from shared.db.coordination import lease
from shared.errors import Kind, LamppostError
from shared.messages import SegmentArchived, decode
from shared.outbox import Relay
from shared.platform import Platform
from shared.runtime import Stop
from tests.support.archiving import late_clock, opened, settings_in
from tests.support.databases import POSTGRES
from tests.support.wait import until

pytestmark = pytest.mark.skipif(not POSTGRES, reason="SQLite does one thing after the other")
HOLDER = "the relay"


class Faulty:
    """The database, whose deletes fail when told, before they are committed or after."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.dialect = database.dialect
        self.fail_before = self.fail_after = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def read(self) -> AbstractAsyncContextManager[Any]:
        return self._database.read()

    async def ensure_days(self, days: Iterable[date]) -> None:
        await self._database.ensure_days(days)

    @asynccontextmanager
    async def write(self, cameras: Iterable[str] = ()) -> AsyncIterator[Any]:
        async with self._database.write(cameras) as connection:
            yield connection
            if self.fail_before:
                self.fail_before -= 1
                raise LamppostError(Kind.UNAVAILABLE, "told to fail")
        if self.fail_after:
            self.fail_after -= 1
            raise LamppostError(Kind.UNAVAILABLE, "told to fail")


class Told:
    """A bus that remembers the numbers it was told, and can refuse to go on."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.refuse_from: int | None = None

    async def publish(self, messages: Sequence[Message]) -> None:
        found = [decode(message.value, SegmentArchived).start_us for message in messages]
        if self.refuse_from is not None and found[-1] >= self.refuse_from:
            raise LamppostError(Kind.UNAVAILABLE, "told to fail")
        self.numbers += found


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    async with opened(settings_in(tmp_path), late_clock()) as made:
        yield made


async def add(platform: Platform, *numbers: int, size: int = 1) -> None:
    messages = [
        outbox.event(
            "segments", "cam", SegmentArchived("s" * size, "cam", n, n + 1, 1, "0" * 64, 5),
            source="archive", at_us=n,
        )
        for n in numbers
    ]  # fmt: skip
    async with platform.database.write() as connection:
        await outbox.add(connection, "archive", messages, at_us=1)


async def waiting(platform: Platform) -> int:
    async with platform.database.read() as connection:
        query = sa.select(sa.func.count()).select_from(tables.outbox)
        return int(await connection.scalar(query) or 0)


def relay_of(platform: Platform, bus: Told, database: Faulty, batch: int) -> Relay:
    changed: Any = {"bus": bus, "database": database}
    return Relay(dataclasses.replace(platform, **changed), "archive", batch=batch, holder=HOLDER)


async def test_many_batches_are_told_once_and_in_order(platform: Platform) -> None:
    bus = Told()
    await add(platform, *range(50))
    relay = relay_of(platform, bus, Faulty(platform.database), 7)
    assert await relay._run_on(Stop())
    assert bus.numbers == list(range(50)) and await waiting(platform) == 0
    assert not await relay._run_on(Stop())


@pytest.mark.parametrize("committed", [False, True])
async def test_after_a_delete_that_failed_the_newest_is_told_last(
    platform: Platform, committed: bool
) -> None:
    """Rows of the first batch are told again; those of the second, which was published meanwhile,
    must be too, or the first would be the last that was said of their key."""
    bus, database = Told(), Faulty(platform.database)
    await add(platform, *range(6))
    relay = relay_of(platform, bus, database, 2)
    assert await relay._lease.hold()
    database.fail_before, database.fail_after = (0, 1) if committed else (1, 0)
    with pytest.raises(LamppostError):
        await relay._run_on(Stop())
    assert bus.numbers == [0, 1, 2, 3]
    assert await waiting(platform) == (4 if committed else 6)
    bus.numbers.clear()
    assert await relay._run_on(Stop())
    assert bus.numbers == list(range(2 if committed else 0, 6)) and await waiting(platform) == 0


async def test_a_bus_that_goes_away_between_keeps_what_it_did_not_take(platform: Platform) -> None:
    bus = Told()
    bus.refuse_from = 4
    await add(platform, *range(6))
    relay = relay_of(platform, bus, Faulty(platform.database), 2)
    with pytest.raises(LamppostError):
        await relay._run_on(Stop())
    assert bus.numbers == [0, 1, 2, 3] and await waiting(platform) == 2


async def test_the_next_batch_is_read_while_one_is_published(platform: Platform) -> None:
    """And is told after it, without what another replica told when the lease had passed to it."""
    bus, database = Told(), Faulty(platform.database)
    await add(platform, *range(6))
    relay = relay_of(platform, bus, database, 2)
    other = Relay(platform, "archive", batch=2, holder="another")
    publish = bus.publish

    async def slowly(messages: Sequence[Message]) -> None:
        await publish(messages)
        if len(bus.numbers) != 2:
            return
        # The lease runs out here while the next rows are read already.
        await asyncio.sleep(0)
        relay._lease._until_us = 0
        async with platform.database.write() as connection:
            await connection.execute(sa.delete(lease))
        assert await other._lease.hold()
        taken = sa.delete(tables.outbox).where(tables.outbox.c.id == sa.select(
            sa.func.min(tables.outbox.c.id) + 2).scalar_subquery())  # fmt: skip
        async with platform.database.write() as connection:
            await connection.execute(taken)
        await other._lease.release()

    bus.publish = slowly  # type: ignore[method-assign]
    assert await relay._run_on(Stop())
    assert bus.numbers == [0, 1, 3, 4, 5] and await waiting(platform) == 0


async def test_a_batch_ends_where_it_grows_too_large(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "BATCH_BYTES", 1_000)
    bus = Told()
    await add(platform, 0, 1, 2, 3, size=600)
    relay = relay_of(platform, bus, Faulty(platform.database), 100)
    assert await relay.run_once()
    assert bus.numbers == [0, 1]
    monkeypatch.setattr(outbox, "BATCH_BYTES", 1)
    assert await relay.run_once()
    assert bus.numbers == [0, 1, 2]


async def test_a_stop_ends_a_relay_that_has_much_to_tell(platform: Platform) -> None:
    bus, stop = Told(), Stop()
    await add(platform, *range(300))
    relay = relay_of(platform, bus, Faulty(platform.database), 1)
    running = asyncio.create_task(relay.run(stop))
    await until(lambda: len(bus.numbers) > 2)
    stop.set()
    async with asyncio.timeout(10):
        await running
    assert 2 < len(bus.numbers) < 300
    assert await waiting(platform) == 300 - len(bus.numbers)
