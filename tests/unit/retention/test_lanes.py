"""Claims that overlap: each keeps its four steps, whatever dies or fails in another lane."""

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Sequence
from datetime import date
from pathlib import Path

import pytest

from shared.clock import DAY_US, SECOND_US
from shared.db import tables
from shared.errors import Kind, LamppostError
from shared.tombstones import Journal, Purged, Tombstone, journal
from tests.support.retention_asks import gone
from tests.support.retention_machine import STEPS
from tests.support.retention_world import Crash, World, local, world

NOON = "2024-04-16T12:00"
EXPIRY = "2024-05-17T00:00"
CAMERAS = ("cam-1", "cam-2")
LANES = 3


@pytest.fixture
async def w(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, NOON, claim_max=2) as found:
        yield found


async def filed(w: World, each: int) -> list[str]:
    return [
        str(await w.file(camera, local(NOON) + n * 60 * SECOND_US))
        for camera in CAMERAS
        for n in range(each)
    ]


async def nothing_is_lost(w: World, due: set[str], held: set[str]) -> None:
    """What is held is whole; what is due is there or has its tombstone, in row and journal."""
    rows = {row["id"]: row for row in await w.rows()}
    keys = await w.objects()
    stones = await w.tombstoned()
    written = {one.id for line in journal(w.settings.state_dir).read() for one in line.segments}
    assert len(stones) == len(set(stones))
    assert set(stones) <= written
    for name in held:
        assert rows[name]["state"] == "live" and rows[name]["key"] in keys
    assert not held & written
    for name in due:
        assert name in rows or name in stones, "gone without a tombstone"
        if name in rows and rows[name]["key"] not in keys:
            assert rows[name]["state"] == "purging", "the bytes went before the claim"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("nth", [0, 2, 4])
async def test_a_crash_with_three_claims_under_way(w: World, step: str, nth: int) -> None:
    every = await filed(w, 7)
    report = await w.hold(local(NOON) + 150 * SECOND_US, local(NOON) + 160 * SECOND_US)
    await w.keep(report.hold.id, local(EXPIRY) + DAY_US)
    held = {every[2]}
    due = set(every) - held
    w.faults.arm(step, nth)
    with pytest.raises(Crash):
        await w.service(lanes=LANES).run_once()
    w.faults.disarm()
    await nothing_is_lost(w, due, held)
    claimed = {row["id"] for row in await w.rows() if row["state"] == "purging"}
    open_claims = {row["id"] for row in await w.rows(tables.purge_claim)}
    assert len(open_claims) <= LANES
    # A purge goes on from where it stood, before it takes up anything new.
    service = w.service(lanes=LANES)
    await service._executor.resume()
    assert claimed <= set(await w.tombstoned())
    assert open_claims <= {row["id"] for row in await w.rows(tables.tombstone)}
    assert (await service.run_once()).stopped == ""
    await nothing_is_lost(w, due, held)
    assert await w.live() == held and len(await w.objects()) == len(held)
    assert await w.rows(tables.purge_claim) == []


@pytest.mark.parametrize("seed", range(3))
async def test_crash_after_crash_purges_all_that_is_due_and_no_more(w: World, seed: int) -> None:
    """Until a run comes through, each dies at another step, with another number of lanes."""
    chance = random.Random(seed)
    every = await filed(w, 9)
    first = chance.randrange(9)
    report = await w.hold(
        local(NOON) + (60 * first + 20) * SECOND_US,
        local(NOON) + (60 * first + 40) * SECOND_US,
        cameras=CAMERAS,
    )
    await w.keep(report.hold.id, local(EXPIRY) + DAY_US)
    held = {every[first], every[9 + first]}
    due = set(every) - held
    before: set[str] = set()
    for _ in range(8):
        w.faults.arm(chance.choice(STEPS), chance.randrange(3))
        with contextlib.suppress(Crash):
            await w.service(lanes=chance.choice((2, 3, 4))).run_once()
        w.faults.disarm()
        await nothing_is_lost(w, due, held)
        after = set(await w.tombstoned())
        assert before <= after, "a purge only goes forward"
        before = after
    assert (await w.service(lanes=LANES).run_once()).stopped == ""
    assert await gone(w, *due)
    assert await w.live() == held


async def test_claims_overlap_and_never_more_than_the_lanes(w: World) -> None:
    every = await filed(w, 6)
    w.to(EXPIRY)
    right, together, most = w.blobs.delete, asyncio.Event(), 0
    deleting = 0

    async def delete(keys: Sequence[str]) -> None:
        nonlocal deleting, most
        deleting += 1
        most = max(most, deleting)
        assert len(await w.rows(tables.purge_claim)) <= LANES
        if deleting == LANES:
            together.set()
        async with asyncio.timeout(10):
            await together.wait()
        await right(keys)
        deleting -= 1

    w.blobs.delete = delete  # type: ignore[method-assign]
    assert (await w.service(lanes=LANES).run_once()) == (12, "", "")
    assert most == LANES
    assert await gone(w, *every)


async def test_a_store_that_goes_away_ends_the_run_when_all_lanes_rest(w: World) -> None:
    """Claims under way come to their end; no further one begins; the next run finishes all."""
    every = await filed(w, 6)
    w.to(EXPIRY)
    right, calls, resting = w.blobs.delete, 0, asyncio.Event()

    async def delete(keys: Sequence[str]) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            resting.set()
            raise LamppostError(Kind.UNAVAILABLE, "The store is away.")
        async with asyncio.timeout(10):
            await resting.wait()
        await right(keys)

    w.blobs.delete = delete  # type: ignore[method-assign]
    service = w.service(lanes=LANES)
    outcome = await service.run_once()
    assert outcome.stopped == "error" and "away" in outcome.detail
    assert calls <= LANES
    assert len(await w.rows(tables.purge_claim)) == 1
    w.blobs.delete = right  # type: ignore[method-assign]
    assert (await service.run_once()).stopped == ""
    assert await gone(w, *every)


async def test_a_cancelled_run_leaves_no_lane_at_work(w: World) -> None:
    every = await filed(w, 4)
    w.to(EXPIRY)
    right, begun = w.blobs.delete, asyncio.Event()

    async def delete(keys: Sequence[str]) -> None:
        begun.set()
        await asyncio.Event().wait()

    w.blobs.delete = delete  # type: ignore[method-assign]
    service = w.service(lanes=LANES)
    others = asyncio.all_tasks()
    run = asyncio.create_task(service.run_once())
    await begun.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert asyncio.all_tasks() <= others
    w.blobs.delete = right  # type: ignore[method-assign]
    assert (await service.run_once()).stopped == ""
    assert await gone(w, *every)


def stone(name: str) -> Tombstone:
    return Tombstone(
        id=name,
        camera_id="cam-1",
        recording_date=date(2024, 4, 16),
        segments=tuple(Purged(f"{name}-{n}", 0, 1, "0" * 64, 10) for n in range(200)),
        policy_version=1,
        due_at_us=0,
        claimed_at_us=0,
        bytes_gone_at_us=0,
        written_at_us=0,
    )


def test_appends_to_one_journal_never_mix(tmp_path: Path) -> None:
    """Workers of several processes write one file, each by a journal of its own."""

    def append(worker: int) -> None:
        own = Journal(tmp_path)
        for n in range(40):
            own.append(stone(f"{worker}-{n}"))

    threads = [threading.Thread(target=append, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [line.id for line in Journal(tmp_path).read()]
    assert sorted(found) == sorted(f"{a}-{b}" for a in range(4) for b in range(40))
