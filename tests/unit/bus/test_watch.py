"""What other processes write is noticed by one look for all who wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared.bus.embedded import EmbeddedBus
from shared.bus.store import Store
from shared.bus.watch import TICK_S, Watch
from shared.clock import SECOND_US, SimulatedClock, SystemClock
from shared.errors import Kind, LamppostError
from tests.support.bus_harness import EmbeddedHarness, status, values
from tests.support.wait import until

CLOCK = SystemClock()


class FakeStore:
    """Counts its looks."""

    def __init__(self) -> None:
        self.written = 0
        self.looks = 0
        self.away = False

    def look(self) -> int:
        self.looks += 1
        if self.away:
            raise LamppostError(Kind.UNAVAILABLE, "away")
        return self.written


class Watching:
    """A watch on fake stores, and how often it called."""

    def __init__(self) -> None:
        self.read, self.unread = FakeStore(), FakeStore()
        self.calls = 0
        stores: Any = [self.read]
        self.watch = Watch(lambda: stores, self._called)

    def _called(self) -> None:
        self.calls += 1

    async def looked(self, times: int = 2) -> None:
        """So many looks more have begun; the one before the last is over."""
        wanted = self.read.looks + times
        await until(lambda: self.read.looks >= wanted)


@pytest.fixture
async def watching() -> AsyncIterator[Watching]:
    made = Watching()
    made.watch.begin()
    made.watch.begin()
    await made.looked()
    yield made
    await made.watch.end()


async def test_it_calls_when_something_was_written_and_then_no_more(watching: Watching) -> None:
    before = watching.calls
    await watching.looked(3)
    assert watching.calls == before, "nothing was written"
    watching.read.written += 1
    await watching.looked(3)
    assert watching.calls == before + 1
    assert watching.unread.looks == 0, "what nobody reads is not looked at"


async def test_a_store_that_is_away_is_told_to_those_who_wait(watching: Watching) -> None:
    before = watching.calls
    watching.read.away = True
    await watching.looked(3)
    assert watching.calls > before
    watching.read.away = False
    await watching.looked()
    before = watching.calls
    await watching.looked(3)
    assert watching.calls == before, "and then it goes on"


async def test_an_end_ends_it(watching: Watching) -> None:
    await watching.watch.end()
    await watching.watch.end()
    before = watching.read.looks
    other = Watching()
    other.watch.begin()
    await other.looked(2)
    await other.watch.end()
    assert watching.read.looks == before


async def test_all_who_wait_notice_another_process_soon(tmp_path: Path) -> None:
    harness = EmbeddedHarness(tmp_path / "bus.db")
    bus, other = await harness.open(CLOCK), await harness.open(CLOCK)
    assert isinstance(bus, EmbeddedBus)
    readers = [await bus.consumer(["camera-status"]) for _ in range(8)]
    for number in range(3):
        waiting = [asyncio.create_task(one.poll(timeout_s=30)) for one in readers]
        await asyncio.wait(waiting, timeout=3 * TICK_S)
        assert not any(task.done() for task in waiting)
        begun_us = CLOCK.monotonic_us()
        await other.publish(status("a", str(number)))
        found = await asyncio.gather(*waiting)
        took_s = (CLOCK.monotonic_us() - begun_us) / SECOND_US
        assert [values(records) for records in found] == [[str(number)]] * len(readers)
        assert took_s < 30 * TICK_S, "long before the poll is over"
    await harness.close()


async def test_a_look_notices_every_writer(tmp_path: Path) -> None:
    """This process and another."""
    store = await Store.open(tmp_path / "bus.db", "OFF")
    other = await Store.open(tmp_path / "bus.db", "OFF")
    seen = store.look()
    assert store.look() == seen, "nobody has written"
    for writer in (store, other):
        await writer.write(lambda c: c.execute("INSERT OR REPLACE INTO meta VALUES ('a', 1)"))
        assert store.look() != seen
        seen = store.look()
        assert store.look() == seen
    await other.close()
    await store.close()
    with pytest.raises(LamppostError, match="closed"):
        store.look()


async def test_a_quiet_log_is_not_read_again_and_again(tmp_path: Path) -> None:
    """What a poll costs while nothing happens is paid by every service, day and night."""
    harness = EmbeddedHarness(tmp_path / "bus.db")
    clock = SimulatedClock()
    bus, other = await harness.open(clock), await harness.open(clock)
    assert isinstance(bus, EmbeddedBus)
    reader = await bus.consumer(["camera-status"], group="g", member="m")
    while await reader.poll(timeout_s=0):
        pass
    await reader.poll(timeout_s=0)
    durable = bus.store("camera-status")
    reads = 0
    real = durable.read

    async def read(work: Any) -> Any:
        nonlocal reads
        reads += 1
        return await real(work)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(durable, "read", read)
        for _ in range(50):
            assert await reader.poll(timeout_s=0) == []
        assert reads == 0
        await other.publish(status("a", "1"))
        assert values(await reader.poll(timeout_s=0)) == ["1"]
        await reader.seek_to_beginning(reader.assignment)
        assert values(await reader.poll(timeout_s=0)) == ["1"], "read again when it is asked for"
    await harness.close()
