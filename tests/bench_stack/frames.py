"""Row "frames": analysis frames of 40 KB from a recorder's queue to a detector's poll, by Kafka.

One process sends as ingest does, at an even pace for 300 cameras; another is a member of detect's
group. A frame's age is counted from the moment it was due, so that a sender that falls behind makes
frames older and never seems quicker. No frame may be lost, doubled or out of its camera's order.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from services.detect.service import BATCH, GROUP
from services.ingest.media import FrameSampled
from services.ingest.outgoing import Outgoing
from shared import metrics
from shared.clock import SECOND_US, SystemClock
from shared.messages import FRAMES, FrameMeta
from shared.platform import open_platform
from shared.runtime import Stop
from shared.settings import load
from tests.bench import measure
from tests.bench.measure import Figure, Row
from tests.bench.search import p95
from tests.support.servers.kafka import Kafka
from tests.support.wait import until

BYTES = 40_000
CAMERAS = 300
FULL, SMALL = (620, 120), (60, 3)
"""Frames a second, and seconds. A little more than the reach is offered."""
REACH_PER_S, REACH_AGE_MS = 600.0, 150.0
TICK_US = 5_000
QUIET_S = 10.0
"""Nothing comes for so long after the sender has ended: nothing will."""
LIMIT_S = 300.0


class Got(NamedTuple):
    """What the detector's side saw."""

    ages_ms: list[float]
    in_order: bool
    seconds: float
    """From the first frame to the last."""
    cpu_s: float


class Sent(NamedTuple):
    """What the recorder's side sent. Frames go in two places: before the bus, where the newest of
    a short queue count, and in the bus, while the brokers are slow. Both are counted, so that a
    frame that is in neither count and does not come was lost."""

    dropped: int
    dropped_by_bus: int
    cpu_s: float


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    rate, seconds = SMALL if small else FULL
    total = rate * seconds
    row = Row(f"Frames of 40 KB, ingest to detect: {rate}/s for {seconds} s")
    with Kafka(folder / "kafka") as broker, ProcessPoolExecutor(2, get_context("spawn")) as pool:
        environment = {
            **broker.environment(),
            "LAMPPOST_STATE_DIR": str(folder / "state"),
            "LAMPPOST_LOG__LEVEL": "error",
        }
        ready, ended = folder / "ready", folder / "ended"
        reading = pool.submit(_read, environment, ready, ended, total)
        sent = pool.submit(_send, environment, ready, rate, total).result(LIMIT_S)
        ended.touch()
        got = reading.result(LIMIT_S)
    lost = total - len(got.ages_ms) - sent.dropped - sent.dropped_by_bus
    fate = f"{sent.dropped} dropped before the bus, {sent.dropped_by_bus} by it, {lost} lost"
    row.expect(len(got.ages_ms) == total, fate)
    row.expect(got.in_order, "a camera's frames came doubled or out of order")
    if got.ages_ms:
        per_s = (len(got.ages_ms) - 1) / max(got.seconds, 1e-6)
        row.figures = [
            Figure("time a frame", "ms", None if small else 1000 / REACH_PER_S, [1000 / per_s]),
            Figure("age at the poll, p95", "ms", REACH_AGE_MS, [p95(got.ages_ms)]),
            Figure("CPU of both processes", "cores", None, [(sent.cpu_s + got.cpu_s) / seconds]),
        ]
        row.notes.append(
            f"{per_s:,.0f} frames/s; age p50 {sorted(got.ages_ms)[len(got.ages_ms) // 2]:.0f} ms,"
            f" most {max(got.ages_ms):.0f} ms"
        )
    row.notes.append(f"{fate}; {measure.load()}")
    return row


def _send(environment: Mapping[str, str], ready: Path, rate: int, total: int) -> Sent:
    settled = dropped = 0

    def done(_: str, was_dropped: bool) -> None:
        nonlocal settled, dropped
        settled += 1
        dropped += was_dropped

    async def work() -> Sent:
        clock = SystemClock()
        platform = await open_platform(load(environment), clock, database=False)
        outgoing, stop = Outgoing(platform.bus, clock, "recorder", done), Stop()
        jpegs = [os.urandom(BYTES) for _ in range(8)]
        await until(ready.exists, timeout_s=60)
        sending = asyncio.create_task(outgoing.send_frames(stop))
        with measure.costing() as cost:
            began_us, number = clock.now_us(), 0
            while number < total:
                due = min(total, (clock.now_us() - began_us) * rate // SECOND_US + 1)
                while number < due:
                    at_us = began_us + number * SECOND_US // rate
                    camera, sequence = f"cam-{number % CAMERAS}", number // CAMERAS
                    meta = FrameMeta(camera, at_us, 0, 640, 360, 1, sequence)
                    outgoing.frame(FrameSampled(meta, jpegs[number % len(jpegs)]))
                    number += 1
                await clock.sleep(TICK_US / SECOND_US)
            bus: Any = platform.bus
            await until(lambda: settled == total, 60, "every frame is given to the bus")
            await until(lambda: bus._passing._sender.bytes == 0, 60, "and the bus has sent it")
        stop.set()
        await sending
        await platform.close()
        by_bus = int(metrics.BUS_DROPPED.labels(FRAMES.name)._value.get())
        return Sent(dropped, by_bus, cost[0].cpu_s)

    return asyncio.run(work())


def _read(environment: Mapping[str, str], ready: Path, ended: Path, total: int) -> Got:
    async def work() -> Got:
        clock = SystemClock()
        platform = await open_platform(load(environment), clock, database=False)
        consumer = await platform.bus.consumer(
            [FRAMES.name], group=GROUP, member="detector", start="latest"
        )
        ages: list[float] = []
        next_of: dict[str, int] = {}
        in_order, over, first_us, last_us, committed_us = True, False, 0, 0, 0

        async def assigned() -> bool:
            await consumer.poll(1, 0.1)
            return len(consumer.assignment) == await platform.bus.partitions(FRAMES.name)

        await until(assigned, timeout_s=60)
        await asyncio.to_thread(ready.touch)
        with measure.costing() as cost:
            while len(ages) < total:
                records = await consumer.poll(BATCH, QUIET_S)
                if not records:
                    if over:
                        break
                    over = await asyncio.to_thread(ended.exists)
                    continue
                last_us = clock.now_us()
                first_us = first_us or last_us
                for record in records:
                    meta = FrameMeta.of(record.headers)
                    ages.append((last_us - meta.capture_us) / 1_000)
                    in_order &= meta.sequence >= next_of.get(meta.camera_id, 0)
                    next_of[meta.camera_id] = meta.sequence + 1
                if last_us - committed_us > SECOND_US:  # as detect, which has more to do
                    committed_us = last_us
                    await consumer.commit(records)
        with suppress(Exception):
            await platform.close()
        return Got(ages, in_order, (last_us - first_us) / SECOND_US, cost[0].cpu_s)

    return asyncio.run(work())
