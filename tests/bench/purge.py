"""A day's purge: the retention service against a plain loop that deletes one file after another.

The store is a month old to the program: its clock stands after the expiry of the day. Objects have
their blocks, and nothing of them is in the page cache, as after a month. The loop works in batches
of 500 rows; it marks them, deletes one object a call, then removes their rows with one tombstone a
batch, in the same two transactions a batch and on the same store. It writes no journal and tells
nobody, which is to its advantage. A second loop goes below the store: it unlinks files itself and
syncs each folder once a batch.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import RowMapping

from services.api import holds
from services.retention.policy import ensure_policy
from services.retention.service import RetentionService
from shared import civil, ids, retention
from shared.audit import Actor
from shared.blobs import metadata
from shared.clock import DAY_US, SECOND_US, SimulatedClock
from shared.db import policies, rows, tables
from shared.domain import Camera, Fragment, HoldReason, Segment, Source
from shared.platform import Platform, open_platform
from shared.retention import Policy
from shared.settings import Settings
from shared.spool import sync_dir
from shared.tombstones import Purged, pack_segments
from tests.bench import measure, store
from tests.bench.measure import Cost, Figure, Row
from tests.support import segments

CAMERAS = tuple(f"mk-{number:02d}" for number in range(1, 15))
DAY = date(2026, 9, 1)
SIZE = 100_000
BATCH = 500
HELD_SHARE = 0.05
CAMERAS_A_HOLD = 4
OFFICER = Actor("officer-1", "Officer One")
A_FRAGMENT_TABLE = 60
MANY, FEW = 20_000, 280


class Left(NamedTuple):
    """What a side left behind."""

    rows: frozenset[str]
    objects: frozenset[str]
    cost: Cost


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    count, rounds = (FEW, 1) if small else (MANY, 5)
    row = Row(f"a day's purge: {count} segments of 100 KB, 5 % held")
    figures = [
        Figure("wall time, loop on the store", "s", 0.6),
        Figure("CPU, loop on the store", "s", 0.6),
        Figure("wall time, loop below the store (one round)", "s", None),
        Figure("CPU, loop below the store (one round)", "s", None),
    ]
    for number in range(rounds):
        found = {}
        for side in (_ours, _loop, *((_raw_loop,) if number == 0 else ())):
            there = folder / f"{side.__name__}-{number}"
            held = asyncio.run(_seed(there, count))
            os.sync()
            found[side] = left = measure.isolated(_timed, side, there)
            shutil.rmtree(there)
            name = f"{side.__name__.strip('_')}, round {number + 1}"
            row.expect(left.rows == held, f"{name}: {len(left.rows)} rows left, {len(held)} held")
            row.expect(left.objects == held, f"{name}: {len(left.objects)} objects left")
        for at, peer in ((0, _loop), (2, _raw_loop)):
            if peer not in found:
                continue
            for figure, pick in ((figures[at], 1), (figures[at + 1], 0)):
                figure.ours.append(found[_ours].cost[pick])
                figure.peer.append(found[peer].cost[pick])
        row.notes.append(f"round {number + 1}: {len(held)} held and kept; {measure.load()}")
    row.figures = figures
    return row


# The store


@asynccontextmanager
async def _opened(folder: Path, settings: Settings, at_us: int) -> AsyncIterator[Platform]:
    platform = await open_platform(settings, SimulatedClock(at_us))
    try:
        yield platform
    finally:
        await platform.close()


def _settings(folder: Path) -> Settings:
    return store.settings_of(folder, log={"level": "error"})


def _expired_us(policy: Policy) -> int:
    return civil.midnight_us(DAY, policy.zone) + (policy.retention_days + 1) * DAY_US + SECOND_US


async def _seed(folder: Path, count: int) -> frozenset[str]:
    """A day of every camera, committed on the day, and holds on a twentieth of it; the held."""
    settings = _settings(folder)
    policy = Policy(1, settings.retention.days, "civil_date", settings.site.timezone)
    start_us = civil.midnight_us(DAY, policy.zone)
    async with _opened(folder, settings, start_us) as platform:
        await platform.database.migrate()
        await ensure_policy(platform, settings)
        made = list(_segments(count, start_us))
        root = settings.path(settings.stores.blobs_dir)
        await asyncio.to_thread(_write_objects, root, policy, made)
        await _insert(platform, policy, made)
    # Placed shortly before the day expires, so that they are in force after.
    span = round(DAY_US * HELD_SHARE)
    held_from_us = start_us + 9 * DAY_US // 24
    async with _opened(folder, settings, _expired_us(policy) - 3600 * SECOND_US) as platform:
        for first in range(0, len(CAMERAS), CAMERAS_A_HOLD):
            await holds.place(
                platform,
                settings,
                OFFICER,
                holds.HoldRequest(
                    camera_ids=CAMERAS[first : first + CAMERAS_A_HOLD],
                    start_us=held_from_us,
                    end_us=held_from_us + span,
                    case_ref="BENCH-1",
                    reason=HoldReason.CRIMINAL_INVESTIGATION,
                ),
            )
    slack = retention.MIN_UNCERTAINTY_US
    return frozenset(
        segment.id
        for segment in made
        if segment.end_us > held_from_us - slack and segment.start_us < held_from_us + span + slack
    )


def _segments(count: int, start_us: int) -> Iterator[Segment]:
    """As many minutes of each camera as there are, evenly over the day."""
    chance = random.Random(count)
    each = -(-count // len(CAMERAS))
    length = min(60 * SECOND_US, DAY_US // each)
    step = DAY_US // each
    fragments = tuple(
        Fragment(n * 1_600, 1_600, n * SECOND_US, (n + 1) * SECOND_US, not n % 2, bytes(32), 30)
        for n in range(A_FRAGMENT_TABLE)
    )
    for number in range(count):
        minute, camera = divmod(number, len(CAMERAS))
        begin = start_us + minute * step
        yield segments.make(
            CAMERAS[camera],
            begin,
            begin + length,
            fragments=fragments,
            size_bytes=SIZE,
            sha256=f"{chance.getrandbits(256):064x}",
            width=1920,
            height=1080,
            init_size=800,
        )


def _write_objects(root: Path, policy: Policy, made: Sequence[Segment]) -> None:
    """Objects with their blocks and their metadata; a month ago somebody wrote bytes into them."""
    keeper = metadata.probe(root / ".unfinished")
    for segment in made:
        path = root / segments.key_of(segment, policy)
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        try:
            os.posix_fallocate(fd, 0, SIZE)
        finally:
            os.close(fd)
        found = metadata.Metadata(segment.sha256, segment.end_us, {"lamppost": "standard"})
        keeper.save(path, found, sync=False)


async def _insert(platform: Platform, policy: Policy, made: Sequence[Segment]) -> None:
    async with platform.database.write() as connection:
        await connection.execute(
            sa.insert(tables.user).values(
                id=OFFICER.id, name=OFFICER.name, roles=[], created_at_us=0
            )
        )
        cameras = [Camera(id=name, name=name, source=Source("rtsp://h/x")) for name in CAMERAS]
        await connection.execute(
            sa.insert(tables.camera), [rows.camera_row(camera, 0) for camera in cameras]
        )
        for first in range(0, len(made), 2_000):
            some = made[first : first + 2_000]
            await connection.execute(
                sa.insert(tables.segment), [segments.row(segment, policy) for segment in some]
            )
            await connection.execute(
                sa.insert(tables.segment_fragments),
                [segments.fragments_row(segment) for segment in some],
            )
        counts = {name: sum(s.camera_id == name for s in made) for name in CAMERAS}
        await connection.execute(
            sa.insert(tables.ledger_day),
            [
                {"camera_id": name, "recording_date": DAY, "segments": number}
                for name, number in counts.items()
            ],
        )


# The sides


def _timed(side: Callable[..., Any], folder: Path) -> Left:
    """Run a side in this process; what it took and what it left."""

    async def work() -> Left:
        settings = _settings(folder)
        policy = Policy(1, settings.retention.days, "civil_date", settings.site.timezone)
        async with _opened(folder, settings, _expired_us(policy)) as platform:
            async with platform.database.read() as connection:
                await policies.newest(connection)
            with measure.costing() as cost:
                await side(platform, settings)
            left = frozenset(row["id"] for row in await _live(platform))
            objects = frozenset([info.key[-40:-4] async for info in platform.blobs.list()])
            return Left(left, objects, cost[0])

    return asyncio.run(work())


async def _ours(platform: Platform, settings: Settings) -> None:
    outcome = await RetentionService(platform, settings).run_once()
    assert not outcome.stopped, outcome


async def _loop(platform: Platform, settings: Settings) -> None:
    async def delete(batch: Sequence[RowMapping]) -> None:
        for row in batch:
            await platform.blobs.delete([row["key"], ids.boxes_key(row["key"])])

    await _batches(platform, delete)


async def _raw_loop(platform: Platform, settings: Settings) -> None:
    root = settings.path(settings.stores.blobs_dir)

    def unlink(batch: Sequence[RowMapping]) -> None:
        for row in batch:
            for key in (row["key"], ids.boxes_key(row["key"])):
                (root / key).unlink(missing_ok=True)
        for folder in {(root / row["key"]).parent for row in batch}:
            sync_dir(folder)

    async def delete(batch: Sequence[RowMapping]) -> None:
        await asyncio.to_thread(unlink, batch)

    await _batches(platform, delete)


async def _batches(
    platform: Platform, delete: Callable[[Sequence[RowMapping]], Awaitable[None]]
) -> None:
    """Mark, delete, remove: 500 rows at a time, in order of expiry."""
    segment, fragments = tables.segment, tables.segment_fragments
    now_us = platform.clock.now_us()
    holds_table, cameras = tables.hold, tables.hold_camera
    slack = retention.MIN_UNCERTAINTY_US
    held = (
        sa.select(sa.literal(1))
        .select_from(cameras.join(holds_table, holds_table.c.id == cameras.c.hold_id))
        .where(
            cameras.c.camera_id == segment.c.camera_id,
            holds_table.c.start_us < segment.c.end_us + slack,
            holds_table.c.end_us > segment.c.start_us - slack,
            holds_table.c.released_at_us.is_(None),
        )
        .exists()
    )
    query = (
        sa.select(segment)
        .where(segment.c.state == "live", segment.c.expires_at_us <= now_us, sa.not_(held))
        .order_by(segment.c.expires_at_us, segment.c.camera_id, segment.c.id)
        .limit(BATCH)
    )
    while True:
        async with platform.database.write() as connection:
            batch = (await connection.execute(query)).mappings().all()
            some = [row["id"] for row in batch]
            await connection.execute(
                sa.update(segment).where(segment.c.id.in_(some)).values(state="purging")
            )
        if not batch:
            return
        await delete(batch)
        async with platform.database.write() as connection:
            await connection.execute(sa.insert(tables.tombstone).values(_tombstone(batch, now_us)))
            await connection.execute(sa.delete(fragments).where(fragments.c.segment_id.in_(some)))
            await connection.execute(sa.delete(segment).where(segment.c.id.in_(some)))


def _tombstone(batch: Sequence[RowMapping], now_us: int) -> dict[str, Any]:
    gone = tuple(
        Purged(row["id"], row["start_us"], row["end_us"], row["sha256"], row["size_bytes"])
        for row in batch
    )
    return {
        "id": ids.new_id(),
        "camera_id": batch[0]["camera_id"],
        "recording_date": DAY,
        "segment_count": len(gone),
        "size_bytes": sum(item.size_bytes for item in gone),
        "segments": pack_segments(gone),
        "policy_version": 1,
        "due_at_us": batch[0]["expires_at_us"],
        "claimed_at_us": now_us,
        "bytes_gone_at_us": now_us,
        "written_at_us": now_us,
    }


async def _live(platform: Platform) -> Sequence[RowMapping]:
    async with platform.database.read() as connection:
        query = sa.select(tables.segment.c.id, tables.segment.c.key)
        return (await connection.execute(query)).mappings().all()
