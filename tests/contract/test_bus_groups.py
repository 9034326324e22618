"""Port `Bus`, groups and processes: delivery, assignment, kills, order through crashes.

The promises stand in shared/bus/__init__.py; the log itself has test_bus.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.bus import Bus, Message, Record
from shared.clock import SECOND_US, SystemClock
from shared.errors import Kind, LamppostError
from tests.support.bus_harness import (
    PARTITIONS,
    TIMEOUT_S,
    EmbeddedHarness,
    Harness,
    drain,
    settled,
    status,
    values,
)
from tests.support.wait import until


class BusGroupContract:
    """The promises."""

    @pytest.fixture
    def harness(self, tmp_path: Path) -> Iterator[Harness]:
        raise NotImplementedError

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
        fresh = harness.fresh(tmp_path_factory.mktemp("bus") / "bus.db")
        asyncio.run(_order(fresh, batches, size, crash_at))


async def _order(harness: Harness, batches: list[list[str]], size: int, crash_at: int) -> None:
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


class TestEmbeddedBusGroups(BusGroupContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[EmbeddedHarness]:  # type: ignore[override]
        harness = EmbeddedHarness(tmp_path / "bus.db")
        yield harness
        await harness.close()
