"""Three brokers, three replicas, two of which must have each event: any one may die at any time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shared.bus import Bus, Message, Record
from shared.bus.kafka import KafkaBus, open_bus
from shared.clock import SystemClock
from shared.errors import Kind, LamppostError
from shared.settings import Settings, load
from tests.support.bus_harness import drain
from tests.support.servers.kafka import KafkaCluster
from tests.support.wait import until

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(400)]
KEYS = [f"cam-{n}" for n in range(6)]
clock = SystemClock()


def settings(cluster: KafkaCluster, tmp_path: Path) -> Settings:
    return load(
        {
            **cluster.environment(),
            "LAMPPOST_STATE_DIR": str(tmp_path),
            "LAMPPOST_STORES__BUS_PARTITIONS": "3",
        }
    )


class Load:
    """Publishes rounds until told to stop, each until it is acknowledged; reads them beside."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.rounds = 0
        self.refused = 0
        self.stopped = False
        self.read: list[Record] = []

    async def publish(self) -> None:
        while not self.stopped:
            messages = [
                Message(
                    "sightings",
                    key,
                    b"%d" % self.rounds,
                    (("ce_id", f"{key}/{self.rounds}".encode()),),
                )
                for key in KEYS
            ]
            try:
                await self._bus.publish(messages)
                self.rounds += 1
            except LamppostError as error:
                assert error.retryable, error
                self.refused += 1
            await clock.sleep(0.02)

    async def follow(self) -> None:
        consumer = await self._bus.consumer(["sightings"], group="g", member="one")

        async def whole() -> bool:
            try:
                records = await consumer.poll(timeout_s=0.5)
                self.read.extend(records)
                await consumer.commit(records)
            except LamppostError as error:
                assert error.kind in (Kind.UNAVAILABLE, Kind.CONFLICT), error
            seen = {(r.key, r.value) for r in self.read}
            return self.stopped and len(seen) == self.rounds * len(KEYS)

        await until(whole, 300, "everything acknowledged is read")


async def test_brokers_die_in_turn_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    with KafkaCluster(tmp_path / "kafka") as cluster:
        bus = await open_bus(settings(cluster, tmp_path), clock)
        assert isinstance(bus, KafkaBus)
        try:
            work = Load(bus)
            publishing = asyncio.create_task(work.publish())
            following = asyncio.create_task(work.follow())
            for broker in cluster.brokers:
                before = work.rounds
                await until(lambda b=before: work.rounds > b + 30, 90, "events flow")  # type: ignore[misc]
                broker.kill()
                # Two are left: after a pause for new leaders it goes on without the third.
                before = work.rounds
                await until(lambda b=before: work.rounds > b + 30, 90, "events flow on two")  # type: ignore[misc]
                broker.launch()
                await until(lambda b=broker: b.is_ready, 90, "the broker is back")  # type: ignore[misc]
                await until(lambda: _in_sync(bus), 90, "all replicas are in sync")
            work.stopped = True
            await publishing
            await following
            log = await drain(await bus.consumer(["sightings"]))
        finally:
            await bus.close()
    for key in KEYS:
        numbers = [int(r.value) for r in log if r.key == key]
        # In order, none missing, none twice (the last round may have been taken unheard).
        assert numbers[: work.rounds] == list(range(work.rounds))
        assert len(numbers) <= work.rounds + 1


async def _in_sync(bus: KafkaBus) -> bool:
    """Whether every partition has its three replicas, as a new client sees it."""
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(**bus._wire.client_arguments("tests"))
    try:
        await admin.start()
        topics = await admin.describe_topics(["sightings", "__consumer_offsets"])
    except Exception:
        return False
    finally:
        await admin.close()
    return all(len(p["isr"]) == 3 for topic in topics for p in topic["partitions"])


async def test_with_one_of_three_left_events_wait_and_nothing_is_lost(tmp_path: Path) -> None:
    """Two must have each event: one alone takes none, and says so."""
    with KafkaCluster(tmp_path / "kafka") as cluster:
        bus = await open_bus(settings(cluster, tmp_path), clock)
        try:
            one = [Message("sightings", "cam", b"1", (("ce_id", b"1"),))]
            await bus.publish(one)
            two = [Message("sightings", "cam", b"2", (("ce_id", b"2"),))]
            for broker in cluster.brokers[:2]:
                broker.kill()
            with pytest.raises(LamppostError) as caught:
                await bus.publish(two)
            assert caught.value.kind is Kind.UNAVAILABLE
            for broker in cluster.brokers[:2]:
                broker.launch()

            async def taken() -> bool:
                try:
                    await bus.publish(two)
                except LamppostError as error:
                    return not error.retryable
                return True

            await until(taken, 90, "the event is taken")
            log = await drain(await bus.consumer(["sightings"]))
            assert [r.value for r in log] == [b"1", b"2"]
        finally:
            await bus.close()
