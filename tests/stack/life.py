"""One life of a city: its servers and cameras begun, what was done to them, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from shared import intervals
from shared.clock import SECOND_US
from shared.db import tables
from shared.db.postgres import open_database
from tests.bench import watching
from tests.stack.city import CLOCK, City
from tests.stack.footage import walking_block
from tests.stack.servers import Servers
from tests.support.servers import rtsp
from tests.support.servers.rtsp import RtspServer
from tests.support.wait import until_sync

CAMERAS = [f"cam-{number:02d}" for number in range(1, 16)]
WATCHED = CAMERAS[:3]
"""Cameras whose frames are sampled twice a second; the others once a key frame."""
DRAINED_WITHIN_S = 60.0


class Life:
    """The city, its servers and cameras, and what was done to them."""

    def __init__(self, city: City, servers: Servers, camera: RtspServer, folder: Path) -> None:
        self.city, self.servers, self.camera, self.folder = city, servers, camera, folder
        self.kills: list[tuple[int, int]] = []
        self.born = city.running()

    def drained(self) -> bool:
        """No finished recording waits on a volume, no event in an outbox."""
        if any(self.folder.glob("city/*/spool/*/new/*.mp4")):
            return False
        return asyncio.run(_waiting(self.city)) == 0


async def _waiting(city: City) -> int:
    database = open_database(city.settings, CLOCK)
    try:
        async with database.read() as connection:
            query = sa.select(sa.func.count()).select_from(tables.outbox)
            return int((await connection.execute(query)).scalar_one())
    finally:
        await database.close()


@contextmanager
def begin(folder: Path) -> Iterator[Life]:
    """Everything up, fifteen cameras recording."""
    rtsp.require()
    for part in ("city", "sent", "model"):
        (folder / part).mkdir(parents=True)
    clip = walking_block(folder / "clip.mp4")
    mounts = [{"name": name, "file": str(clip)} for name in CAMERAS]
    model = watching.tiny(folder / "model")["model"]
    settings = {"LAMPPOST_INGEST__SEGMENT_S": "10", "LAMPPOST_DETECT__MODEL": model}
    with (
        Servers(folder / "servers", doors=True, secured=True) as servers,
        RtspServer(mounts, log_dir=folder / "sent") as camera,
        City(folder / "city", servers.environment(), settings=settings) as city,
    ):
        for name in CAMERAS:
            more = {"sample_fps": 2.0} if name in WATCHED else {}
            city.add_camera(name, camera.url(name), **more)
        city.wait_recording(CAMERAS)
        yield Life(city, servers, camera, folder)


def end(life: Life, within_s: float = DRAINED_WITHIN_S) -> None:
    """Recorders first, then whoever takes what they filed, then everybody."""
    for name in life.city.recorders:
        life.city.services[name].stop()
    until_sync(life.drained, within_s, "the backlog is drained", every_s=1)
    for service in life.city.services.values():
        service.stop()


def gaps(life: Life, since_us: int) -> dict[str, float]:
    """Seconds since then that no recorder has, by the reason given, over all cameras. A gap that
    one recorder filed while another recorded is none: the ledger counts each second once."""

    async def read() -> tuple[list[sa.Row[Any]], list[sa.Row[Any]]]:
        database = open_database(life.city.settings, CLOCK)
        gap, segment = tables.gap.c, tables.segment.c
        try:
            async with database.read() as connection:
                missing = await connection.execute(
                    sa.select(gap.camera_id, gap.start_us, gap.end_us, gap.reason).where(
                        gap.end_us > since_us
                    )
                )
                there = await connection.execute(
                    sa.select(segment.camera_id, segment.start_us, segment.end_us).where(
                        segment.end_us > since_us
                    )
                )
                return list(missing.all()), list(there.all())
        finally:
            await database.close()

    missing, there = asyncio.run(read())
    recorded: dict[str, list[intervals.Interval]] = {}
    for camera, start_us, end_us in there:
        recorded.setdefault(camera, []).append((start_us, end_us))
    found: dict[str, float] = {}
    for camera, start_us, end_us, reason in missing:
        span = (max(start_us, since_us), end_us)
        seconds = intervals.total(intervals.subtract([span], recorded.get(camera, [])))
        if seconds:
            found[reason] = found.get(reason, 0.0) + seconds / SECOND_US
    return found
