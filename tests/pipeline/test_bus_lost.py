"""A bus that is deleted or damaged: the next start makes it anew, and every camera records again.

docs/decisions/0004-lost-bus.md says what is lost, and what is not.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from services.api.camera_store import add_cameras, change_camera
from services.api.retelling import Retelling
from services.api.service import build as build_api
from shared.bus import Message, damage
from shared.clock import SimulatedClock
from shared.db import tables
from shared.domain import Camera, RecordingState
from shared.errors import Kind, LamppostError
from shared.messages import CAMERAS, CameraChanged, decode, encode
from shared.outbox import Relay
from shared.platform import Platform, open_platform
from shared.settings import Settings
from tests.support.fake_media import camera
from tests.support.wait import until_sync
from tests.support.whole import settings_for, whole

ROOT = Path(__file__).parents[2]


def settings_in(state_dir: Path) -> Settings:
    return Settings.model_validate({"state_dir": state_dir, "stores": {"bus_partitions": 4}})


async def opened(settings: Settings) -> Platform:
    platform = await open_platform(settings, SimulatedClock())
    await platform.database.migrate()
    return platform


async def told(platform: Platform) -> dict[str, Camera]:
    """What a recorder that begins now would know."""
    consumer = await platform.bus.consumer([CAMERAS.name], start="earliest")
    records = await consumer.poll(timeout_s=0)
    await consumer.close()
    cameras = [decode(record.value, CameraChanged).camera for record in records]
    return {camera.id: camera for camera in cameras}


def remove(state: Path) -> None:
    """As somebody does who only knows the main file."""
    (state / "bus.db").unlink()


def lose_header(state: Path) -> None:
    with (state / "bus.db").open("r+b") as file:
        file.write(b"\xa5" * 4096)
    _drop_log(state)


def lose_inside(state: Path) -> None:
    """Everything but the header page: what an open alone does not see."""
    _drop_log(state)
    size = (state / "bus.db").stat().st_size
    with (state / "bus.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))


def _drop_log(state: Path) -> None:
    """The write-ahead log would heal what the test breaks."""
    for ending in ("-wal", "-shm"):
        (state / f"bus.db{ending}").unlink(missing_ok=True)


LOSSES = [remove, lose_header, lose_inside]


@pytest.mark.parametrize("lose", LOSSES)
async def test_what_is_lost_is_told_again(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    settings = settings_in(tmp_path)
    platform = await opened(settings)
    await add_cameras(platform, settings, [camera("cam-1"), camera("cam-2"), camera("cam-3")])
    await change_camera(
        platform, settings, "cam-2", lambda one: msgspec.structs.replace(one, name="renamed")
    )
    await change_camera(
        platform, settings, "cam-3", lambda one: msgspec.structs.replace(one, deleted_at_us=1)
    )
    await Relay(platform, "api").run_once()
    before = await told(platform)
    await platform.close()
    lose(tmp_path)
    platform = await opened(settings)
    assert await told(platform) == {}
    assert await Retelling(platform).run_once() == ["cam-1", "cam-2"]
    await Relay(platform, "api").run_once()
    after = await told(platform)
    assert after == {name: before[name] for name in ("cam-1", "cam-2")}
    assert await Retelling(platform).run_once() == [], "once is enough"
    await platform.close()
    assert len(_damaged(tmp_path)) == (0 if lose is remove else 1), (
        "what was damaged is kept for a look"
    )


async def test_the_table_is_the_truth(tmp_path: Path) -> None:
    """After a restore the topic may be ahead, and know cameras that the table never had."""
    settings = settings_in(tmp_path)
    platform = await opened(settings)
    [known] = await add_cameras(platform, settings, [camera("cam-1")])
    await Relay(platform, "api").run_once()
    later = msgspec.structs.replace(known, version=7, name="from the future")
    await platform.bus.publish(
        [
            Message(CAMERAS.name, one.id, encode(CameraChanged(one)))
            for one in (later, camera("cam-9"))
        ]
    )
    assert await Retelling(platform).run_once() == ["cam-1"]
    await Relay(platform, "api").run_once()
    assert await told(platform) == {"cam-1": known, "cam-9": camera("cam-9")}
    await platform.close()


async def test_damage_found_in_use_is_healed_at_the_next_start(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    platform = await opened(settings)
    await add_cameras(platform, settings, [camera("cam-1")])
    await Relay(platform, "api").run_once()
    status = Message("camera-status", "cam-1", b"x" * 100_000)
    await platform.bus.publish([status] * 20)
    await platform.close()
    with closing(sqlite3.connect(tmp_path / "bus.db")) as plain:
        query = "SELECT pageno FROM dbstat WHERE name = 'record' AND pagetype = 'overflow'"
        try:
            pages = [row[0] for row in plain.execute(query)]
        except sqlite3.OperationalError:
            pytest.skip("this SQLite tells nothing of its pages")
        size = plain.execute("PRAGMA page_size").fetchone()[0]
    with (tmp_path / "bus.db").open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * size)
            file.write(b"\xff" * size)
    platform = await opened(settings)
    assert set(await told(platform)) == {"cam-1"}, "what recording needs can still be read"
    consumer = await platform.bus.consumer(["camera-status"], start="earliest")
    with pytest.raises(LamppostError) as refusal:
        await consumer.poll(timeout_s=0)
    assert refusal.value.kind is Kind.CORRUPT
    other = await opened(settings)
    assert not _damaged(tmp_path), "it is not taken from who has it open"
    await other.close()
    await platform.close()
    platform = await opened(settings)
    assert await told(platform) == {}
    assert not damage.is_marked(tmp_path / "bus.db")
    await platform.close()


async def test_every_camera_records_again(tmp_path: Path) -> None:
    """The services of one process, with the api as it is."""
    settings = settings_for(tmp_path, api={"port": 0})
    names = ("cam-1", "cam-2")
    async with whole(settings, cameras=names) as world:
        world.start("ingest")
        for name in names:
            await world.until_state(name, RecordingState.RECORDING)
        await world.end("ingest")
    lose_inside(settings.state_dir)
    async with whole(settings, cameras=()) as world:
        world.start("ingest")
        world.start("archive")
        world.start("api", build_api(world.platform, settings))
        for name in names:
            await world.until_state(name, RecordingState.RECORDING)
        await world.end_all()
        report = await world.check()
        assert report.clean, report.findings
        for name in names:
            rows = [row for row in await world.rows(tables.segment) if row["camera_id"] == name]
            assert not await world.holes(name, max(row["end_us"] for row in rows))


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /dev/shm")
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_program_starts_without_its_bus(tmp_path: Path) -> None:
    """`kill -9` of everything, then the bus is gone: recording again, and nothing of the killed
    run is left in memory."""
    settings = settings_for(tmp_path)
    state = settings.state_dir
    asyncio.run(_prepared(settings))
    env = {
        **os.environ,
        "LAMPPOST_STATE_DIR": str(state),
        "LAMPPOST_API__PORT": "0",
        "LAMPPOST_INGEST__FOOTAGE_DIRS": f'["{settings.ingest.footage_dirs[0]}"]',
    }

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "services", "run", "all"],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    process = start()
    try:
        until_sync(lambda: _writing(state) == 2, 90, "both cameras record")
        ring = Path((state / "bus.db.frames.lock").read_text())
        assert ring.parent == Path("/dev/shm")
        (ring / "left-by-the-killed").touch()
        _kill_all(process)
        assert ring.is_dir()
        left = set(state.glob("spool/*/tmp/*.mp4"))
        remove(state)
        process = start()
        until_sync(lambda: _writing(state, left) == 2, 90, "both cameras record again")
        assert ring.is_dir() and not (ring / "left-by-the-killed").exists()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, (tmp_path / "log").read_text()[-3000:]
        assert not ring.exists(), "pictures of people outlive no run"
    finally:
        _kill_all(process)


async def _prepared(settings: Settings) -> None:
    async with whole(settings, cameras=("cam-1", "cam-2")):
        pass


def _writing(state: Path, left: Collection[Path] = ()) -> int:
    found = [path for path in state.glob("spool/*/tmp/*.mp4") if path not in left]
    return sum(path.stat().st_size > 0 for path in found)


def _damaged(state: Path) -> list[Path]:
    return list(state.glob("bus.db.damaged-*"))


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """The supervisor and its recorders, which have sessions of their own."""
    if process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for number in (process.pid, *map(int, children)):
            os.kill(number, signal.SIGKILL)
        process.wait(10)
        until_sync(lambda: not any(Path(f"/proc/{child}").exists() for child in children), 10)
