"""Port `Bus`: the contract of shared/bus/__init__.py, run against every adapter.

An adapter joins by subclassing `BusContract` with a fixture `harness`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.bus import Bus, Consumer, Message, Partition, Record
from shared.bus.embedded import EmbeddedBus
from shared.bus.partitioner import partition_of
from shared.clock import SECOND_US, Clock, SimulatedClock, SystemClock
from shared.errors import Kind, LamppostError
from shared.messages import TOPICS
from tests.support.wait import until, until_sync

PARTITIONS = 4
TIMEOUT_S = 10.0
ROOT = Path(__file__).parents[2]


class Harness(Protocol):
    """How the suite opens buses on one store, and ends them."""

    clock: SimulatedClock

    async def open(self, clock: Clock | None = None) -> Bus: ...

    async def kill(self, bus: Bus) -> None:
        """End a bus as `kill -9` of its process does."""
        ...

    def process(self, session_timeout_s: float = TIMEOUT_S) -> Process: ...


class Process:
    """tests/support/bus_process.py, running."""

    def __init__(self, arguments: list[str]) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.support.bus_process", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def ask(self, **command: Any) -> dict[str, Any]:
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(json.dumps(command) + "\n")
        self._child.stdin.flush()
        answer = json.loads(self._child.stdout.readline())
        assert isinstance(answer, dict)
        return answer

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            pipe.close()


class EmbeddedHarness:
    def __init__(self, path: Path) -> None:
        self.clock = SimulatedClock()
        self.path = path
        self._buses: list[EmbeddedBus] = []
        self._processes: list[Process] = []

    async def open(self, clock: Clock | None = None) -> Bus:
        bus = await EmbeddedBus.open(
            self.path,
            clock=clock or self.clock,
            partitions=PARTITIONS,
            session_timeout_s=TIMEOUT_S,
        )
        self._buses.append(bus)
        return bus

    async def kill(self, bus: Bus) -> None:
        assert isinstance(bus, EmbeddedBus)
        await bus.abandon()

    def process(self, session_timeout_s: float = TIMEOUT_S) -> Process:
        made = Process([str(self.path), str(PARTITIONS), str(session_timeout_s)])
        self._processes.append(made)
        return made

    async def close(self) -> None:
        for process in self._processes:
            process.kill()
        for bus in self._buses:
            await bus.close()


def status(key: str, *values: str) -> list[Message]:
    return [Message("camera-status", key, value.encode()) for value in values]


async def drain(consumer: Consumer) -> list[Record]:
    """Everything that is there now, with the rebalancing that a poll does."""
    found: list[Record] = []
    while records := await consumer.poll(timeout_s=0):
        found.extend(records)
    return found


def values(records: list[Record]) -> list[str]:
    return [record.value.decode() for record in records]


async def settled(*consumers: Consumer) -> list[Record]:
    """Poll until every partition has an owner among these; what they read meanwhile."""
    found: list[Record] = []

    async def whole() -> bool:
        for consumer in consumers:
            found.extend(await consumer.poll(timeout_s=0))
        return sum(len(c.assignment) for c in consumers) == PARTITIONS

    await until(whole, what="partitions assigned")
    return found


class BusContract:
    """The promises."""

    @pytest.fixture
    def harness(self, tmp_path: Path) -> Iterator[Harness]:
        raise NotImplementedError

    # Order and content

    async def test_records_come_back_whole_and_in_order(self, harness: Harness) -> None:
        bus = await harness.open()
        sent = [
            Message("sightings", "cam-1", bytes([n]), (("ce_id", b"%d" % n), ("ce_id", b"2")))
            for n in range(50)
        ]
        await bus.publish(sent)
        reader = await bus.consumer(["sightings"])
        found = await drain(reader)
        assert [(r.topic, r.key, r.value, r.headers) for r in found] == [tuple(m) for m in sent]
        assert [r.offset for r in found] == list(range(50))
        assert {r.timestamp_us for r in found} == {harness.clock.now_us()}

    async def test_a_key_stays_in_its_partition(self, harness: Harness) -> None:
        bus = await harness.open()
        keys = [f"cam-{n}" for n in range(40)]
        await bus.publish([Message("sightings", key, b"") for key in keys * 2])
        found = await drain(await bus.consumer(["sightings"]))
        places = {(r.key, r.partition) for r in found}
        assert len(places) == len(keys)
        assert {part for _, part in places} == set(range(await bus.partitions("sightings")))

    async def test_an_unknown_topic_is_invalid(self, harness: Harness) -> None:
        bus = await harness.open()
        for call in (
            bus.publish([Message("nonsense", "k", b"")]),
            bus.consumer(["nonsense"]),
            bus.partitions("nonsense"),
        ):
            with pytest.raises(LamppostError) as caught:
                await call
            assert caught.value.kind is Kind.INVALID

    # Bounds

    @pytest.mark.parametrize("topic", sorted(TOPICS))
    async def test_a_value_over_the_limit_is_refused_and_its_batch_with_it(
        self, harness: Harness, topic: str
    ) -> None:
        bus = await harness.open()
        most = TOPICS[topic].max_bytes
        with pytest.raises(LamppostError) as caught:
            await bus.publish([Message(topic, "k", b"small"), Message(topic, "k", bytes(most + 1))])
        assert caught.value.kind is Kind.TOO_LARGE
        await bus.publish([Message(topic, "k", bytes(most))])
        found = await drain(await bus.consumer([topic]))
        assert [len(record.value) for record in found] == [most]

    async def test_a_poll_returns_at_most_what_was_asked_for(self, harness: Harness) -> None:
        bus = await harness.open()
        await bus.publish([Message("sightings", f"k{n}", b"") for n in range(30)])
        reader = await bus.consumer(["sightings"])
        sizes = []
        while found := await reader.poll(max_records=7, timeout_s=0):
            sizes.append(len(found))
        assert max(sizes) <= 7 and sum(sizes) == 30

    async def test_a_busy_partition_starves_no_other(self, harness: Harness) -> None:
        bus = await harness.open()
        await bus.publish([Message("sightings", "busy", b"") for _ in range(500)])
        quiet = next(f"k{n}" for n in range(99) if partition_of(f"k{n}", 4) == 0)
        assert partition_of("busy", 4) != 0
        await bus.publish([Message("sightings", quiet, b"here")])
        reader = await bus.consumer(["sightings"])
        seen = [*(await reader.poll(10, 0)), *(await reader.poll(10, 0))]
        assert quiet in {record.key for record in seen}

    # Waiting

    async def test_a_waiting_poll_gets_what_another_task_publishes(self, harness: Harness) -> None:
        bus = await harness.open()
        reader = await bus.consumer(["camera-status"], start="latest")
        waiting = asyncio.create_task(reader.poll(timeout_s=30))
        await asyncio.sleep(0)
        await bus.publish(status("a", "1"))
        assert values(await asyncio.wait_for(waiting, 5)) == ["1"]

    async def test_a_waiting_poll_gets_what_another_bus_publishes(self, harness: Harness) -> None:
        reader = await (await harness.open()).consumer(["camera-status"], start="latest")
        waiting = asyncio.create_task(reader.poll(timeout_s=30))
        await (await harness.open()).publish(status("a", "1"))
        assert values(await asyncio.wait_for(waiting, 5)) == ["1"]

    async def test_an_empty_poll_ends_in_time(self, harness: Harness) -> None:
        reader = await (await harness.open()).consumer(["camera-status"])
        assert await asyncio.wait_for(reader.poll(timeout_s=0.05), 5) == []

    # Groups: delivery

    async def test_what_is_not_committed_comes_again_after_a_restart(
        self, harness: Harness
    ) -> None:
        bus = await harness.open()
        await bus.publish(status("a", "1", "2", "3", "4"))
        consumer = await bus.consumer(["camera-status"], group="g", member="one")
        found = await drain(consumer)
        await consumer.commit(found[:2])
        await harness.kill(bus)
        again = await (await harness.open()).consumer(["camera-status"], group="g", member="one")
        assert values(await drain(again)) == ["3", "4"]

    async def test_each_group_gets_everything(self, harness: Harness) -> None:
        bus = await harness.open()
        await bus.publish(status("a", "1", "2"))
        for group in ("g", "h"):
            consumer = await bus.consumer(["camera-status"], group=group)
            found = await drain(consumer)
            await consumer.commit(found)
            assert values(found) == ["1", "2"]

    async def test_a_commit_never_goes_back(self, harness: Harness) -> None:
        bus = await harness.open()
        await bus.publish(status("a", "1", "2", "3"))
        consumer = await bus.consumer(["camera-status"], group="g", member="one")
        found = await drain(consumer)
        await consumer.commit(found)
        await consumer.commit(found[:1])
        await consumer.close()
        again = await bus.consumer(["camera-status"], group="g", member="one")
        assert await drain(again) == []

    async def test_earliest_in_a_group_reads_everything_anew(self, harness: Harness) -> None:
        bus = await harness.open()
        await bus.publish([Message("cameras", "a", b"1"), Message("cameras", "b", b"2")])
        for _ in range(2):
            consumer = await bus.consumer(["cameras"], group="ingest", start="earliest")
            found = await drain(consumer)
            await consumer.commit(found)
            assert sorted(values(found)) == ["1", "2"]
            await consumer.close()

    async def test_latest_in_a_group_begins_at_the_end_and_resumes_after(
        self, harness: Harness
    ) -> None:
        bus = await harness.open()
        await bus.publish(status("a", "old"))
        consumer = await bus.consumer(["camera-status"], group="g", member="m", start="latest")
        assert await drain(consumer) == []
        await bus.publish(status("a", "new"))
        await consumer.commit(await drain(consumer))
        await consumer.close()
        await bus.publish(status("a", "newer"))
        again = await bus.consumer(["camera-status"], group="g", member="m", start="latest")
        assert values(await drain(again)) == ["newer"]

    # Groups: assignment

    async def test_members_share_the_partitions(self, harness: Harness) -> None:
        bus, other = await harness.open(), await harness.open()
        one = await bus.consumer(["sightings"], group="g", member="one")
        await settled(one)
        assert len(one.assignment) == PARTITIONS
        two = await other.consumer(["sightings"], group="g", member="two")
        assert two.assignment == frozenset()
        # A partition is nobody's until its owner has let it go in its own poll.
        await two.poll(timeout_s=0)
        assert two.assignment == frozenset()
        await settled(one, two)
        assert len(one.assignment) == len(two.assignment) == PARTITIONS // 2
        assert not one.assignment & two.assignment
        owners = await one.owners()
        assert {p for p, name in owners.items() if name == "two"} == two.assignment
        assert {p for p, name in owners.items() if name == "one"} == one.assignment

    async def test_closing_hands_over_at_once(self, harness: Harness) -> None:
        bus, other = await harness.open(), await harness.open()
        one = await bus.consumer(["sightings"], group="g", member="one")
        two = await other.consumer(["sightings"], group="g", member="two")
        await settled(one, two)
        await bus.publish([Message("sightings", f"k{n}", b"") for n in range(20)])
        first = await drain(one)
        await one.commit(first)
        await one.close()
        rest = await drain(two)
        assert len(two.assignment) == PARTITIONS
        assert len(first) + len(rest) == 20

    async def test_a_silent_member_loses_its_partitions_and_its_records(
        self, harness: Harness
    ) -> None:
        bus, other = await harness.open(), await harness.open()
        one = await bus.consumer(["sightings"], group="g", member="one")
        two = await other.consumer(["sightings"], group="g", member="two")
        await settled(one, two)
        await bus.publish([Message("sightings", f"k{n}", b"") for n in range(20)])
        uncommitted = await drain(one)
        assert uncommitted
        await harness.kill(bus)
        await harness.clock.advance(TIMEOUT_S / 2)
        found = await drain(two)
        assert len(two.assignment) == PARTITIONS // 2
        await harness.clock.advance(TIMEOUT_S)
        found += await drain(two)
        assert len(two.assignment) == PARTITIONS
        assert len(found) == 20

    async def test_a_step_of_the_wall_clock_evicts_nobody(self, harness: Harness) -> None:
        bus, other = await harness.open(), await harness.open()
        one = await bus.consumer(["sightings"], group="g", member="one")
        two = await other.consumer(["sightings"], group="g", member="two")
        await settled(one, two)
        before = one.assignment
        for step_s in (86_400, -2 * 86_400):
            harness.clock.jump_wall(step_s * SECOND_US)
            await two.poll(timeout_s=0)
            await one.poll(timeout_s=0)
        assert one.assignment == before

    async def test_a_stale_member_cannot_commit(self, harness: Harness) -> None:
        bus, other = await harness.open(), await harness.open()
        one = await bus.consumer(["sightings"], group="g", member="one")
        await settled(one)
        await bus.publish([Message("sightings", f"k{n}", b"") for n in range(20)])
        found = await drain(one)
        two = await other.consumer(["sightings"], group="g", member="two")
        moved = await settled(one, two)
        assert two.assignment
        with pytest.raises(LamppostError) as caught:
            await one.commit(found)
        assert caught.value.kind is Kind.CONFLICT
        # Nothing of it was committed: the new owner and the old get all of it again.
        await one.close()
        assert len(moved) + len(await drain(two)) == 20

    async def test_a_restart_under_the_same_name_takes_over_at_once(self, harness: Harness) -> None:
        bus = await harness.open()
        one = await bus.consumer(["sightings"], group="g", member="one")
        await settled(one)
        other = await harness.open()
        again = await other.consumer(["sightings"], group="g", member="one")
        await again.poll(timeout_s=0)
        assert len(again.assignment) == PARTITIONS
        with pytest.raises(LamppostError) as caught:
            await one.poll(timeout_s=0)
        assert caught.value.kind is Kind.CONFLICT
        await one.close()
        await again.poll(timeout_s=0)
        assert len(again.assignment) == PARTITIONS

    # Readers without a group

    async def test_without_a_group_every_reader_gets_everything(self, harness: Harness) -> None:
        bus = await harness.open()
        await bus.publish(status("a", "1"))
        readers = [await bus.consumer(["camera-status"]) for _ in range(2)]
        for reader in readers:
            assert len(reader.assignment) == PARTITIONS
            found = await drain(reader)
            await reader.commit(found)
            assert values(found) == ["1"]
            assert await reader.owners() == {}

    async def test_latest_without_a_group_begins_at_the_end(self, harness: Harness) -> None:
        bus = await harness.open()
        await bus.publish(status("a", "old"))
        reader = await bus.consumer(["camera-status"], start="latest")
        await bus.publish(status("a", "new"))
        assert values(await drain(reader)) == ["new"]

    async def test_a_reader_resumes_from_positions(self, harness: Harness) -> None:
        bus = await harness.open()
        await bus.publish(status("a", "1", "2", "3"))
        first = await (await bus.consumer(["camera-status"])).poll(2, 0)
        positions: dict[Partition, int] = {
            (record.topic, record.partition): record.offset + 1 for record in first
        }
        reader = await bus.consumer(["camera-status"], start="latest", positions=positions)
        assert values(await drain(reader)) == ["3"]

    async def test_seeking_to_the_beginning_reads_again(self, harness: Harness) -> None:
        bus = await harness.open()
        await bus.publish(status("a", "1", "2"))
        reader = await bus.consumer(["camera-status"])
        assert values(await drain(reader)) == ["1", "2"]
        await reader.seek_to_beginning(reader.assignment)
        assert values(await drain(reader)) == ["1", "2"]

    # Keeping

    async def test_trim_drops_what_is_older_than_its_topic_keeps(self, harness: Harness) -> None:
        bus = await harness.open()
        await bus.publish([*status("a", "old"), Message("cameras", "a", b"kept")])
        await harness.clock.advance(24 * 3600 - 10)
        await bus.publish(status("a", "new"))
        reader = await bus.consumer(["camera-status"])
        assert await bus.trim(harness.clock.now_us()) == 0
        await harness.clock.advance(20)
        assert await bus.trim(harness.clock.now_us()) == 1
        found = await drain(reader)
        assert [(r.value, r.offset) for r in found] == [(b"new", 1)]
        await bus.publish(status("a", "newest"))
        assert [r.offset for r in await drain(reader)] == [2]
        assert len(await drain(await bus.consumer(["cameras"]))) == 1

    async def test_compaction_keeps_the_newest_of_each_key(self, harness: Harness) -> None:
        bus = await harness.open()
        for version in range(3):
            await bus.publish(
                [Message("cameras", key, f"{key}{version}".encode()) for key in ("a", "b")]
            )
        assert await bus.trim(harness.clock.now_us()) == 4
        reader = await bus.consumer(["cameras"], group="g", start="earliest")
        assert sorted(values(await drain(reader))) == ["a2", "b2"]
        await bus.publish([Message("cameras", "a", b"a3")])
        assert values(await drain(reader)) == ["a3"]

    # Closing

    async def test_after_close_every_call_raises_closed(self, harness: Harness) -> None:
        bus = await harness.open()
        consumer = await bus.consumer(["sightings"], group="g")
        await bus.close()
        await bus.close()
        for call in (
            bus.publish(status("a", "1")),
            bus.consumer(["sightings"]),
            bus.partitions("sightings"),
            bus.trim(0),
            consumer.poll(),
            consumer.commit([]),
            consumer.seek_to_beginning(frozenset()),
            consumer.owners(),
        ):
            with pytest.raises(LamppostError) as caught:
                await call
            assert caught.value.kind is Kind.CLOSED
        await consumer.close()

    async def test_a_waiting_poll_ends_when_its_consumer_closes(self, harness: Harness) -> None:
        bus = await harness.open()
        consumer = await bus.consumer(["sightings"])
        waiting = asyncio.create_task(consumer.poll(timeout_s=60))
        await asyncio.sleep(0)
        await bus.close()
        with pytest.raises(LamppostError) as caught:
            await asyncio.wait_for(waiting, 5)
        assert caught.value.kind is Kind.CLOSED

    # Processes

    async def test_two_processes_share_a_log_and_a_group(self, harness: Harness) -> None:
        bus = await harness.open(SystemClock())
        here = await bus.consumer(["sightings"], group="g", member="here")
        await settled(here)
        there = await asyncio.to_thread(harness.process, 10.0)
        poll = {"do": "poll", "topic": "sightings", "group": "g", "member": "there"}

        async def shared() -> bool:
            answer = await asyncio.to_thread(lambda: there.ask(**poll))
            await here.poll(timeout_s=0)
            return len(answer["assignment"]) == len(here.assignment) == PARTITIONS // 2

        await until(shared, 20, "both have half")
        await bus.publish([Message("sightings", f"k{n}", b"%d" % n) for n in range(20)])
        got: list[str] = []

        async def all_read() -> bool:
            answer = await asyncio.to_thread(lambda: there.ask(**poll))
            got.extend(answer["values"])
            got.extend(values(await here.poll(timeout_s=0)))
            return len(got) >= 20

        await until(all_read, 20, "all read by one of the two")
        assert sorted(map(int, got)) == list(range(20))

    async def test_frames_cross_processes(self, harness: Harness) -> None:
        bus = await harness.open(SystemClock())
        reader = await bus.consumer(["frames"], group="detect", member="here")
        child = await asyncio.to_thread(harness.process)
        sent = ["one", "two"]
        await asyncio.to_thread(
            lambda: child.ask(do="publish", topic="frames", key="cam", values=sent)
        )
        got: list[str] = []

        async def arrived() -> bool:
            got.extend(values(await reader.poll(timeout_s=0.1)))
            return len(got) == 2

        await until(arrived, 10)
        assert got == sent

    def test_a_kill_in_a_publish_leaves_all_of_it_or_nothing(self, harness: Harness) -> None:
        child = harness.process()
        assert child.ask(do="storm", key="cam")["begun"]
        child.kill()

        async def read() -> list[Record]:
            bus = await harness.open(SystemClock())
            try:
                return await drain(await bus.consumer(["sightings"]))
            finally:
                await bus.close()

        found = [tuple(json.loads(record.value)) for record in asyncio.run(read())]
        batches = len(found) // 50
        assert batches >= 3
        assert found == [(batch, at) for batch in range(batches) for at in range(50)]

    # Property

    @settings(
        max_examples=15,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        batches=st.lists(
            st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=8), max_size=8
        ),
        size=st.integers(1, 9),
        crash_at=st.integers(0, 6),
    )
    def test_order_within_a_key_survives_crashes(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        harness: Harness,
        batches: list[list[str]],
        size: int,
        crash_at: int,
    ) -> None:
        fresh = type(harness)(tmp_path_factory.mktemp("bus") / "bus.db")  # type: ignore[call-arg]
        asyncio.run(_order(fresh, batches, size, crash_at))


async def _order(harness: Any, batches: list[list[str]], size: int, crash_at: int) -> None:
    """Publish numbered records, read with a member that dies once between work and commit: each key
    is seen in order, with nothing missing, and what is seen twice was not committed."""
    bus: Bus = await harness.open()
    number = 0
    for batch in batches:
        await bus.publish(
            [Message("sightings", key, b"%d" % (number + at)) for at, key in enumerate(batch)]
        )
        number += len(batch)
    seen: dict[str, list[int]] = {}
    consumer = await bus.consumer(["sightings"], group="g", member="m")
    polls = 0
    while found := await consumer.poll(size, 0):
        if polls == crash_at:
            await harness.kill(bus)
            bus = await harness.open()
            consumer = await bus.consumer(["sightings"], group="g", member="m")
        else:
            for record in found:
                seen.setdefault(record.key, []).append(int(record.value))
            await consumer.commit(found)
        polls += 1
    await harness.close()
    expected: dict[str, list[int]] = {}
    for at, key in enumerate(key for batch in batches for key in batch):
        expected.setdefault(key, []).append(at)
    assert seen == expected


class TestEmbeddedBus(BusContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[EmbeddedHarness]:  # type: ignore[override]
        harness = EmbeddedHarness(tmp_path / "bus.db")
        yield harness
        await harness.close()


def test_until_tells_what_it_waited_for() -> None:
    with pytest.raises(AssertionError, match="a miracle"):
        until_sync(lambda: False, 0.05, "a miracle")
