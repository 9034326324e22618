"""Row "retention": a day leaves PostgreSQL and SeaweedFS, against row and single deletes.

Rows: two million sightings of one date on fourteen cameras, some with pictures, and the fragment
tables of 20,000 segments, of which the 5 % that a hold covers are still there. Ours is what a run
of retention does once the segments are purged: the day's partitions are swapped, and the exact rule
is asked of what stays. The peer deletes the same rows by one statement a table, with the held range
written into it, and then vacuums. Both work on copies of one database, on a server with every sync.
What dropping the day's files takes by itself stands beside it: no swap of partitions takes less.

Objects: 19,000 objects by retention's own batches, a claim each, four at a time, against
`delete_object` of boto3 for each object, four at a time. None has boxes beside it, which rows say,
so that neither side asks for any. What is left is compared.
"""

from __future__ import annotations

import asyncio
import hashlib
import statistics
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import psutil

from services.api import holds_queries
from services.retention.executor import delete_bytes
from services.retention.policy import ensure_policy
from services.retention.service import LANES, RetentionService
from shared import civil, ids
from shared.blobs import Blobs
from shared.blobs.s3 import open_blobs
from shared.bus import Bus
from shared.clock import DAY_US, SECOND_US, SimulatedClock, SystemClock
from shared.db import tables
from shared.db.partitions import partition
from shared.db.postgres import PostgresDatabase, open_database
from shared.domain import Hold, HoldReason
from shared.platform import Platform
from shared.retention import PROVISIONAL_US, Policy
from shared.settings import Settings, load
from tests.bench import measure
from tests.bench.measure import Cost, Figure, Row, costing, isolated
from tests.support.servers.postgres import Postgres
from tests.support.servers.seaweed import Seaweed

DAY = date(2026, 9, 1)
CAMERAS = 14
SIGHTINGS, SEGMENTS, ROUNDS = 2_000_000, 20_000, 3
FEW_SIGHTINGS, FEW_SEGMENTS = 28_000, 1_400
HELD = 0.05
CLAIM = 500
"""Segments of a claim, as `retention.claim_max` has it."""
A_PICTURE = 20
"""One sighting in so many has its picture here; all have data of the usual size."""
ROWS_REACH, OBJECTS_REACH = 0.05, 0.25
SERVER = {"shared_buffers": "512MB", "max_wal_size": "8GB", "autovacuum": "off"}
"""Autovacuum would begin at some moment in either side's time; the peer vacuums by itself."""
ENDED_S = 1.0
"""By then the backends of closed connections are gone."""


class Day(NamedTuple):
    """Where the day lies, and what of it is held: whole segments."""

    start_us: int
    length_us: int
    held_us: tuple[int, int]
    sightings: int
    segments: int

    @property
    def of_camera(self) -> int:
        return self.segments // CAMERAS


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    day = _day(*((FEW_SIGHTINGS, FEW_SEGMENTS) if small else (SIGHTINGS, SEGMENTS)))
    row = Row(f"A day's retention: {day.sightings:,} sightings, {day.segments:,} objects, 5 % held")
    _rows(folder, day, 1 if small else ROUNDS, row)
    _objects(folder, day, 1 if small else 2, row)
    return row


def _day(sightings: int, segments: int) -> Day:
    policy = Policy(1, 30, "civil_date", "Asia/Hong_Kong")
    start_us = civil.midnight_us(DAY, policy.zone)
    count = segments // CAMERAS
    length_us = DAY_US // count
    first, last = count * 2 // 5, count * 2 // 5 + round(count * HELD)
    return Day(
        start_us,
        length_us,
        (start_us + first * length_us, start_us + last * length_us),
        sightings,
        segments,
    )


# Rows


def _rows(folder: Path, day: Day, rounds: int, row: Row) -> None:
    wall = Figure("rows: time until they are gone and the space is free", "s", ROWS_REACH)
    cpu = Figure("rows: CPU of the client", "s", None)
    backends = Figure("rows: CPU of PostgreSQL's backends", "s", None)
    waits = Figure("rows: longest wait of a reader meanwhile", "s", None)
    with Postgres(folder / "postgres", settings=SERVER) as server:
        server.fresh("seed")
        asyncio.run(_seed(_settings(server, "seed", folder), day))
        for number in range(rounds):
            found = {}
            sides = (_swap, _delete) if number % 2 == 0 else (_delete, _swap)
            for side in sides:
                server.fresh("day", template="seed")
                server.psql("checkpoint")
                before_s = _backends_s(server)
                found[side] = isolated(side, dict(server.environment("day")), folder, day)
                mine = backends.ours if side is _swap else backends.peer
                mine.append(_backends_s(server) - before_s)
                _compare_rows(row, server, day, side.__name__)
                server.drop("day")
            for figure, pick in ((wall, 1), (cpu, 0)):
                figure.ours.append(found[_swap][0][pick])
                figure.peer.append(found[_delete][0][pick])
            waits.ours.append(found[_swap][1])
            waits.peer.append(found[_delete][1])
            row.notes.append(f"rows, round {number + 1}: {measure.load()}")
        floor = _floor(server, folder, wall.peer)
    row.figures += [wall, floor, cpu, backends, waits]


def _floor(server: Postgres, folder: Path, peer: list[float]) -> Figure:
    """Where the disk takes longer than the reach to free the files, no swap can meet it."""
    server.fresh("day", template="seed")
    server.psql("checkpoint")
    cost = isolated(_drop_alone, dict(server.environment("day")), folder)
    server.drop("day")
    what = "rows: dropping the day's files alone, keeping nothing"
    return Figure(what, "s", None, [cost.wall_s], [statistics.median(peer)])


def _backends_s(server: Postgres) -> float:
    """CPU of the backends that have ended: on a busy machine it tells more than time."""
    measure.rest(ENDED_S)
    spent = psutil.Process(server._process.pid).cpu_times()
    return float(spent.children_user + spent.children_system)


def _settings(server: Postgres, name: str, folder: Path) -> Settings:
    return _of(server.environment(name), folder)


def _of(environment: Mapping[str, str], folder: Path) -> Settings:
    return load(
        {
            **environment,
            "LAMPPOST_STATE_DIR": str(folder / "state"),
            "LAMPPOST_LOG__LEVEL": "error",
            "LAMPPOST_POSTGRES__DAYS_BACK": "0",
        },
        {},
    )


async def _connect(settings: Settings) -> Any:
    found = settings.postgres
    assert found.password_file is not None
    return await asyncpg.connect(
        host=found.host,
        port=found.port,
        user=found.user,
        database=found.database,
        password=found.password_file.read_text("utf-8").strip(),
        server_settings={"TimeZone": "UTC"},
    )


async def _seed(settings: Settings, day: Day) -> None:
    clock = SimulatedClock(day.start_us)
    database = open_database(settings, clock)
    expires_us = day.start_us + 31 * DAY_US
    await ensure_policy(_platform(database, clock), settings)
    await database.ensure_days([DAY])
    hold = Hold(
        id=ids.new_id(),
        camera_ids=tuple(f"mk-{n:02d}" for n in range(CAMERAS)),
        start_us=day.held_us[0] + 3 * SECOND_US,
        end_us=day.held_us[1] - 3 * SECOND_US,
        case_ref="BENCH-1",
        reason=HoldReason.CRIMINAL_INVESTIGATION,
        requester_id="officer-1",
        placed_at_us=expires_us - 3600 * SECOND_US,
        lapses_at_us=expires_us - 3600 * SECOND_US + PROVISIONAL_US,
    )
    async with database.write() as connection:
        await holds_queries.insert(connection, hold)
    await database.close()
    plain = await _connect(settings)
    each_us = DAY_US * CAMERAS // day.sightings
    await plain.execute(f"""
        INSERT INTO sighting (id, camera_id, start_us, end_us, recording_date, expires_at_us,
            class_name, confidence, min_x, min_y, max_x, max_y, speed, colour_upper, ended,
            zones_version, data, sent_at_us, committed_at_us)
        SELECT 's' || lpad(g::text, 35, '0'), 'mk-' || lpad((g % {CAMERAS})::text, 2, '0'),
            {day.start_us} + (g / {CAMERAS}) * {each_us}::bigint,
            {day.start_us} + (g / {CAMERAS}) * {each_us}::bigint + least({each_us}, 8000000),
            '{DAY}', {expires_us}, 'person', 0.8, 0.1, 0.1, 0.3, 0.4, 'slow', 'red', true, 0,
            decode(repeat(md5(g::text), 12), 'hex'), 0, {day.start_us}
        FROM generate_series(0, {day.sightings - 1}) g""")
    await plain.execute(f"""
        INSERT INTO thumbnail (sighting_id, recording_date, captured_us, jpeg)
        SELECT id, recording_date, start_us, decode(repeat(md5(id), 180), 'hex')
        FROM sighting WHERE right(id, 9)::int % {A_PICTURE} = 0""")
    await plain.execute(f"""
        INSERT INTO segment_fragments (segment_id, recording_date, data)
        SELECT 'g' || lpad(g::text, 35, '0'), '{DAY}', decode(repeat(md5(g::text), 160), 'hex')
        FROM generate_series(0, {day.of_camera * CAMERAS - 1}) g""")
    await plain.execute(f"""
        INSERT INTO segment (id, camera_id, start_us, end_us, effective_start_us, effective_end_us,
            recording_date, expires_at_us, policy_version, state, key, size_bytes, sha256, codec,
            codec_string, width, height, timescale, init_size, init_sha256, connection_id, recorder,
            epoch, clock_source, clock_uncertainty_us, software, committed_at_us)
        SELECT id, camera, s, s + {day.length_us}, s, s + {day.length_us}, '{DAY}', {expires_us}, 1,
            'live', id, 1, '', 'h264', '', 1, 1, 90000, 0, '', '', '', 1, 'receipt', 0, '',
            {day.start_us}
        FROM (SELECT 'g' || lpad(g::text, 35, '0') AS id,
                'mk-' || lpad((g % {CAMERAS})::text, 2, '0') AS camera,
                {day.start_us} + (g / {CAMERAS}) * {day.length_us}::bigint AS s
            FROM generate_series(0, {day.of_camera * CAMERAS - 1}) g) of
        WHERE s >= {day.held_us[0]} AND s < {day.held_us[1]}""")
    await plain.execute(f"""
        INSERT INTO ledger_day (camera_id, recording_date, segments)
        SELECT 'mk-' || lpad(g::text, 2, '0'), '{DAY}', {day.of_camera}
        FROM generate_series(0, {CAMERAS - 1}) g""")
    await plain.execute("VACUUM ANALYZE")
    await plain.close()


def _platform(database: PostgresDatabase | Any, clock: SimulatedClock) -> Platform:
    """Of the ports this row uses the database alone."""
    nothing: Any = _Nothing()
    bus: Bus = nothing
    blobs: Blobs = nothing
    return Platform(clock=clock, bus=bus, blobs=blobs, database=database, internal_key="x" * 32)


class _Nothing:
    async def sweep(self, _before_us: int) -> int:
        return 0


def _swap(environment: dict[str, str], folder: Path, day: Day) -> tuple[Cost, float]:
    """Ours."""

    async def work() -> tuple[Cost, float]:
        settings = _of(environment, folder)
        clock = SimulatedClock(day.start_us + 31 * DAY_US + SECOND_US)
        database = open_database(settings, clock)
        service = RetentionService(_platform(database, clock), settings)
        service._leaving.follow(await service._policy_in_force())
        reader = asyncio.create_task(_longest_wait(settings))
        with costing() as cost:
            await service._sweep(await service._leaving.run())
        waited = await _told(reader)
        await database.close()
        return cost[0], waited

    return asyncio.run(work())


def _delete(environment: dict[str, str], folder: Path, day: Day) -> tuple[Cost, float]:
    """The peer."""
    held = f"start_us < {day.held_us[1]} AND end_us > {day.held_us[0]}"
    statements = (
        f"DELETE FROM thumbnail t WHERE recording_date = '{DAY}' AND NOT EXISTS (SELECT FROM"
        f" sighting s WHERE recording_date = '{DAY}' AND s.id = t.sighting_id AND {held})",
        f"DELETE FROM sighting WHERE recording_date = '{DAY}' AND NOT ({held})",
        f"DELETE FROM segment_fragments f WHERE recording_date = '{DAY}' AND NOT EXISTS (SELECT"
        f" FROM segment g WHERE recording_date = '{DAY}' AND g.id = f.segment_id)",
        "VACUUM thumbnail",
        "VACUUM sighting",
        "VACUUM segment_fragments",
    )

    async def work() -> tuple[Cost, float]:
        settings = _of(environment, folder)
        plain = await _connect(settings)
        reader = asyncio.create_task(_longest_wait(settings))
        with costing() as cost:
            for statement in statements:
                await plain.execute(statement)
        waited = await _told(reader)
        await plain.close()
        return cost[0], waited

    return asyncio.run(work())


def _drop_alone(environment: dict[str, str], folder: Path) -> Cost:
    """The floor: the day's partitions go at once, and what a hold covers with them."""

    async def work() -> Cost:
        plain = await _connect(_of(environment, folder))
        every = ", ".join(partition(table.name, DAY) for table in tables.DAILY)
        with costing() as cost:
            await plain.execute(f"DROP TABLE {every}")
        await plain.close()
        return cost[0]

    return asyncio.run(work())


async def _longest_wait(settings: Settings) -> float:
    """Look for one sighting over and over; the longest that it took, in seconds."""
    plain, longest, clock = await _connect(settings), 0.0, SystemClock()
    try:
        while True:
            began_us = clock.monotonic_us()
            await plain.fetchval(
                "SELECT count(*) FROM sighting WHERE camera_id = 'mk-01' AND start_us = 0"
            )
            longest = max(longest, measure.seconds_since(began_us))
            await clock.sleep(0.01)
    except asyncio.CancelledError:
        return longest
    finally:
        await plain.close()


async def _told(reader: asyncio.Task[float]) -> float:
    reader.cancel()
    with suppress(asyncio.CancelledError):
        return await reader
    return 0.0


def _compare_rows(row: Row, server: Postgres, day: Day, side: str) -> None:
    overlap = f"start_us < {day.held_us[1]} AND end_us > {day.held_us[0]}"
    sightings = int(server.psql("select count(*) from sighting", "day"))
    held = int(server.psql(f"select count(*) from sighting where {overlap}", "day"))
    expected = int(server.psql(f"select count(*) from sighting where {overlap}", "seed"))
    row.expect(sightings == held == expected, f"{side}: {sightings} sightings left, not {expected}")
    for table, name, of in (("thumbnail", "sighting_id", "sighting"),
                            ("segment_fragments", "segment_id", "segment")):  # fmt: skip
        query = f"select count(*) from {table} t join {of} o on o.id = t.{name}"
        left, right = (int(server.psql(query, where)) for where in ("day", "seed"))
        every = int(server.psql(f"select count(*) from {table}", "day"))
        if table == "thumbnail":
            right = int(server.psql(f"{query} where {overlap}", "seed"))
        row.expect(every == left == right, f"{side}: {every} rows of {table} left, not {right}")


# Objects


def _objects(folder: Path, day: Day, rounds: int, row: Row) -> None:
    wall = Figure("objects: time until they are gone", "s", OBJECTS_REACH)
    cpu = Figure("objects: CPU of the client", "s", None)
    count = day.of_camera * CAMERAS
    held = round(count * HELD)
    with Seaweed(folder / "store") as store:
        for number in range(rounds):
            found = {}
            for side in (_batches, _single) if number % 2 == 0 else (_single, _batches):
                bucket = f"{side.__name__.strip('_')}-{number}"
                environment = {**store.environment(), "LAMPPOST_S3__BUCKET": bucket}
                found[side] = isolated(side, environment, count, held)
                left = found[side][1]
                row.expect(left == held, f"{bucket}: {left} objects left, {held} held")
            for figure, pick in ((wall, 1), (cpu, 0)):
                figure.ours.append(found[_batches][0][pick])
                figure.peer.append(found[_single][0][pick])
            row.notes.append(f"objects, round {number + 1}: {measure.load()}")
    row.figures += [wall, cpu]


def _keys(count: int) -> list[str]:
    return [
        ids.object_key(DAY, f"mk-{n % CAMERAS:02d}", n * SECOND_US, f"{n:036d}")
        for n in range(count)
    ]


async def _put_all(blobs: Blobs, keys: list[str]) -> None:
    slots = asyncio.Semaphore(16)

    async def put(key: str) -> None:
        async with slots:
            await blobs.put(key, b"x" * 1_000, sha256=_SHA256, size_bytes=1_000)

    for first in range(0, len(keys), 1_000):
        await asyncio.gather(*map(put, keys[first : first + 1_000]))


_SHA256 = hashlib.sha256(b"x" * 1_000).hexdigest()


def _batches(environment: dict[str, str], count: int, held: int) -> tuple[Cost, int]:
    """Ours: claims of 500 segments, `LANES` at a time."""

    async def work() -> tuple[Cost, int]:
        blobs = await open_blobs(load(environment, {}), SystemClock())
        keys = _keys(count)
        await _put_all(blobs, keys)
        due = keys[held:]
        claims = iter([due[first : first + CLAIM] for first in range(0, len(due), CLAIM)])

        async def lane() -> None:
            for claim in claims:
                await delete_bytes(blobs, claim)

        with costing() as cost:
            await asyncio.gather(*(lane() for _ in range(LANES)))
        left = [info.key async for info in blobs.list()]
        await blobs.close()
        return cost[0], len(left)

    return asyncio.run(work())


def _single(environment: dict[str, str], count: int, held: int) -> tuple[Cost, int]:
    """The peer: a request for each object."""
    import boto3

    settings = load(environment, {})
    keys = _keys(count)

    async def put() -> None:
        blobs = await open_blobs(settings, SystemClock())
        await _put_all(blobs, keys)
        await blobs.close()

    async def left() -> int:
        blobs = await open_blobs(settings, SystemClock())
        found = [info.key async for info in blobs.list()]
        await blobs.close()
        return len(found)

    asyncio.run(put())
    section = settings.s3
    assert section.access_key_file is not None and section.secret_key_file is not None
    client = boto3.client(
        "s3",
        endpoint_url=section.endpoint,
        aws_access_key_id=section.access_key_file.read_text().strip(),
        aws_secret_access_key=section.secret_key_file.read_text().strip(),
        region_name=section.region,
    )
    bucket = section.bucket
    with ThreadPoolExecutor(LANES) as threads, costing() as cost:
        list(threads.map(lambda key: client.delete_object(Bucket=bucket, Key=key), keys[held:]))
    return cost[0], asyncio.run(left())
