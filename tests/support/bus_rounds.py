"""Rounds of numbered messages through a broker that comes and goes: what was said, what came."""

from __future__ import annotations

from collections import defaultdict

from shared.bus import Bus, Consumer, Message, Record
from shared.clock import SystemClock
from shared.errors import Kind, LamppostError
from tests.support.servers.kafka import Kafka
from tests.support.wait import until

KEYS = [f"cam-{n}" for n in range(8)]
clock = SystemClock()


async def back(broker: Kafka) -> None:
    """Start the broker while this loop goes on."""
    broker.launch()
    await until(lambda: broker.is_ready, 60, "the broker is back")


def numbered(number: int) -> list[Message]:
    """One message for each key, each with an id of its own."""
    return [
        Message("sightings", key, b"%d" % number, (("ce_id", f"{key}/{number}".encode()),))
        for key in KEYS
    ]


async def publish_all(bus: Bus, count: int, every_s: float = 0.0) -> int:
    """Publish so many rounds, each until it is taken; how many attempts failed."""
    failed = 0
    for number in range(count):
        while True:
            try:
                await bus.publish(numbered(number))
                break
            except LamppostError as error:
                assert error.retryable, error
                failed += 1
                await clock.sleep(0.2)
        await clock.sleep(every_s)
    return failed


async def read_until(consumer: Consumer, count: int, timeout_s: float = 60) -> list[Record]:
    """Read, and commit, until each key has had its last."""
    found: list[Record] = []
    last = dict.fromkeys(KEYS, -1)

    async def whole() -> bool:
        try:
            records = await consumer.poll(timeout_s=0.5)
            found.extend(records)
            for record in records:
                last[record.key] = max(last[record.key], int(record.value))
            await consumer.commit(records)
        except LamppostError as error:
            assert error.kind in (Kind.UNAVAILABLE, Kind.CONFLICT), error
        return min(last.values()) == count - 1

    await until(whole, timeout_s, "all is read")
    return found


def by_key(records: list[Record]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for record in records:
        found[record.key].append(int(record.value))
    return found
