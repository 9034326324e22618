"""One life of a city: its servers and cameras begun, what was done to them, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from shared.db import tables
from shared.db.postgres import open_database
from tests.bench import watching
from tests.stack.books import Books
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
FILED_WITHIN_S = 120.0
"""Segments are closed every ten seconds."""


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
    """Seconds from then to now that no recorder has, by the reason given, over all cameras. A gap
    that one recorder filed while another recorded is none: the ledger counts each second once.
    So it waits until all of now is filed, which a segment is once it is closed."""
    now_us = CLOCK.now_us()
    left = list(CAMERAS)

    def filed() -> bool:
        left[:] = asyncio.run(_books(life.city, since_us)).unfiled(CAMERAS, since_us, now_us)
        return not left

    try:
        until_sync(filed, FILED_WITHIN_S, "every camera is filed", every_s=1.0)
    except AssertionError as error:
        raise AssertionError(f"{error}; left are {', '.join(left)}") from None
    # What a recorder had before it lost a camera may wait on its volume still.
    until_sync(life.drained, DRAINED_WITHIN_S, "the backlog is drained", every_s=1)
    return asyncio.run(_books(life.city, since_us)).lost(since_us, now_us)


async def _books(city: City, since_us: int) -> Books:
    """Rows that end after then."""
    gap, segment = tables.gap.c, tables.segment.c
    recorded = sa.select(segment.camera_id, segment.start_us, segment.end_us)
    named = sa.select(gap.camera_id, gap.start_us, gap.end_us, gap.reason)
    database = open_database(city.settings, CLOCK)
    try:
        async with database.read() as connection:
            there = await connection.execute(recorded.where(segment.end_us > since_us))
            missing = await connection.execute(named.where(gap.end_us > since_us))
            return Books([tuple(row) for row in there], [tuple(row) for row in missing])
    finally:
        await database.close()
