"""Row "index": sightings into PostgreSQL's partitions, against SQLAlchemy's `add_all`.

The messages and the peer are those of tests/bench/index.py, spread over twenty days, each of which
is a partition; the store is a real PostgreSQL with every sync. Each batch brings new sightings with
their pictures and the ends of those before; it is delivered once and then twice again, as after a
crash. Rounds of batches take turns. The peer needs hours for a million: it stops after the first
rounds (`BENCH_PEER_SIGHTINGS`), and we go on to the end (`BENCH_SIGHTINGS`). What the peer left is
compared with what we left of the same messages, and all rows with what was sent.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from services.archive.index import SightingIndexer
from services.retention.policy import ensure_policy
from shared.bus import Record
from shared.clock import DAY_US, SECOND_US, SimulatedClock
from shared.db.partitions import days_near
from shared.messages import SIGHTINGS, SightingUpdated, encode
from shared.platform import open_platform
from shared.settings import load
from shared.sightings import Sighting
from tests.bench import index as one_machine
from tests.bench import measure
from tests.bench.measure import Cost, Figure, Row
from tests.support.servers.postgres import Postgres

FULL, FULL_PEER, SMALL = 1_000_000, 50_000, 1_000
BATCH, DELIVERIES, NOW_US = one_machine.BATCH, one_machine.DELIVERIES, one_machine.NOW_US
PICTURE = one_machine.PICTURE_BYTES
EACH = BATCH // 2
"""New sightings of a batch; the rest are the ends of those of the batch before."""
SPAN_US = 20 * DAY_US
ROUND = 20
"""Batches of a round: 5,000 sightings."""
REACH = 1 / 6
SIDES = ("ours", "one life", "peer")
SERVER = {"shared_buffers": "256MB", "max_wal_size": "4GB"}


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    count = SMALL if small else int(os.environ.get("BENCH_SIGHTINGS", FULL))
    peers = SMALL if small else int(os.environ.get("BENCH_PEER_SIGHTINGS", FULL_PEER))
    total, with_peer = count // EACH, min(count, peers) // EACH
    row = Row(f"Index on PostgreSQL: {count:,} sightings, each batch delivered 3 times")
    wall = Figure("wall time a row, a new process at each delivery", "us", REACH)
    cpu = Figure("CPU of the process a row, the same", "us", None)
    life = Figure("wall time a row, one process", "us", REACH)
    alone = Figure("wall time a row, all of ours", "us", None)
    with Postgres(folder / "postgres", settings=SERVER) as server:
        for name in SIDES:
            server.fresh(name)
        for first in range(0, total, ROUND):
            some = range(first, min(first + ROUND, total))
            rows = len(some) * BATCH * DELIVERIES
            sides = SIDES if first < with_peer else SIDES[:1]
            for side in sides if first // ROUND % 2 == 0 else reversed(sides):
                cost = measure.isolated(
                    _timed, side, _environment(server, side, folder), some, total
                )
                wall_us, cpu_us = (value / rows * SECOND_US for value in (cost[1], cost[0]))
                if side == "ours":
                    alone.ours.append(wall_us)
                if first >= with_peer:
                    continue
                for figure, value in ((wall, wall_us), (cpu, cpu_us)):
                    if side != "one life":
                        (figure.ours if side == "ours" else figure.peer).append(value)
                if side != "ours":
                    (life.ours if side == "one life" else life.peer).append(wall_us)
        _compare(row, server, total, min(total, -(-with_peer // ROUND) * ROUND))
    row.figures = [wall, cpu, life, alone]
    row.notes.append(
        f"ours {SECOND_US * len(alone.ours) / sum(alone.ours):,.0f} rows/s over all, the peer"
        f" {SECOND_US * len(wall.peer) / sum(wall.peer):,.0f} rows/s over the first"
        f" {with_peer * EACH:,} sightings; {measure.load()}"
    )
    return row


def _environment(server: Postgres, side: str, folder: Path) -> dict[str, str]:
    return {
        **server.environment(side),
        "LAMPPOST_STATE_DIR": str(folder / f"state-{side}"),
        "LAMPPOST_LOG__LEVEL": "error",
    }


def _timed(side: str, environment: Mapping[str, str], batches: range, total: int) -> Cost:
    work = one_machine.peer_side if side == "peer" else one_machine.ours_side

    async def deliver() -> Cost:
        settings = load(environment)
        platform = await open_platform(settings, SimulatedClock(NOW_US))
        cpu_s = wall_s = 0.0
        try:
            await platform.database.ensure_days(_days())
            await ensure_policy(platform, settings)
            indexer = SightingIndexer(platform, settings)
            for number in batches:
                some = [_batch(number, total)]
                if side == "one life":
                    cost = await one_machine.delivered(indexer, some)
                else:
                    cost = await work(platform, settings, some)
                cpu_s, wall_s = cpu_s + cost.cpu_s, wall_s + cost.wall_s
        finally:
            await platform.close()
        return Cost(cpu_s, wall_s)

    return asyncio.run(deliver())


def _days() -> set[date]:
    """Made ahead, as in production: neither side pays for them."""
    return days_near(range(NOW_US - SPAN_US - DAY_US, NOW_US + DAY_US, DAY_US // 2))


# Messages: of each batch's number alone, so that any part of them can be made by itself


def _batch(number: int, total: int) -> list[Record]:
    """Half of it is new, half are the ends of those before (of the first one: new again)."""
    chance = random.Random(number)
    begun = _begun(number, total)
    events = [
        SightingUpdated(one, False, NOW_US + number, b"\xff\xd8\xff" + chance.randbytes(PICTURE))
        for one in begun
    ]
    ends = [one_machine.longer(one) for one in _begun(number - 1, total)] if number else begun
    events += [SightingUpdated(one, number > 0, NOW_US + number) for one in ends]
    chance.shuffle(events)
    return [
        Record(SIGHTINGS.name, 0, number * BATCH + at, one.sighting.camera_id, encode(one), (), 0)
        for at, one in enumerate(events)
    ]


def _begun(number: int, total: int) -> list[Sighting]:
    chance = random.Random(f"begun {number}")
    moved_us = SPAN_US * (total - number) // total
    return [one_machine.sighting(chance, 0, index, back_us=moved_us) for index in range(EACH)]


# What is left


def _compare(row: Row, server: Postgres, total: int, with_peer: int) -> None:
    """No row twice, none missing, those that are over as they should be, and both sides alike."""
    for name, batches in (("ours", total), ("one life", with_peer), ("peer", with_peer)):
        counts = server.psql(
            "SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE ended),"
            " (SELECT count(*) FROM thumbnail), (SELECT count(DISTINCT sighting_id) FROM thumbnail)"
            " FROM sighting",
            name,
        )
        all_of = batches * EACH
        expected = f"{all_of}|{all_of}|{all_of - EACH}|{all_of}|{all_of}"
        row.expect(counts == expected, f"{name}: {counts}, not {expected}")
    # The peer's last batch has no ends yet where ours went on.
    ends = {name: server.psql(_DIGEST.format(until=NOW_US + with_peer - 1), name) for name in SIDES}
    row.expect(len(set(ends.values())) == 1, f"not the same rows: {ends}")


_DIGEST = """
SELECT count(*), md5(string_agg(md5(s.*::text) || md5(t.jpeg), '' ORDER BY s.id))
FROM sighting s JOIN thumbnail t ON t.sighting_id = s.id AND t.recording_date = s.recording_date
WHERE s.ended AND s.sent_at_us <= {until}
"""
