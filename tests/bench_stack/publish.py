"""Row "publish": what it costs a service to publish sightings, against aiokafka as it comes.

Both sides send the same messages of 300 bytes with their CloudEvents headers, keyed by camera, in
the same batches to a topic of the same partitions of one real broker, idempotent and acknowledged
by all. The peer awaits `send` for each and gathers a batch's acknowledgements; ours is the port's
`publish`. Counted is the CPU of the client's process. Each round reads back what was sent.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiokafka import AIOKafkaProducer

from shared import outbox
from shared.bus import Message
from shared.clock import SystemClock
from shared.messages import SIGHTINGS, SightingUpdated
from shared.platform import Platform, open_platform
from shared.settings import load
from tests.bench import measure
from tests.bench.measure import Cost, Figure, Row
from tests.support import sightings
from tests.support.servers.kafka import Kafka

FULL, SMALL, ROUNDS = 20_000, 2_000, 5
BATCH = 200
BYTES = 300
CAMERAS = 60
REACH = 1.2


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    count, rounds = (SMALL, 1) if small else (FULL, ROUNDS)
    row = Row(f"Publish: {count:,} sightings of {BYTES} bytes in batches of {BATCH}")
    cpu = Figure("CPU a message", "us", REACH)
    wall = Figure("time a message", "us", None)
    with Kafka(folder / "kafka") as broker:
        for number in range(rounds):
            for side in ("ours", "peer") if number % 2 else ("peer", "ours"):
                environment = {
                    **broker.environment(),
                    "LAMPPOST_KAFKA__TOPIC_PREFIX": f"{side}-{number}.",
                    "LAMPPOST_STATE_DIR": str(folder / "state"),
                    "LAMPPOST_LOG__LEVEL": "error",
                }
                cost, right = measure.isolated(_round, side, environment, count)
                for figure, value in ((cpu, cost.cpu_s), (wall, cost.wall_s)):
                    (figure.ours if side == "ours" else figure.peer).append(value / count * 1e6)
                row.expect(right, f"round {number + 1}, {side}: the topic holds something else")
    row.figures = [cpu, wall]
    row.notes.append(measure.load())
    return row


def _messages(count: int) -> list[Message]:
    """The first `BYTES` bytes of sightings; the same ones each time but for `ce_id`."""
    chance = random.Random(11)
    made = []
    for number in range(count):
        camera_id = f"cam-{chance.randrange(CAMERAS)}"
        one = sightings.sighting(f"s{number}", camera_id, number, path=((0.25, 0.5),))
        event = SightingUpdated(one, True, number)
        message = outbox.event(SIGHTINGS.name, camera_id, event, source="detect", at_us=number)
        made.append(message._replace(value=message.value[:BYTES]))
    return made


def _round(side: str, environment: Mapping[str, str], count: int) -> tuple[Cost, bool]:
    async def work() -> tuple[Cost, bool]:
        platform = await open_platform(load(environment), SystemClock(), database=False)
        messages = _messages(count + BATCH)
        try:
            send = _ours if side == "ours" else _peer
            cost = await send(platform, environment, messages)
            return cost, await _is_there(platform, messages)
        finally:
            await platform.close()

    return asyncio.run(work())


def _batches(messages: Sequence[Message]) -> list[Sequence[Message]]:
    return [messages[first : first + BATCH] for first in range(0, len(messages), BATCH)]


async def _ours(
    platform: Platform, environment: Mapping[str, str], messages: Sequence[Message]
) -> Cost:
    warm, *batches = _batches(messages)
    await platform.bus.publish(warm)
    with measure.costing() as cost:
        for batch in batches:
            await platform.bus.publish(batch)
    return cost[0]


async def _peer(
    platform: Platform, environment: Mapping[str, str], messages: Sequence[Message]
) -> Cost:
    kafka = load(environment).kafka
    topic = kafka.topic_prefix + SIGHTINGS.name
    producer = AIOKafkaProducer(
        bootstrap_servers=list(kafka.servers), enable_idempotence=True, acks="all"
    )
    await producer.start()

    async def send(batch: Sequence[Message]) -> None:
        sent = [
            await producer.send(
                topic, message.value, key=message.key.encode(), headers=list(message.headers)
            )
            for message in batch
        ]
        await asyncio.gather(*sent)

    try:
        warm, *batches = _batches(messages)
        await send(warm)
        with measure.costing() as cost:
            for batch in batches:
                await send(batch)
    finally:
        await producer.stop()
    return cost[0]


async def _is_there(platform: Platform, messages: Sequence[Message]) -> bool:
    """Each message once, each camera's in order."""
    reader = await platform.bus.consumer([SIGHTINGS.name], start="earliest")
    found: dict[str, list[bytes]] = {}
    wanted: dict[str, list[bytes]] = {}
    for message in messages:
        wanted.setdefault(message.key, []).append(message.value)
    left = len(messages)
    while left > 0 and (records := await reader.poll(5_000, 5.0)):
        for record in records:
            found.setdefault(record.key, []).append(record.value)
        left -= len(records)
    return left == 0 and found == wanted
