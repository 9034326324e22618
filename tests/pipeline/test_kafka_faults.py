"""The Kafka bus on a broker that is killed, stopped, or away: nothing acknowledged is lost or
doubled, nobody is kept waiting, and what stays is not disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from shared import metrics
from shared.bus import Message, Record
from shared.bus.kafka_lanes import size_of
from shared.bus.kafka_producer import FRAMES_BYTES, PUBLISH_S
from shared.clock import SECOND_US, SystemClock
from shared.errors import Kind, LamppostError
from shared.probes import OK, asked
from tests.support.bus_harness import PARTITIONS, KafkaHarness, drain, settled, values
from tests.support.bus_rounds import KEYS, back, by_key, numbered, publish_all, read_until
from tests.support.servers.kafka import Kafka
from tests.support.wait import until

pytestmark = pytest.mark.servers
clock = SystemClock()
ENDED = (Kind.CLOSED, Kind.UNAVAILABLE)


@pytest.fixture
async def harness(broker: Kafka, tmp_path: Path) -> AsyncIterator[KafkaHarness]:
    if not broker.process.running:
        broker.start()
    harness = KafkaHarness(broker, tmp_path)
    yield harness
    await harness.close()


async def test_a_kill_of_the_broker_loses_and_doubles_nothing(
    broker: Kafka, harness: KafkaHarness
) -> None:
    bus = await harness.open()
    consumer = await bus.consumer(["sightings"], group="g", member="one")
    publishing = asyncio.create_task(publish_all(bus, 150, 0.05))
    reading = asyncio.create_task(read_until(consumer, 150))
    for _ in range(2):
        await clock.sleep(1.5)
        broker.kill()
        await clock.sleep(0.5)
        await back(broker)
    await publishing
    await reading
    # The log itself: each once, in order.
    found = by_key(await drain(await bus.consumer(["sightings"])))
    assert found == {key: list(range(150)) for key in KEYS}


async def test_an_outage_keeps_no_caller_waiting(broker: Kafka, harness: KafkaHarness) -> None:
    bus = await harness.open()
    consumer = await bus.consumer(["sightings"], group="g", member="one")
    await bus.publish(numbered(0))
    assert len(await drain(consumer)) == len(KEYS)
    broker.kill()
    begun_us = clock.monotonic_us()
    for _ in range(2):
        with pytest.raises(LamppostError, match="nobody listens there") as caught:
            await bus.publish(numbered(1))
        assert caught.value.kind is Kind.UNAVAILABLE
    assert clock.monotonic_us() - begun_us < 2 * (PUBLISH_S + 3) * SECOND_US
    with pytest.raises(LamppostError) as caught:
        await consumer.poll(timeout_s=0)
    assert caught.value.kind is Kind.UNAVAILABLE
    with pytest.raises(LamppostError) as caught:
        await consumer.owners()
    assert caught.value.kind is Kind.UNAVAILABLE
    # Nobody can say that another has them.
    assert len(consumer.assignment) == PARTITIONS
    await back(broker)
    await publish_all(bus, 2)
    rest: list[Record] = []

    async def arrived() -> bool:
        rest.extend(await consumer.poll(timeout_s=0.5))
        return len(rest) >= 2 * len(KEYS)

    await until(arrived, 30, "all is read")
    await consumer.commit(rest)
    log = by_key(await drain(await bus.consumer(["sightings"])))
    # The round that failed twice is there once; round 0 was published twice, by us.
    assert all(sorted(numbers) == [0, 0, 1] for numbers in log.values())


async def test_a_bus_closes_in_an_outage_at_once_and_in_silence(
    broker: Kafka, harness: KafkaHarness, caplog: pytest.LogCaptureFixture
) -> None:
    bus = await harness.open()
    await bus.consumer(["sightings"], group="g", member="one")
    await bus.publish([*numbered(0), Message("frames", "cam-0", b"")])
    broker.kill()
    doomed = [asyncio.create_task(bus.publish(numbered(n))) for n in range(1, 4)]
    await bus.publish([Message("frames", key, bytes(1000)) for key in KEYS])
    await clock.sleep(1)
    begun_us = clock.monotonic_us()
    await bus.close()
    assert clock.monotonic_us() - begun_us < 20 * SECOND_US
    for outcome in await asyncio.gather(*doomed, return_exceptions=True):
        assert isinstance(outcome, LamppostError) and outcome.kind in ENDED
    gc.collect()
    await clock.sleep(0.5)
    assert [r.getMessage() for r in caplog.records if r.name == "asyncio"] == []


async def test_frames_are_dropped_and_counted_and_never_wait(
    broker: Kafka, harness: KafkaHarness
) -> None:
    bus = await harness.open()
    reader = await bus.consumer(["frames"], start="latest")
    broker.kill()
    dropped = metrics.BUS_DROPPED.labels("frames")
    before = dropped._value.get()
    frames = [Message("frames", key, bytes(400_000)) for key in KEYS]
    begun_us = clock.monotonic_us()
    for _ in range(20):
        await bus.publish(frames)
    assert clock.monotonic_us() - begun_us < 2 * SECOND_US
    await until(lambda: dropped._value.get() > before, 5, "drops are counted")
    most = FRAMES_BYTES // size_of(frames[0])
    assert dropped._value.get() - before >= 20 * len(frames) - most - len(KEYS)
    await back(broker)

    async def arrives() -> bool:
        await bus.publish([Message("frames", "cam-0", b"fresh")])
        try:
            return "fresh" in values(await reader.poll(timeout_s=0.5))
        except LamppostError as error:
            return not error.retryable

    await until(arrives, 30, "frames arrive again")


async def test_a_broker_that_answers_nothing_is_away(broker: Kafka, harness: KafkaHarness) -> None:
    bus = await harness.open()
    await bus.publish(numbered(0))
    broker.process.pause()
    try:
        begun_us = clock.monotonic_us()
        with pytest.raises(LamppostError, match="does not answer") as caught:
            await bus.publish(numbered(1))
        assert caught.value.kind is Kind.UNAVAILABLE
        assert clock.monotonic_us() - begun_us < (PUBLISH_S + 8) * SECOND_US
    finally:
        broker.process.resume()
    await publish_all(bus, 1)


async def test_readiness_follows_a_broker_that_hangs_ends_and_returns(
    broker: Kafka, harness: KafkaHarness
) -> None:
    bus = await harness.open()

    async def reached() -> bool:
        return await asked({"bus": bus.reach}) == {"bus": OK}

    await until(reached, 30, "a broker that is there is reached")
    broker.process.pause()
    try:
        await until(lambda: _not(reached), 10, "one that hangs is not", every_s=0.2)
        assert await asked({"bus": bus.reach}) == {"bus": "unavailable"}, "within the probe's time"
    finally:
        broker.process.resume()
    await until(reached, 30, "one that goes on is reached")
    broker.kill()
    await until(lambda: _not(reached), 10, "one that is killed is not", every_s=0.2)
    await back(broker)
    await until(reached, 60, "one that is back is reached")


async def _not(condition: Callable[[], Awaitable[bool]]) -> bool:
    return not await condition()


async def test_a_process_starts_without_brokers(broker: Kafka, harness: KafkaHarness) -> None:
    broker.stop()
    bus = await harness.open()
    assert await bus.partitions("sightings") == PARTITIONS
    for call in (bus.publish(numbered(0)), bus.consumer(["sightings"])):
        with pytest.raises(LamppostError, match="nobody listens there") as caught:
            await call
        assert caught.value.kind is Kind.UNAVAILABLE
    await back(broker)
    await publish_all(bus, 1)
    assert len(await drain(await bus.consumer(["sightings"]))) == len(KEYS)


async def test_others_partitions_make_no_bus(harness: KafkaHarness, broker: Kafka) -> None:
    await harness.open()
    other = harness.settings()
    stores = other.stores.model_copy(update={"bus_partitions": PARTITIONS + 1})
    from shared.bus.kafka import open_bus

    with pytest.raises(LamppostError, match=f"Set stores.bus_partitions to {PARTITIONS}") as caught:
        await open_bus(other.model_copy(update={"stores": stores}), clock)
    assert caught.value.kind is Kind.INVALID


async def test_what_stays_is_read_on_through_a_change_of_the_group(harness: KafkaHarness) -> None:
    bus, other = await harness.open(), await harness.open()
    one = await bus.consumer(["sightings"], group="g", member="one")
    await bus.publish([m for number in range(20) for m in numbered(number)])
    read = await drain(one)
    assert len(read) == 20 * len(KEYS)
    # Nothing is committed: only what moves may come again.
    two = await other.consumer(["sightings"], group="g", member="two")
    again = await settled(one, two)
    kept, moved = one.assignment, two.assignment
    assert len(kept) == len(moved) == PARTITIONS // 2
    assert {(r.topic, r.partition) for r in again} <= moved
    await one.commit([r for r in read if (r.topic, r.partition) in kept])
    await bus.publish(numbered(20))
    fresh = await drain(one)
    assert {int(r.value) for r in fresh} == {20}
    assert {(r.topic, r.partition) for r in fresh} <= kept


async def test_a_third_member_moves_no_more_than_it_gets(harness: KafkaHarness) -> None:
    buses = [await harness.open() for _ in range(3)]
    one = await buses[0].consumer(["sightings"], group="g", member="a")
    two = await buses[1].consumer(["sightings"], group="g", member="c")
    await settled(one, two)
    before = {**dict.fromkeys(one.assignment, "a"), **dict.fromkeys(two.assignment, "c")}
    three = await buses[2].consumer(["sightings"], group="g", member="b")
    await settled(one, two, three)
    assert len(three.assignment) == 1
    owners = dict(await one.owners())
    assert {place for place, name in owners.items() if name != before[place]} == three.assignment


async def test_a_restart_in_time_moves_nothing(harness: KafkaHarness) -> None:
    bus, other = await harness.open(), await harness.open()
    one = await bus.consumer(["sightings"], group="g", member="one")
    two = await other.consumer(["sightings"], group="g", member="two")
    await settled(one, two)
    before = (one.assignment, two.assignment)
    generation = two._member._generation  # type: ignore[attr-defined]
    await harness.kill(bus)
    again = await (await harness.open()).consumer(["sightings"], group="g", member="one")
    await again.poll(timeout_s=0)
    await two.poll(timeout_s=0)
    assert (again.assignment, two.assignment) == before
    assert two._member._generation == generation  # type: ignore[attr-defined]


async def test_who_was_away_too_long_begins_where_the_group_is(harness: KafkaHarness) -> None:
    bus, other = await harness.open(), await harness.open()
    one = await bus.consumer(["sightings"], group="g", member="one")
    await bus.publish(numbered(0))
    found = await drain(one)
    # Its heartbeats stop, as those of a machine that sleeps; another takes over.
    await one._member.drop()  # type: ignore[attr-defined]
    two = await other.consumer(["sightings"], group="g", member="two")

    again: list[Record] = []

    async def over() -> bool:
        again.extend(await two.poll(timeout_s=0))
        return len(two.assignment) == PARTITIONS

    await until(over, 15, "the other has everything")
    with pytest.raises(LamppostError) as caught:
        await one.commit(found)
    assert caught.value.kind is Kind.CONFLICT
    again.extend(await drain(two))
    assert sorted(by_key(again)) == sorted(by_key(found)) == sorted(KEYS)


async def test_a_reader_whose_fetching_failed_reads_on(harness: KafkaHarness) -> None:
    bus = await harness.open()
    reader = await bus.consumer(["sightings"])
    await bus.publish(numbered(0))
    assert len(await drain(reader)) == len(KEYS)
    # The library's task ends by itself only by a fault of its own.
    reader._fetch._fetcher._fetch_task.cancel()  # type: ignore[attr-defined]
    await bus.publish(numbered(1))
    assert by_key(await drain(reader)) == {key: [1] for key in KEYS}


async def test_a_reader_closes_in_an_outage_as_at_any_time(
    broker: Kafka, harness: KafkaHarness
) -> None:
    bus = await harness.open()
    readers = [await bus.consumer(["sightings"]) for _ in range(8)]
    broker.kill()
    for _ in range(6):
        for reader in readers:
            with contextlib.suppress(LamppostError):
                await reader.poll(timeout_s=0.02)
    for reader in readers:
        await reader.close()
    await back(broker)
    await bus.publish(numbered(0))
    assert by_key(await read_until(await bus.consumer(["sightings"]), 1)) == {k: [0] for k in KEYS}
