"""Real full disks: clear state, nothing unexpired deleted, nothing filed lost, and it heals.

Small `tmpfs` volumes stand for the spool's, the object store's and the database's disk.
docs/invariants.md, 5 and 6; docs/architecture.md, "Recording" and "Filing".
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.logfile import LogFile
from services.statelock import StateLock
from shared import log
from shared.clock import SystemClock
from shared.db import tables
from shared.domain import GapReason, RecordingState
from shared.errors import Kind, LamppostError
from shared.settings import Log, Settings
from tests.support.volumes import Volume, volume
from tests.support.wait import until, until_sync
from tests.support.whole import Whole, settings_for, whole

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]
SIZE_MB = 40
"""Over the 16 MiB that recording asks for after a refused write."""


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    """What the program logs."""
    stream = io.StringIO()
    log.configure(Log(level="info", format="json"), stream=stream)
    yield stream


def filed(world: Whole) -> set[str]:
    """Everything of the spool that is footage."""
    return {path.name for part in ("tmp", "new", "bad") for path in (world.spool / part).iterdir()}


async def fill_until(
    world: Whole, disk: Volume, state: RecordingState, reason: GapReason, leave_bytes: int = 0
) -> None:
    """Keep the disk full (the archive gives room back as it drains) until the camera says so."""

    async def told() -> bool:
        disk.fill(leave_bytes)
        last = await world.state("cam-1")
        return last is not None and (last.state, last.reason) == (state, reason)

    await until(told, 20, f"{state.value} {reason.value}")


async def after_all(world: Whole) -> None:
    """Ended cleanly: each second is in a row, nothing half-written is left, the store is whole."""
    await world.end_all()
    report = await world.check()
    assert report.clean, report.findings
    assert not list((world.spool / "bad").iterdir())
    assert not list((world.spool / "tmp").iterdir())
    last_us = max(row["end_us"] for row in await world.rows(tables.segment))
    assert world.platform.clock.now_us() - last_us < 15_000_000
    assert not await world.holes("cam-1", last_us)


async def test_a_full_spool_in_the_middle_of_a_fragment(tmp_path: Path) -> None:
    """The kernel refuses a write, without the guard's warning."""
    with volume(tmp_path / "disk", SIZE_MB) as disk:
        settings = settings_for(tmp_path, spool={"dir": disk.path / "spool"})
        async with whole(settings) as world:
            world.start("ingest")
            await world.until_state("cam-1", RecordingState.RECORDING)
            await until(lambda: any(name.endswith(".mp4") for name in filed(world)), what="footage")
            await until(lambda: len(list((world.spool / "new").glob("*.mp4"))) >= 2, 20, "two")
            before = {path.name for path in (world.spool / "new").iterdir()}
            await fill_until(world, disk, RecordingState.RETRYING, GapReason.SPOOL_FULL)
            assert before <= filed(world), "nothing that was filed goes for room"
            world.start("archive")
            await until(lambda: not before & filed(world), 20, "what was filed is archived")
            assert await world.segments() >= 2
            last = await world.state("cam-1")
            assert last is not None and last.reason is GapReason.SPOOL_FULL
            disk.empty()
            await world.until_state("cam-1", RecordingState.RECORDING)
            done = await world.segments()

            async def more() -> bool:
                return await world.segments() > done + 1

            await until(more, 20, "recorded and archived again")
            await after_all(world)
            assert await world.gaps_us(GapReason.SPOOL_FULL) > 500_000


async def test_the_guard_stops_before_the_spool_is_full(tmp_path: Path) -> None:
    with volume(tmp_path / "disk", SIZE_MB) as disk:
        settings = settings_for(
            tmp_path, spool={"dir": disk.path / "spool", "min_free_ratio": 0.10}
        )
        async with whole(settings) as world:
            world.start("ingest")
            world.start("archive")
            await world.until_state("cam-1", RecordingState.RECORDING)
            least = SIZE_MB * 1024 * 1024 // 20
            await fill_until(world, disk, RecordingState.RETRYING, GapReason.DISK_LOW, least)
            await until(lambda: not list((world.spool / "tmp").iterdir()), 10, "it was filed")
            disk.empty()
            await world.until_state("cam-1", RecordingState.RECORDING)
            await after_all(world)
            assert await world.gaps_us(GapReason.DISK_LOW) > 0


async def test_a_full_object_store(tmp_path: Path, said: io.StringIO) -> None:
    """Recording goes on, the spool keeps everything, and drains by itself."""
    with volume(tmp_path / "disk", SIZE_MB) as disk:
        settings = settings_for(tmp_path, stores={"blobs_dir": disk.path / "blobs"})
        async with whole(settings) as world:
            world.start("ingest")
            world.start("archive")

            async def one() -> bool:
                return await world.segments() > 0

            await until(one, 20, "one segment is archived")
            disk.fill()
            await until(lambda: "The disk of the object store is full" in said.getvalue(), 20)
            done = await world.segments()
            await until(lambda: len(list((world.spool / "new").glob("*.mp4"))) >= 3, 30, "waits")
            last = await world.state("cam-1")
            assert last is not None and last.state is RecordingState.RECORDING
            assert await world.segments() == done, "no row without its bytes"
            assert not list((disk.path / "blobs" / ".unfinished").iterdir())
            refused = [line for line in said.getvalue().splitlines() if "store is full" in line]
            assert len(refused) < 40, "it backs off"
            disk.empty()

            async def drained() -> bool:
                return await world.segments() >= done + 3

            await until(drained, 20, "the spool drains by itself")
            await after_all(world)
            lost = {row["reason"] for row in await world.rows(tables.gap)}
            assert not lost & {"spool_full", "disk_low", "connection_lost"}


async def test_a_full_database(tmp_path: Path, said: io.StringIO) -> None:
    """Rows, events and statuses wait; footage does not."""
    with volume(tmp_path / "state", SIZE_MB) as disk:
        settings = settings_for(
            tmp_path,
            spool={"dir": tmp_path / "spool"},
            stores={"blobs_dir": tmp_path / "blobs"},
        )
        async with whole(settings) as world:
            world.start("ingest")
            world.start("archive")

            async def one() -> bool:
                return await world.segments() > 0

            await until(one, 20, "one segment is archived")
            disk.fill()
            await until(lambda: "The disk of the database is full" in said.getvalue(), 20)
            done = await world.segments()
            await until(lambda: len(list((world.spool / "new").glob("*.mp4"))) >= 3, 30, "waits")
            assert await world.segments() == done
            with pytest.raises(LamppostError) as refusal:
                await world.add("cam-2")
            assert refusal.value.kind is Kind.FULL
            disk.empty()

            async def drained() -> bool:
                return await world.segments() >= done + 3

            await until(drained, 20, "the spool drains by itself")
            await world.until_state("cam-1", RecordingState.RECORDING)
            await after_all(world)


async def test_one_disk_for_everything(tmp_path: Path, said: io.StringIO) -> None:
    """As `make run` has it: database, bus, spool and objects run out of room together."""
    with volume(tmp_path / "state", SIZE_MB) as disk:
        async with whole(settings_for(tmp_path)) as world:
            world.start("ingest")
            world.start("archive")

            async def some() -> bool:
                return await world.segments() > 1

            await until(some, 20, "segments are archived")
            disk.fill()
            await until(lambda: "no room in the spool" in said.getvalue(), 20, "it is said")
            keys = {info.key async for info in world.platform.blobs.list()}
            disk.empty()
            await world.until_state("cam-1", RecordingState.RECORDING)
            kept = {info.key async for info in world.platform.blobs.list()}
            assert keys <= kept, "nothing is deleted for room"
            await after_all(world)


def test_logs_and_locks_survive_a_full_disk(tmp_path: Path) -> None:
    """Whoever logs on a full disk goes on, and the log says later what it lost."""
    with volume(tmp_path / "disk", 1) as disk:
        logs = LogFile(disk.path / "logs" / "x.log", mirror=io.StringIO())
        disk.fill()
        for _ in range(200):
            print("a line" * 100, file=logs, flush=True)
        lock = StateLock(disk.path / "lock", "it")
        lock.acquire()
        with pytest.raises(LamppostError):
            StateLock(disk.path / "lock", "it").acquire()
        lock.release()
        disk.empty()
        print("room again", file=logs, flush=True)
        logs.close()
        text = (disk.path / "logs" / "x.log").read_text()
        assert text.endswith("room again\n") and "writes to this log were lost" in text


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_program_on_a_full_disk(tmp_path: Path) -> None:
    """One disk for state and logs, filled under the running program, then given back."""
    with volume(tmp_path / "state", SIZE_MB) as disk:
        settings = settings_for(tmp_path)
        asyncio.run(prepared(settings))
        process = program(settings, tmp_path / "out")
        try:
            tmp = settings.state_dir / "spool" / "recorder-001" / "tmp"
            until_sync(lambda: list(tmp.glob("*.mp4")), 90, "it records")

            def stopped() -> bool:
                disk.fill()
                return "no room in the spool" in (tmp_path / "out").read_text()

            until_sync(stopped, 60, "it stops", every_s=0.2)
            SystemClock().wait(threading.Event(), 5)
            assert process.poll() is None
            left = set(tmp.glob("*.mp4"))
            disk.empty()
            until_sync(lambda: set(tmp.glob("*.mp4")) - left, 60, "it records again")
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0, (tmp_path / "out").read_text()[-3000:]
            disk.fill()
            refused = program(settings, tmp_path / "refused")
            assert refused.wait(60) == 3
            assert "Traceback (most" not in (tmp_path / "refused").read_text().splitlines()[-1]
            disk.empty()
        finally:
            process.kill()
            process.wait()
        asyncio.run(clean(settings))


def program(settings: Settings, out: Path) -> subprocess.Popen[bytes]:
    env = {
        **os.environ,
        "LAMPPOST_STATE_DIR": str(settings.state_dir),
        "LAMPPOST_API__PORT": "0",
        "LAMPPOST_SPOOL__MIN_FREE_RATIO": "0",
        "LAMPPOST_INGEST__FOOTAGE_DIRS": f'["{settings.ingest.footage_dirs[0]}"]',
    }
    with out.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "services", "run", "all"],
            cwd=Path(__file__).parents[2],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )


async def prepared(settings: Settings) -> None:
    async with whole(settings):
        pass


async def clean(settings: Settings) -> None:
    async with whole(settings, cameras=()) as world:
        world.start("archive")
        await world.until_filed()
        report = await world.check()
        assert report.clean, report.findings
        last_us = max(row["end_us"] for row in await world.rows(tables.segment))
        assert not await world.holes("cam-1", last_us)
        assert await world.gaps_us(GapReason.SPOOL_FULL) > 0
