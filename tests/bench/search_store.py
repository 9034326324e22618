"""Millions of sightings in a database, made by SQL in minutes, with the segments they lie in.

Busy and quiet cameras, days and nights, a few thousand different paths, looks and colours; every
sighting has its own id, time and camera. The peer's plain table has the same rows, in a file of its
own.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from services.api import keys
from services.api.camera_store import add_cameras
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import tables
from shared.db.rows import sighting_row
from shared.domain import Camera, Role, Source
from shared.platform import Platform
from shared.settings import Settings
from shared.sightings import GROUPS, Best, Colour, Colours, PathPoint, Sighting, Speed
from tests.bench import measure, store
from tests.support.sightings import POLICY

CLASSES = ("person",) * 70 + ("car",) * 18 + ("bicycle",) * 4 + ("bus",) * 3 + ("truck",) * 3
COLOURS = (*Colour, Colour.BLACK, Colour.BLACK, Colour.WHITE, Colour.GREY, Colour.BLUE)
PERSON = "user-1"
ID, CAMERA = "@" * 36, "cam-@@@"
FIRST_US = 1_700_000_000_000_000
"""Stands for the start in a shape's text: as many digits as any time of now has."""
DROPPED = (
    "ix_segment_expires",
    "ix_segment_date_camera",
    "ix_sighting_expires",
    "ix_sighting_open",
)
"""Indexes that no search reads: left out, which saves minutes."""


class Sizes(NamedTuple):
    """How much there is."""

    sightings: int
    cameras: int
    days: int
    shapes: int


FULL = Sizes(5_000_000, 100, 30, 4_000)
SMALL = Sizes(20_000, 20, 2, 400)


class Stored(NamedTuple):
    """What was made."""

    settings: Settings
    peer: Path
    key: str
    start_us: int
    end_us: int
    cameras: list[str]


def build(folder: Path, sizes: Sizes) -> Stored:
    """The two databases."""
    settings = store.settings_of(folder / "state", log={"level": "warning", "format": "json"})
    end_us = measure.CLOCK.now_us() // HOUR_US * HOUR_US
    start_us = end_us - sizes.days * DAY_US
    names = [f"cam-{number:03}" for number in range(sizes.cameras)]
    key = asyncio.run(prepare(settings, names))
    path, peer = settings.state_dir / "lamppost.db", folder / "peer.db"
    c = sqlite3.connect(path, isolation_level=None)
    try:
        # Nothing of it need survive a crash, and a log of gigabytes only costs time.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-1000000"):
            c.execute(f"PRAGMA {pragma}")
        _fill(c, sizes, start_us, peer)
        c.execute("PRAGMA journal_mode=WAL")
    finally:
        c.close()
    return Stored(settings, peer, key, start_us, end_us, names)


async def prepare(settings: Settings, names: list[str]) -> str:
    """Migrate, and make the cameras and a person known; the person's key."""
    async with store.opened(settings) as platform:
        cameras = [
            Camera(id=name, name=name, source=Source("rtsp://camera.test/1")) for name in names
        ]
        await add_cameras(platform, settings, cameras)
        return await _person(platform)


async def _person(platform: Platform) -> str:
    async with platform.database.write() as connection:
        await connection.execute(
            tables.user.insert().values(
                id=PERSON,
                name="ada",
                roles=[Role.ANALYST.value],
                created_at_us=platform.clock.now_us(),
            )
        )
    return (await keys.create_key(platform, user_name="ada")).token


def _fill(c: sqlite3.Connection, sizes: Sizes, start_us: int, peer: Path) -> None:
    indexes = c.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        " AND tbl_name IN ('segment', 'sighting')"
    ).fetchall()
    for name, _ in indexes:
        c.execute(f"DROP INDEX {name}")
    _shapes(c, sizes)
    c.execute(f"ATTACH '{peer}' AS peer")
    c.execute("PRAGMA peer.journal_mode=OFF")
    c.execute("PRAGMA peer.synchronous=OFF")
    _sightings(c, sizes, start_us)
    _peer(c)
    _segments(c, sizes, start_us)
    for name, sql in indexes:
        if name not in DROPPED:
            c.execute(sql)
    c.execute("PRAGMA peer.journal_mode=WAL")


def _shapes(c: sqlite3.Connection, sizes: Sizes) -> None:
    """Different sightings, whose id, camera and times stand for others'."""
    rows = []
    for number, made in enumerate(drawn(sizes.shapes)):
        row = sighting_row(made, POLICY, made.end_us, ended=True)
        rows.append((number, made.end_us - FIRST_US, row))
    columns = [name for name in rows[0][2] if name not in ("id", "camera_id")]
    c.execute(f"CREATE TEMP TABLE shape (n INTEGER PRIMARY KEY, length_us, {', '.join(columns)})")
    marks = ", ".join("?" * (2 + len(columns)))
    c.executemany(
        f"INSERT INTO shape VALUES ({marks})",
        [(number, length_us, *(str(v) if k == "recording_date" else v for k, v in row.items()
                               if k in columns)) for number, length_us, row in rows],
    )  # fmt: skip


def drawn(count: int) -> Iterator[Sighting]:
    """The same ones each time: walks of some seconds through the picture."""
    draw = random.Random(5)
    for _ in range(count):
        class_name = draw.choice(CLASSES)
        seconds = min(500.0, draw.lognormvariate(2.3, 0.8))
        points = draw.randint(2, 9)
        x, y = draw.random(), draw.uniform(0.3, 1.0)
        dx, dy = draw.gauss(0, 0.5), draw.gauss(0, 0.15)
        path = tuple(
            PathPoint(
                round(seconds * 1000 * n / (points - 1)),
                _inside(x + dx * n / (points - 1) + draw.gauss(0, 0.01)),
                _inside(y + dy * n / (points - 1) + draw.gauss(0, 0.01)),
                0.2,
            )
            for n in range(points)
        )
        colours = Colours()
        if class_name == "person":
            colours = Colours(upper=draw.choice(COLOURS), lower=draw.choice(COLOURS))
        elif GROUPS[class_name] == "vehicle":
            colours = Colours(vehicle=draw.choice(COLOURS))
        yield Sighting(
            id=ID,
            camera_id=CAMERA,
            class_name=class_name,
            group=GROUPS[class_name],
            start_us=FIRST_US,
            end_us=FIRST_US + round(seconds * SECOND_US) + 1,
            confidence=round(draw.uniform(0.5, 0.97), 3),
            frames=round(seconds * 2) + 1,
            path=path,
            colours=colours,
            speed=draw.choice(tuple(Speed)),
            best=Best(FIRST_US + 7, (0.1, 0.1, 0.1, 0.2), 0.9),
            model="coco-ssd-480x640",
            model_sha256="5" * 64,
            precision="f32",
        )


def _inside(value: float) -> float:
    return round(min(1.0, max(0.0, value)), 4)


def _sightings(c: sqlite3.Connection, sizes: Sizes, start_us: int) -> None:
    """One row a number, in order of time, by hashes of the number; nights are quiet."""
    step = sizes.days * DAY_US / sizes.sightings
    c.execute(
        f"""
        CREATE TEMP VIEW spread AS
        WITH RECURSIVE number (i) AS (
            SELECT 0 UNION ALL SELECT i + 1 FROM number WHERE i + 1 < {sizes.sightings}),
        spot AS (
            SELECT i, CAST(i * {step} AS INTEGER) AS even_us,
                   ((i * 2654435761) % 4294967296) / 4294967296.0 AS u,
                   (i * 40503 + i / 977) % {sizes.shapes} AS n FROM number),
        clock AS (SELECT *, (even_us % {DAY_US}) / {DAY_US}.0 AS f FROM spot)
        SELECT i, n, CAST({sizes.cameras} * (0.5 * u + 0.5 * u * u) AS INTEGER) AS camera,
               {start_us} + even_us / {DAY_US} * {DAY_US} + CAST({HOUR_US} * (CASE
                   WHEN f < 0.10 THEN f / 0.10 * 7
                   WHEN f < 0.95 THEN 7 + (f - 0.10) / 0.85 * 16
                   ELSE 23 + (f - 0.95) / 0.05 END) AS INTEGER) AS at_us
        FROM clock"""
    )
    values = {
        "id": "printf('%08x-0000-4000-8000-%012x', (i * 2654435761) % 4294967296, i)",
        "camera_id": "printf('cam-%03d', camera)",
        "start_us": "at_us",
        "end_us": "at_us + length_us",
        "recording_date": f"date((at_us + length_us) / 1000000 + {8 * 3600}, 'unixepoch')",
        "expires_at_us": f"at_us + {31 * DAY_US}",
        "committed_at_us": "at_us + length_us",
        "sent_at_us": "at_us + length_us",
    }
    names = [row[1] for row in c.execute("PRAGMA main.table_info(sighting)")]
    picked = ", ".join(values.get(name, name) for name in names)
    c.execute(
        f"INSERT INTO main.sighting ({', '.join(names)})"
        f" SELECT {picked} FROM spread JOIN shape USING (n)"
    )


def _peer(c: sqlite3.Connection) -> None:
    """A plain table: the columns, a key, a b-tree on (camera, time), and one on time for the newest
    page, which it would sort all rows for."""
    columns = [(row[1], row[2]) for row in c.execute("PRAGMA main.table_info(sighting)")]
    typed = ", ".join(
        f"{name} {kind}" + (" PRIMARY KEY" if name == "id" else "") for name, kind in columns
    )
    c.execute(f"CREATE TABLE peer.plain_sighting ({typed})")
    c.execute("INSERT INTO peer.plain_sighting SELECT * FROM main.sighting")
    c.execute("CREATE INDEX peer.ix_plain_camera_time ON plain_sighting (camera_id, start_us)")
    c.execute("CREATE INDEX peer.ix_plain_time ON plain_sighting (start_us)")


def _segments(c: sqlite3.Connection, sizes: Sizes, start_us: int) -> None:
    """A minute of each camera after the other, most of it analysed."""
    minutes = sizes.days * 24 * 60
    minute_us = 60 * SECOND_US
    values = {
        "id": "printf('seg-%03d-%06d', camera, m)",
        "camera_id": "printf('cam-%03d', camera)",
        "start_us": f"{start_us} + m * {minute_us}",
        "end_us": f"{start_us} + (m + 1) * {minute_us}",
        "effective_start_us": f"{start_us} + m * {minute_us}",
        "effective_end_us": f"{start_us} + (m + 1) * {minute_us}",
        "recording_date": f"date({start_us // SECOND_US} + m * 60 + {8 * 3600}, 'unixepoch')",
        "expires_at_us": f"{start_us} + m * {minute_us} + {31 * DAY_US}",
        "policy_version": "1",
        "state": "'live'",
        "key": "printf('v1/2026-11-01/cam-%03d/%06d.mp4', camera, m)",
        "committed_at_us": f"{start_us} + m * {minute_us}",
        "analysed_us": str(20 * SECOND_US),
        "gated_us": str(38 * SECOND_US),
        "dropped_us": str(SECOND_US),
        "sha256": f"'{'0' * 64}'",
        "init_sha256": f"'{'0' * 64}'",
        "boxes_sha256": f"'{'0' * 64}'",
    }
    columns = c.execute("PRAGMA main.table_info(segment)").fetchall()
    names, picked = [], []
    for _, name, kind, required, _, _ in columns:
        if name in values or required:
            names.append(name)
            picked.append(values.get(name, "'x'" if "CHAR" in kind else "0"))
    c.execute(
        f"""
        INSERT INTO main.segment ({", ".join(names)})
        WITH RECURSIVE minute (m) AS (
            SELECT 0 UNION ALL SELECT m + 1 FROM minute WHERE m + 1 < {minutes}),
        each_camera (camera) AS (
            SELECT 0 UNION ALL SELECT camera + 1 FROM each_camera
            WHERE camera + 1 < {sizes.cameras})
        SELECT {", ".join(picked)} FROM minute CROSS JOIN each_camera"""
    )
