"""Restart with a full spool: how soon every camera is recorded again, and what memory it takes.

The store was away for a day: thousands of filed segments wait in the spool when the program starts.
The whole program runs (`lamppost run all`), so the archive empties the spool meanwhile.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from services.recorders import recorder_name
from shared.clock import SECOND_US
from shared.db import tables
from shared.domain import Camera, Fragment, Source
from shared.settings import Settings
from shared.spool import RecorderSpool, item_name
from tests.bench import footage, measure, store
from tests.bench.measure import CLOCK, MIB, Figure, Row
from tests.support.servers.rtsp import free_port
from tests.support.wait import until_sync

CAMERAS = tuple(f"bench-{number}" for number in range(1, 5))
MANY, SOME, FEW = 10_000, 1_000, 200
FRAGMENTS = 60
BYTES = 8_192
STARTED_S = 60.0
LOOK_S, SMALL_LOOK_S = 8.0, 3.0
ARCHIVED_S = 120.0


class Started(NamedTuple):
    """One start."""

    recording_s: float
    recorder_bytes: int
    supervisor_bytes: int


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    many, some = (FEW, FEW // 10) if small else (MANY, SOME)
    row = Row(f"restart with {many} segments in the spool")
    clip = footage.make_clip(folder / "clip.mp4", footage.SMALL)
    recording = Figure("recording again, every camera", "s", 5)
    empty = Figure("the same with an empty spool", "s", None)
    recorder = Figure(f"recorder's memory (PSS), {many} against none", "MiB", 1.05)
    grown = Figure(f"the whole program's, {many} against {some}", "MiB", 1.1)
    whole = Figure(f"the whole program's, {many} against none", "MiB", None)
    for number in range(1 if small else 5):
        found = {}
        for count in (0, some, many):
            there = folder / f"{count}-{number}"
            found[count] = _start(row, there, clip, count, small=small)
        recording.ours.append(found[many].recording_s)
        empty.ours.append(found[0].recording_s)
        recorder.ours.append(found[many].recorder_bytes / MIB)
        recorder.peer.append(found[0].recorder_bytes / MIB)
        for figure, count in ((grown, some), (whole, 0)):
            figure.ours.append(_all(found[many]) / MIB)
            figure.peer.append(_all(found[count]) / MIB)
        row.notes.append(f"round {number + 1}: {measure.load()}")
    row.figures = [recording, empty, recorder, grown, whole]
    row.notes.append("ours: the full spool; peer: the smaller one")
    return row


def _all(started: Started) -> int:
    return started.recorder_bytes + started.supervisor_bytes


def _start(row: Row, there: Path, clip: Path, count: int, *, small: bool) -> Started:
    settings = store.settings_of(
        there / "state",
        ingest={"footage_dirs": [str(clip.parent)]},
        api={"port": free_port()},
        detect={"workers": 0},
        log={"level": "warning"},
    )
    cameras = [Camera(id=name, name=name, source=Source(f"file://{clip}")) for name in CAMERAS]
    store.prepare(settings, cameras)
    root = settings.path(settings.spool.dir)
    _fill(RecorderSpool(root, recorder_name(1)), clip, count)
    began_us = CLOCK.monotonic_us()
    program = measure.spawn(store.command("all"), there / "log", store.environment(settings))
    try:
        until_sync(lambda: _recording(root) == len(CAMERAS), STARTED_S, "recording", 0.02)
        recording_s = measure.seconds_since(began_us)
        most = [0, 0]
        for _ in range(round(SMALL_LOOK_S if small else LOOK_S)):
            measure.rest(1.0)
            supervisor, *others = measure.tree([program])
            for at, processes in enumerate((others, [supervisor])):
                most[at] = max(most[at], measure.pss_bytes(processes))
        if small:
            until_sync(lambda: not _waiting(root), ARCHIVED_S, "the spool is emptied", 0.2)
    finally:
        measure.end([program], signal.SIGTERM, 10)
    if small:
        found = asyncio.run(_indexed(settings))
        row.expect(found == count, f"{count} segments waited, {found} are indexed")
    return Started(recording_s, *most)


def _recording(root: Path) -> int:
    """Cameras with a segment under way that holds pictures."""
    return sum(path.stat().st_size > BYTES for path in root.glob("*/tmp/*.mp4") if path.exists())


def _waiting(root: Path) -> bool:
    return any(path.stat().st_size == BYTES for path in root.glob("*/new/*.mp4") if path.exists())


def _fill(spool: RecorderSpool, clip: Path, count: int) -> None:
    """Minutes of the past days, filed and not yet archived. The bytes are few: nobody plays them,
    and what grows with the spool would grow with files, sidecars and fragments."""
    init = footage.read_clip(clip).init
    minute_us = 60 * SECOND_US
    last_us = (CLOCK.now_us() // minute_us - 10) * minute_us
    for number in range(count):
        minute, camera = divmod(number, len(CAMERAS))
        start_us = last_us - minute * minute_us
        data = init.data + str(number).encode().ljust(BYTES - len(init.data), b".")
        size = (BYTES - len(init.data)) // FRAGMENTS
        fragments = tuple(
            Fragment(
                offset=len(init.data) + n * size,
                size=size,
                start_us=start_us + n * SECOND_US,
                end_us=start_us + (n + 1) * SECOND_US,
                key=n % 2 == 0,
                sha256=bytes(32),
                samples=10,
                base_time=n * 90_000,
            )
            for n in range(FRAGMENTS)
        )
        made = footage.describe(init, CAMERAS[camera], "before", fragments, data)
        name = item_name(made.camera_id, made.start_us, made.id)
        (spool.new / f"{name}.json").write_bytes(msgspec.json.encode(made))
        (spool.new / f"{name}.mp4").write_bytes(data)


async def _indexed(settings: Settings) -> int:
    """How many of those that waited have rows."""
    table = tables.segment
    query = sa.select(sa.func.count()).where(table.c.connection_id == "before")
    async with store.opened(settings) as platform, platform.database.read() as connection:
        return int((await connection.execute(query)).scalar_one())
