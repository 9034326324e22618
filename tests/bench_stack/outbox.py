"""Row "outbox": rows of PostgreSQL's outbox to Kafka, acknowledged by it, and retired.

The rows are events of cameras' segments, keyed by camera, written as a service writes them. The
relay is the product's, alone on one core (`taskset`); the servers have what is left of the machine.
Its end is that no row is left; afterwards the topic must hold each event once, each camera's in
order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa

from shared import outbox
from shared.clock import SystemClock
from shared.db import tables
from shared.domain import GapReason
from shared.errors import LamppostError
from shared.messages import CAMERA_STATUS, SEGMENTS, GapRecorded, SegmentArchived, decode
from shared.outbox import Relay
from shared.platform import Platform, open_platform
from shared.runtime import Stop
from shared.settings import load
from tests.bench import measure
from tests.bench.measure import Cost, Figure, Row
from tests.support.servers.kafka import Kafka
from tests.support.servers.postgres import Postgres

SERVICE = "archive"
CAMERAS = 60
FULL, SMALL, ROUNDS = 30_000, 2_000, 3
WRITE = 1_000
REACH_US = 200.0
"""5,000 a second."""
LONGEST_S = 300.0


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    count, rounds = (SMALL, 1) if small else (FULL, ROUNDS)
    row = Row(f"Outbox: {count:,} rows to acknowledged and retired, on one core")
    wall = Figure("time a row", "us", REACH_US)
    cpu = Figure("CPU of the relay's process a row", "us", None)
    with Postgres(folder / "postgres") as database, Kafka(folder / "kafka") as broker:
        for number in range(rounds):
            environment = {
                **database.environment(database.fresh(f"round_{number}")),
                **broker.environment(),
                "LAMPPOST_KAFKA__TOPIC_PREFIX": f"round-{number}.",
                "LAMPPOST_STATE_DIR": str(folder / "state"),
            }
            cost, left, told = measure.isolated(_round, environment, count)
            wall.ours.append(cost.wall_s / count * 1e6)
            cpu.ours.append(cost.cpu_s / count * 1e6)
            row.expect(left == 0, f"{left} rows are left")
            wanted = {f"cam-{n}": list(range(n, count, CAMERAS)) for n in range(CAMERAS)}
            row.expect(told == wanted, "the topic holds other events, or in another order")
    row.figures = [wall, cpu]
    row.notes.append(f"{1e6 / wall.value:,.0f} rows/s; {measure.load()}")
    return row


def _round(environment: Mapping[str, str], count: int) -> tuple[Cost, int, dict[str, list[int]]]:
    async def work() -> tuple[Cost, int, dict[str, list[int]]]:
        platform = await open_platform(load(environment), SystemClock())
        try:
            await _write(platform, count)
            await _warm(platform)
            cores = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {max(cores)})
            with measure.costing() as cost:
                left = await _relay(platform)
            os.sched_setaffinity(0, cores)
            return cost[0], left, await _told(platform, count)
        finally:
            await platform.close()

    return asyncio.run(work())


async def _warm(platform: Platform) -> None:
    """A new broker takes seconds for its first idempotent producer."""
    status = GapRecorded("gap", "cam-0", 0, 1, GapReason.SILENT)
    warm = outbox.event(CAMERA_STATUS.name, "cam-0", status, source=SERVICE, at_us=0)
    for _ in range(10):
        with contextlib.suppress(LamppostError):
            await platform.bus.publish([warm])
            return


async def _write(platform: Platform, count: int) -> None:
    for first in range(0, count, WRITE):
        messages = [
            outbox.event(
                SEGMENTS.name, f"cam-{n % CAMERAS}",
                SegmentArchived(f"segment-{n}", f"cam-{n % CAMERAS}", n, n + 1, 1, "0" * 64, 5),
                source=SERVICE, at_us=n,
            )
            for n in range(first, min(first + WRITE, count))
        ]  # fmt: skip
        async with platform.database.write() as connection:
            await outbox.add(connection, SERVICE, messages, at_us=first)


async def _relay(platform: Platform) -> int:
    """Run the relay until nothing is left, as the service runs it; how many rows are."""
    relay, stop = Relay(platform, SERVICE), Stop()
    running = asyncio.create_task(relay.run(stop))
    began_us = platform.clock.monotonic_us()
    left = await _left(platform)
    while left and measure.seconds_since(began_us) < LONGEST_S:
        await platform.clock.sleep(0.05)
        left = await _left(platform)
    stop.set()
    await running
    return left


async def _left(platform: Platform) -> int:
    async with platform.database.read() as connection:
        query = sa.select(sa.exists().where(tables.outbox.c.service == SERVICE))
        return int(await connection.scalar(query) or 0)


async def _told(platform: Platform, count: int) -> dict[str, list[int]]:
    reader = await platform.bus.consumer([SEGMENTS.name], start="earliest")
    found: dict[str, list[int]] = {}
    told = 0
    while records := await reader.poll(5_000, 2.0):
        for record in records:
            found.setdefault(record.key, []).append(decode(record.value, SegmentArchived).start_us)
        told += len(records)
        if told >= count:
            records = await reader.poll(10, 0)
            assert not records, "more is told than was written"
            break
    return found
