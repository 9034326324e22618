"""Two archives at once on one store: whoever comes between whom, and wherever, no row is left
without bytes, no bytes without row, and nothing is lost that one of them still kept.

A lease keeps two from walking at once; one that was stopped in the middle goes on beside the next,
and archives file what recorders left beside whoever walks. Their clocks differ by some seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import sqlalchemy as sa

from services.archive.service import ArchiveService
from shared import ids, retention
from shared.clock import DAY_US, HOUR_US, SECOND_US, SimulatedClock
from shared.db import tables
from shared.errors import LamppostError
from shared.platform import Platform
from shared.settings import Settings
from shared.spool import RecorderSpool, item_name
from shared.tombstones import Purged, Tombstone, row_of
from tests.support import archiving, reconciling, turns
from tests.support.archiving import START_US, all_keys, all_rows
from tests.support.media_store import Made
from tests.support.reconciling import CAMERA, EXPIRY_US, POLICY, Store, made
from tests.support.turns import Turns

APART_US = 2 * SECOND_US
"""Between a clock and the database's: as far as is not yet doubted."""
STEPS = 80
"""More than anyone has."""
FORGOTTEN = (
    tables.segment, tables.segment_fragments, tables.ledger_day, tables.tombstone, tables.outbox,
    tables.hold_camera, tables.hold, tables.audit,
)  # fmt: skip
Act: TypeAlias = Callable[["World", Platform], Awaitable[None]]


def _set(clock: SimulatedClock, wall_us: int) -> None:
    """Forwards or back: each order begins anew."""
    clock.jump_wall(wall_us - clock.now_us())


class World:
    """One orphan: a recording that the store has and the database has not."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.one: Made = made()[0]
        self.key = ""
        rule = {"late_max_days": 60}
        self.here = archiving.settings_in(folder / "here", archive=rule)
        self.elsewhere = archiving.settings_in(folder / "elsewhere", archive=rule)
        """Of an archive on another volume, whose spool the walk does not see."""

    async def begin(self, now_us: int) -> None:
        """As it is before anyone comes: nothing is left of what was before."""
        store = self.store
        async with store.platform.database.write() as connection:
            for table in FORGOTTEN:
                await connection.execute(sa.delete(table))
        await store.platform.blobs.delete(await all_keys(store.platform))
        for settings in (self.here, self.elsewhere):
            for path in settings.path(settings.spool.dir).rglob("*.mp4"):
                path.unlink()
        segment = self.one.segment
        day = retention.recording_date(segment.end_us, POLICY.zone)
        self.key = ids.object_key(day, CAMERA, segment.start_us, segment.id)
        _set(store.clock, START_US + 60 * SECOND_US)
        await store.platform.blobs.put(
            self.key, self.one.data, sha256=segment.sha256, size_bytes=segment.size_bytes
        )
        _set(store.clock, now_us)

    def archive(self, platform: Platform, settings: Settings | None = None) -> ArchiveService:
        return archiving.archive(platform, settings or self.here)


async def walk(world: World, platform: Platform) -> None:
    """One walk; a page that met another's work is begun again, as `Reconciler.run` does."""
    reconciler = world.archive(platform).reconciler
    try:
        await reconciler.step()
    except LamppostError as error:
        assert error.retryable
        await reconciler.step()


async def _file(world: World, platform: Platform, settings: Settings) -> None:
    service = world.archive(platform, settings)
    archiving.file_segment(settings, world.one.segment, world.one.data)
    try:
        await archiving.drain(service)
    except LamppostError as error:
        assert error.retryable
        await archiving.drain(service)
    assert archiving.spool_files(settings) == []


async def file(world: World, platform: Platform) -> None:
    """The recorder's item, filed from the volume that the walk sees."""
    await _file(world, platform, world.here)


async def file_elsewhere(world: World, platform: Platform) -> None:
    """The same from a volume of another machine, whose archive died between put and commit."""
    await _file(world, platform, world.elsewhere)


async def hold(_: World, platform: Platform) -> None:
    """A hold is placed on the recording, for good."""
    made_ = archiving.hold(START_US, START_US + DAY_US, platform.clock.now_us(), lapses_at_us=None)
    await archiving.place(platform, made_)


async def aside(world: World, platform: Platform) -> None:
    """The video is set aside in the spool, and somebody walks."""
    spool = RecorderSpool(world.here.path(world.here.spool.dir), "local")
    segment = world.one.segment
    path = spool.bad / f"{item_name(CAMERA, segment.start_us, segment.id)}.mp4"
    path.write_bytes(world.one.data)
    await walk(world, platform)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with reconciling.opened(tmp_path) as store:
        yield World(store, tmp_path)


async def states(world: World) -> tuple[set[str], set[str]]:
    """Keys of rows, and of objects."""
    return {row["key"] for row in await world.store.rows()}, set(
        await all_keys(world.store.platform)
    )


async def check_audit(world: World, *, gone: bool) -> None:
    """What was removed was audited before; what was audited and then kept is said too."""
    found: list[dict[str, Any]] = await all_rows(world.store.platform, tables.audit)
    removals = [one for one in found if one["action"] == "orphan.remove"]
    kept = [one for one in found if one["action"] == "orphan.keep"]
    assert bool(removals) if gone else len(removals) == len(kept) <= 1


async def each(
    world: World, first: Act, second: Act, now_us: int, ahead_us: int, before: Act | None = None
) -> AsyncIterator[int]:
    """Every one-interruption order: after each the world stands as the two left it. The first's
    clock is so far before the second's, around `now_us`."""
    for at in range(1, STEPS):
        await world.begin(now_us)
        if before is not None:
            await before(world, world.store.platform)
        order: Turns
        clocks = [SimulatedClock(now_us - ahead_us // 2), SimulatedClock(now_us + ahead_us // 2)]

        async def between() -> None:
            await second(world, turns.second(world.store.platform, clocks[1], order))  # noqa: B023

        order = Turns(at, between)
        await first(world, turns.first(world.store.platform, clocks[0], order))
        await order.end()
        if not order.came:
            assert at > 5, "nothing was interrupted"
            return
        yield at
    raise AssertionError("more steps than expected")


LATER_US = START_US + 2 * HOUR_US


@pytest.mark.parametrize(
    ("first", "second"),
    [(walk, walk), (walk, file), (file, walk), (walk, file_elsewhere), (file_elsewhere, walk),
     (walk, hold)],
)  # fmt: skip
async def test_what_both_would_keep_is_kept_once(world: World, first: Act, second: Act) -> None:
    async for at in each(world, first, second, LATER_US, 0):
        rows, keys = await states(world)
        assert (rows, keys) == ({world.key}, {world.key}), f"step {at}"
        assert len(await world.store.rows()) == 1
        [count] = await all_rows(world.store.platform, tables.ledger_day)
        assert count["segments"] == 1
        await check_audit(world, gone=False)


@pytest.mark.parametrize("ahead_us", [2 * APART_US, -2 * APART_US])
async def test_one_for_whom_it_is_over_and_one_for_whom_it_is_not(
    world: World, ahead_us: int
) -> None:
    async for at in each(world, walk, walk, EXPIRY_US, ahead_us):
        rows, keys = await states(world)
        assert rows == keys, f"step {at}"
        await check_audit(world, gone=not keys)


@pytest.mark.parametrize("ahead_us", [2 * APART_US, -2 * APART_US])
@pytest.mark.parametrize("filing", [file, file_elsewhere])
async def test_filing_beside_one_for_whom_it_is_over(
    world: World, filing: Act, ahead_us: int
) -> None:
    first, second = (filing, walk) if ahead_us > 0 else (walk, filing)
    async for at in each(world, first, second, EXPIRY_US, ahead_us):
        rows, keys = await states(world)
        assert (rows, keys) == ({world.key}, {world.key}), f"step {at}"


async def test_a_hold_while_another_removes(world: World) -> None:
    async for at in each(world, walk, hold, EXPIRY_US + HOUR_US, 0):
        rows, keys = await states(world)
        assert not rows, f"step {at}"
        await check_audit(world, gone=not keys)
        await walk(world, world.store.platform)  # a hold that was in time keeps it: it is adopted
        rows, left = await states(world)
        assert rows == left == keys, f"step {at}"


async def test_the_same_bytes_are_set_aside_meanwhile(world: World) -> None:
    async for at in each(world, walk, aside, LATER_US, 0):
        rows, keys = await states(world)
        assert rows == keys, f"step {at}"
        assert [path.suffix for path in archiving.aside_files(world.here)] == [".mp4"]


async def test_both_remove_what_has_a_tombstone(world: World) -> None:
    async def purged(world: World, platform: Platform) -> None:
        one = world.one.segment
        day = retention.recording_date(one.end_us, POLICY.zone)
        gone = Purged(one.id, one.start_us, one.end_us, one.sha256, one.size_bytes)
        stone = Tombstone(
            id="claim", camera_id=CAMERA, recording_date=day, segments=(gone,), policy_version=1,
            due_at_us=0, claimed_at_us=0, bytes_gone_at_us=0, written_at_us=0,
        )  # fmt: skip
        async with platform.database.write() as connection:
            await connection.execute(sa.insert(tables.tombstone).values(row_of(stone)))

    async for at in each(world, walk, walk, LATER_US, 0, purged):
        assert await states(world) == (set(), set()), f"step {at}"
        await check_audit(world, gone=True)


async def test_boxes_whose_recording_is_filed_meanwhile(world: World) -> None:
    """Boxes without their recording go, unless it comes back before they are gone."""

    async def alone(world: World, platform: Platform) -> None:
        _set(world.store.clock, START_US + 60 * SECOND_US)
        await platform.blobs.delete([world.key])
        digest = hashlib.sha256(b"boxes").hexdigest()
        key = ids.boxes_key(world.key)
        await platform.blobs.put(key, b"boxes", sha256=digest, size_bytes=5)
        _set(world.store.clock, LATER_US)

    for first, second in ((walk, file_elsewhere), (file_elsewhere, walk)):
        async for at in each(world, first, second, LATER_US, 0, alone):
            rows, keys = await states(world)
            assert rows == {world.key}, f"step {at}"
            assert world.key in keys, f"step {at}"
            await check_audit(world, gone=len(keys) == 1)
