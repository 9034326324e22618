"""A recorder's pod ends once its recorder has and its spool is stored, and never waits for ever."""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.drain import Drained, drain, look
from shared.clock import SimulatedClock
from shared.settings import Settings
from shared.spool import FolderLock, RecorderSpool


def settings_of(folder: Path) -> Settings:
    return Settings.model_validate({"state_dir": folder, "instance": "recorder-0"})


def waiting_gap(spool: RecorderSpool) -> Path:
    path = spool.new / "00000000000000000001-mk-01-x.gap.json"
    path.write_bytes(b"{}")
    return path


async def test_it_waits_for_the_recorder_and_then_for_its_spool(tmp_path: Path) -> None:
    settings, clock = settings_of(tmp_path), SimulatedClock()
    spool = RecorderSpool(tmp_path / "spool", "recorder-0")
    living = FolderLock(spool.dir)
    assert living.acquire()
    left = waiting_gap(spool)
    task = asyncio.create_task(drain(settings, clock, 60))
    await clock.advance(5)
    assert look(settings) == Drained(False, 1) and not task.done()
    living.release()
    await clock.advance(5)
    assert look(settings) == Drained(True, 1) and not task.done(), "something waits in the spool"
    left.unlink()
    await clock.advance(1)
    assert await task == Drained(True, 0)


async def test_it_gives_up_in_time_and_says_what_is_left(tmp_path: Path) -> None:
    settings, clock = settings_of(tmp_path), SimulatedClock()
    waiting_gap(RecorderSpool(tmp_path / "spool", "recorder-0"))
    task = asyncio.create_task(drain(settings, clock, 30))
    await clock.advance(31)
    assert await task == Drained(True, 1) and not (await task).done


async def test_another_recorders_spool_is_not_waited_for(tmp_path: Path) -> None:
    waiting_gap(RecorderSpool(tmp_path / "spool", "another"))
    RecorderSpool(tmp_path / "spool", "recorder-0")
    assert look(settings_of(tmp_path)).done


def test_where_nothing_was_ever_recorded_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    assert look(settings_of(tmp_path)).done
