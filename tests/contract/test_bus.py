"""Port `Bus`, the log: order, bounds, waiting, readers without a group, keeping, closing.

The promises stand in shared/bus/__init__.py; groups have test_bus_groups.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shared.bus import Message, Partition
from shared.bus.partitioner import partition_of
from shared.errors import Kind, LamppostError
from shared.messages import TOPICS
from tests.support.bus_harness import PARTITIONS, EmbeddedHarness, Harness, drain, status, values


class BusLogContract:
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

    async def test_a_record_is_dated_by_the_clock_of_who_published_it(
        self, harness: Harness
    ) -> None:
        bus = await harness.open()
        await bus.publish(status("a", "1"))
        found = await drain(await bus.consumer(["camera-status"]))
        assert [r.timestamp_us for r in found] == [harness.clock.now_us()]

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
        # What is not durable may still be on its way when `publish` returns.
        reader = await bus.consumer([topic])
        found = await drain(reader) or await reader.poll(timeout_s=5)
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

    async def test_a_reader_knows_its_place_before_the_first_record(self, harness: Harness) -> None:
        bus = await harness.open()
        await bus.publish(status("a", "1", "2"))
        reader = await bus.consumer(["camera-status"], start="latest")
        positions = reader.positions
        assert positions.keys() == reader.assignment
        assert sum(positions.values()) == 2
        await bus.publish([*status("a", "3"), *status("b", "1")])
        again = await bus.consumer(["camera-status"], start="latest", positions=positions)
        assert sorted(values(await drain(again))) == ["1", "3"]
        assert sum(again.positions.values()) == 4

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

    async def test_a_bus_that_is_there_is_reached_whoever_asks(self, harness: Harness) -> None:
        bus = await harness.open()
        await asyncio.gather(*(bus.reach() for _ in range(20)))
        await bus.reach()

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
            bus.reach(),
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


class TestEmbeddedBus(BusLogContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[EmbeddedHarness]:  # type: ignore[override]
        harness = EmbeddedHarness(tmp_path / "bus.db")
        yield harness
        await harness.close()
