"""The host's clock jumps: purge stops, recording goes on, and all heals when the clock is right.

docs/retention.md, "Doubt"; docs/invariants.md, 4, 5, 6 and 10.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from services.api.context import ApiContext
from services.api.recorders import RecorderDirectory
from services.archive.service import build as build_archive
from services.check.report import Report
from services.ingest.accounting import Account
from services.retention.clock import accept_clock
from services.retention.service import RetentionService
from shared.clock import DAY_US, EARLIEST_US, HOUR_US, SECOND_US, HeldClock, SystemClock
from shared.db import tables
from shared.domain import Gap, GapReason, RecordingState
from shared.errors import Kind, LamppostError
from shared.settings import Settings
from shared.spool import RecorderSpool
from tests.support import archiving
from tests.support.fake_media import camera
from tests.support.wait import until
from tests.support.whole import Whole, settings_for, whole

YEAR_1970_US = 5_000 * SECOND_US


class JumpingClock(SystemClock):
    """The machine's clock, whose wall time somebody sets. Monotonic time runs on."""

    step_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.step_us

    def set(self, wall_us: int) -> None:
        self.step_us += wall_us - self.now_us()


async def at_least(world: Whole, more: int) -> None:
    """So many segments more are archived."""
    wanted = await world.segments() + more

    async def there() -> bool:
        return await world.segments() >= wanted

    await until(there, 25, f"{wanted} segments")


async def spooled(world: Whole, count: int) -> None:
    await until(lambda: len(list((world.spool / "new").glob("*.mp4"))) >= count, 25, "in the spool")


async def latest_us(world: Whole) -> int:
    """The time that the api judges expiry by."""
    async with world.platform.database.read() as connection:
        return await world_api(world).expiry_now_us(connection)


def world_api(world: Whole) -> ApiContext:
    if world.api is None:
        recorders = RecorderDirectory(
            world.platform.bus, world.platform.clock, status_interval_s=1.0
        )
        world.api = ApiContext(world.platform, world.settings, recorders)
    found: ApiContext = world.api
    return found


def day_settings(folder: Path) -> Settings:
    """Footage is kept for 24 hours sharp, so that some of it falls due within a test."""
    return settings_for(folder, retention={"days": 1, "basis": "instant"})


async def file_due_soon(world: Whole) -> None:
    """Footage of yesterday that falls due in a moment: what a purge takes next."""
    end_us = world.platform.clock.now_us() - DAY_US + 6 * SECOND_US
    old = archiving.segment(end_us - archiving.MINUTE_US, "cam-1")
    archiving.file_segment(world.settings, old)

    async def there() -> bool:
        return any(row["id"] == old.id for row in await world.rows(tables.segment))

    await until(there, 20, "filed")


async def purged(world: Whole) -> None:
    """The purge goes on: what is due goes, and only that."""

    async def gone() -> bool:
        outcome = await world.retention.run_once()
        assert outcome.stopped == "", outcome.detail
        return outcome.purged == 1

    await until(gone, 20, "purged", every_s=0.5)


async def segments(world: Whole) -> list[dict[str, Any]]:
    rows = await world.rows(tables.segment)
    return sorted(rows, key=lambda row: (row["epoch"], row["id"]))


def once(rows: list[dict[str, Any]]) -> None:
    """No microsecond counts for two segments."""
    spans = sorted((row["effective_start_us"], row["effective_end_us"]) for row in rows)
    counted = [span for span in spans if span[0] < span[1]]
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(counted))


def but_for_the_times(report: Report) -> list[str]:
    """Findings, without footage that says it was taken later than it was filed: that the clock
    ran ahead is true, and is to be told."""
    return [finding.what for finding in report.findings if finding.invariant != 10]


@pytest.mark.parametrize("back_us", [pytest.param(HOUR_US, marks=pytest.mark.slow), 40 * DAY_US])
async def test_set_back_and_right_again(tmp_path: Path, back_us: int) -> None:
    """Recording goes on without a seam; footage keeps its true time, so it is not due at once."""
    clock = JumpingClock()
    async with whole(day_settings(tmp_path), clock) as world:
        world.start("ingest")
        world.start("archive")
        await latest_us(world)
        await at_least(world, 1)
        await file_due_soon(world)
        clock.step_us = -back_us
        outcome = await world.retention.run_once()
        assert (outcome.purged, outcome.stopped) == (0, "doubt")
        assert await latest_us(world) >= SystemClock().now_us() - 5 * SECOND_US
        await at_least(world, 2)
        last = await world.state("cam-1")
        assert last is not None and last.state is RecordingState.RECORDING
        clock.step_us = 0
        await at_least(world, 1)
        await purged(world)
        await world.end_all()
        rows = await segments(world)
        assert len(rows) >= 4
        once(rows)
        gaps = {row["reason"] for row in await world.rows(tables.gap)}
        assert "timestamp_jump" not in gaps and "connection_lost" not in gaps
        report = await world.check()
        assert report.clean, report.findings


async def test_set_to_1970_and_right_again(tmp_path: Path) -> None:
    """A clock without a date files nothing: the spool keeps it, under its true time."""
    clock = JumpingClock()
    async with whole(settings_for(tmp_path), clock) as world:
        world.start("ingest")
        world.start("archive")
        await latest_us(world)
        await at_least(world, 1)
        clock.set(YEAR_1970_US)
        outcome = await world.retention.run_once()
        assert outcome.stopped == "doubt" and "not set" in outcome.detail
        assert await latest_us(world) >= SystemClock().now_us() - 5 * SECOND_US
        await spooled(world, 2)
        clock.step_us = 0
        await at_least(world, 2)
        assert await world.retention.run_once() == (0, "", "")
        await world.end_all()
        assert all(row["start_us"] > EARLIEST_US for row in await segments(world))
        once(await segments(world))
        report = await world.check()
        assert report.clean, report.findings


async def test_started_without_a_date(tmp_path: Path) -> None:
    """A machine without a battery: recorded from the last time that is known, filed once it is
    right, and not lost as overdue."""
    clock = JumpingClock()
    settings = settings_for(tmp_path)
    async with whole(settings, clock) as world:
        world.start("ingest")
        world.start("archive")
        await at_least(world, 1)
        await world.end_all()
        before_us = max(row["end_us"] for row in await segments(world))
    clock.set(YEAR_1970_US)
    async with whole(settings, clock, cameras=()) as world:
        world.start("ingest")
        world.start("archive")
        await spooled(world, 2)
        outcome = await world.retention.run_once()
        assert (outcome.purged, outcome.stopped) == (0, "doubt")
        done = await world.segments()
        clock.step_us = 0
        await at_least(world, 2)
        await world.end_all()
        assert await world.segments() > done + 1
    async with whole(settings, clock, cameras=()) as world:
        rows = await segments(world)
        assert sum(row["start_us"] >= before_us for row in rows) > 2, "after what was known"
        assert all(row["start_us"] > EARLIEST_US for row in rows)
        once(rows)
        assert await world.retention.run_once() == (0, "", "")
        assert not list((world.spool / "bad").iterdir())
        report = await world.check()
        assert report.clean, report.findings


@pytest.mark.parametrize("ahead_us", [pytest.param(HOUR_US, marks=pytest.mark.slow), 40 * DAY_US])
async def test_set_ahead_and_right_again(tmp_path: Path, ahead_us: int) -> None:
    """Recording goes on; nothing goes early; accepting the clock lets the purge go on, and what
    was recorded meanwhile is kept no longer for it."""
    clock = JumpingClock()
    async with whole(day_settings(tmp_path), clock) as world:
        world.start("ingest")
        world.start("archive")
        await latest_us(world)
        await at_least(world, 1)
        await file_due_soon(world)
        clock.step_us = ahead_us
        outcome = await world.retention.run_once()
        assert (outcome.purged, outcome.stopped) == (0, "doubt")
        assert await latest_us(world) >= SystemClock().now_us() + ahead_us - 5 * SECOND_US
        await at_least(world, 3)
        clock.step_us = 0
        await at_least(world, 3)
        outcome = await world.retention.run_once()
        assert outcome.stopped == "doubt" and "newest row" in outcome.detail
        done = await accept_clock(world.platform, "The time server was wrong until noon.")
        assert done.segments >= 1
        await purged(world)
        assert await latest_us(world) < SystemClock().now_us() + 5 * SECOND_US
        with pytest.raises(LamppostError) as refusal:
            await accept_clock(world.platform, "Once more.")
        assert refusal.value.kind is Kind.CONFLICT
        await world.end_all()
        rows = await segments(world)
        once(rows)
        latest = SystemClock().now_us() + DAY_US
        assert all(row["expires_at_us"] < latest for row in rows)
        assert not but_for_the_times(await world.check())


async def test_a_program_that_starts_before_its_newest_row(tmp_path: Path) -> None:
    """The earlier run had a clock two days ahead, or this one is behind: nobody can tell."""
    clock = JumpingClock()
    clock.step_us = 2 * DAY_US
    settings = settings_for(tmp_path)
    async with whole(settings, clock) as world:
        world.start("ingest")
        world.start("archive")
        await at_least(world, 1)
        await world.end_all()
    clock.step_us = 0
    async with whole(settings, clock, cameras=()) as world:
        outcome = await world.retention.run_once()
        assert outcome.stopped == "doubt" and "newest row" in outcome.detail
        assert await latest_us(world) > SystemClock().now_us() + DAY_US
        world.start("ingest")
        world.start("archive")
        await at_least(world, 2)
        await accept_clock(world.platform, "It ran ahead; chrony says so.")
        assert (await RetentionService(world.platform, settings).run_once()).stopped == ""
        await world.end_all()
        once(await segments(world))
        assert not but_for_the_times(await world.check())


def test_a_held_clock_follows_what_is_no_fault() -> None:
    clock = JumpingClock()
    held = HeldClock(clock)
    for step_us in (-5 * 60 * SECOND_US, 3 * HOUR_US, 90 * DAY_US):
        clock.step_us = step_us
        assert abs(held.now_us() - clock.now_us()) < SECOND_US and not held.held
    for step_us in (-HOUR_US, -400 * DAY_US):
        clock.step_us = step_us
        assert abs(held.now_us() - SystemClock().now_us()) < SECOND_US and held.held
    clock.set(YEAR_1970_US)
    assert held.held and held.now_us() > EARLIEST_US
    fresh = HeldClock(clock, floor_us=EARLIEST_US + DAY_US)
    assert 0 <= fresh.now_us() - EARLIEST_US - DAY_US < SECOND_US


def test_an_account_follows_a_clock_that_is_right_again(tmp_path: Path) -> None:
    """Outages after the return get their own reason, not the long gap's."""
    filed: list[Gap] = []
    account = Account(camera("cam-1"), RecorderSpool(tmp_path, "local"), "local", 1, filed.append)
    now_us = EARLIEST_US + DAY_US
    account.begin(now_us, replay=False)
    account.opened(now_us + 40 * DAY_US)
    account.recorded_until(now_us + 40 * DAY_US + SECOND_US)
    account.opened(now_us + 10 * SECOND_US)
    account.recorded_until(now_us + 20 * SECOND_US)
    account.turn(GapReason.SILENT)
    account.opened(now_us + 30 * SECOND_US)
    last = filed[-1]
    assert (last.reason, last.start_us, last.end_us) == (
        GapReason.SILENT,
        now_us + 20 * SECOND_US,
        now_us + 30 * SECOND_US,
    )


async def test_the_archive_waits_for_a_clock(tmp_path: Path) -> None:
    """What is in the spool stays there as long as nobody knows what day it is."""
    clock = JumpingClock()
    settings = archiving.settings_in(tmp_path)
    async with archiving.opened(settings, clock) as platform:
        now_us = clock.now_us()
        made = archiving.segment(now_us - 60 * SECOND_US)
        archiving.file_segment(settings, made)
        clock.set(YEAR_1970_US)
        service = build_archive(platform, settings, "spool")
        with pytest.raises(LamppostError) as refusal:
            await service.file_once()
        assert refusal.value.kind is Kind.DOUBT and refusal.value.retryable
        assert len(archiving.spool_files(settings)) == 2
        clock.step_us = 0
        while await service.file_once():
            continue
        [row] = await archiving.all_rows(platform, tables.segment)
        assert row["expires_at_us"] > now_us + 29 * DAY_US
