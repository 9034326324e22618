"""Index ingest: the archive's writing of sightings against SQLAlchemy's `add_all`.

Both sides get the same messages of topic `sightings` in the same batches, decode them, refuse what
is nonsense, compute the same rows by the same function and commit each batch to a database of their
own, on disk with every sync. A batch brings new sightings with their pictures and the ends of those
of the batch before; it is delivered once, and then twice again, as after a crash. The peer is what
one writes with an ORM: load the rows that are there, change those of which there is news, `add_all`
the rest. Rows and pictures must be the same on both sides, and none twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession

from services.archive.index import SightingIndexer, check, check_thumbnail
from services.detect.paths import DECIMALS
from services.retention.policy import ensure_policy
from shared import ids
from shared.bus import Record
from shared.clock import SECOND_US, SimulatedClock
from shared.db import tables
from shared.db.rows import SIGHTING_COLUMNS, SightingRows
from shared.messages import SIGHTINGS, SightingUpdated, decode, encode
from shared.platform import Platform, open_platform
from shared.retention import Policy
from shared.sightings import Best, Colour, Colours, PathPoint, Sighting
from tests.bench import measure, store
from tests.bench.measure import Cost, Figure, Row

NOW_US = 1_790_000_000_000_000
BATCH = 500
DELIVERIES = 3
MANY, FEW = 20, 4
CAMERAS = tuple(f"mk-{number:02d}" for number in range(1, 16))
PICTURE_BYTES = 3_000
EXPIRES = SIGHTING_COLUMNS.index("expires_at_us")
DATE = SIGHTING_COLUMNS.index("recording_date")


class Left(NamedTuple):
    """What a side left behind: how many rows and pictures, and a hash of all of them."""

    cost: Cost
    sightings: int
    thumbnails: int
    sha256: str


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    batches, rounds = (FEW, 1) if small else (MANY, 5)
    rows = batches * BATCH * DELIVERIES
    row = Row(f"index ingest: {batches} batches of {BATCH} updates, each delivered 3 times")
    wall = Figure("wall time a row, a new process at each delivery", "us", 0.2)
    cpu = Figure("CPU a row, the same", "us", None)
    one_wall = Figure("wall time a row, one process", "us", 0.2)
    one_cpu = Figure("CPU a row, the same", "us", None)
    for number in range(rounds):
        found = {}
        sides = (
            (ours_side, peer_side, one_life_side)
            if number % 2 == 0
            else (one_life_side, peer_side, ours_side)
        )
        for side in sides:
            there = folder / f"{side.__name__}-{number}"
            found[side] = measure.isolated(_timed, side, there, batches)
        peer = found[peer_side]
        for side, figures in ((ours_side, (wall, cpu)), (one_life_side, (one_wall, one_cpu))):
            ours = found[side]
            for figure, pick in zip(figures, (1, 0), strict=True):
                figure.ours.append(ours.cost[pick] / rows * SECOND_US)
                figure.peer.append(peer.cost[pick] / rows * SECOND_US)
            expected = batches * (BATCH // 2)
            name = f"round {number + 1}, {side.__name__.strip('_')}"
            row.expect(ours.sightings == expected, f"{name}: {ours.sightings} rows, not {expected}")
            row.expect(ours[1:] == peer[1:], f"{name}: ours {ours[1:]}, peer {peer[1:]}")
            row.notes.append(
                f"{name}: {rows / ours.cost.wall_s:,.0f} rows/s, peer "
                f"{rows / peer.cost.wall_s:,.0f} rows/s; {measure.load()}"
            )
    row.figures = [wall, cpu, one_wall, one_cpu]
    return row


def _timed(side: Any, there: Path, batches: int) -> Left:
    made = [list(batch) for batch in _batches(batches)]
    return asyncio.run(_run(side, there, made))


async def _run(side: Any, there: Path, batches: Sequence[Sequence[Record]]) -> Left:
    settings = store.settings_of(there, log={"level": "error"})
    platform = await open_platform(settings, SimulatedClock(NOW_US))
    try:
        await platform.database.migrate()
        await ensure_policy(platform, settings)
        cost = await side(platform, settings, batches)
        return await _left(platform, cost)
    finally:
        await platform.close()


async def _left(platform: Platform, cost: Cost) -> Left:
    digest = hashlib.sha256()
    counts = []
    async with platform.database.read() as connection:
        for table, key in ((tables.sighting, "id"), (tables.thumbnail, "sighting_id")):
            found = (await connection.execute(sa.select(table).order_by(table.c[key]))).all()
            counts.append(len(found))
            digest.update(repr(found).encode())
    return Left(cost, counts[0], counts[1], digest.hexdigest())


# Messages


def _batches(count: int) -> Iterator[list[Record]]:
    """Half of each batch is new, half are the ends of those before (of the last one: new again)."""
    chance = random.Random(7)
    open_: list[Sighting] = []
    offset = 0
    for number in range(count):
        begun = [sighting(chance, number, index) for index in range(BATCH // 2)]
        events = [
            SightingUpdated(one, False, NOW_US + number, chance.randbytes(PICTURE_BYTES))
            for one in begun
        ]
        events = [
            msgspec.structs.replace(event, thumbnail=b"\xff\xd8\xff" + (event.thumbnail or b""))
            for event in events
        ]
        # The first batch has nothing to end: it says twice what is new.
        ended = [longer(one) for one in open_] or begun
        events += [SightingUpdated(one, bool(open_), NOW_US + number) for one in ended]
        chance.shuffle(events)
        open_ = begun
        batch = []
        for event in events:
            camera_id = event.sighting.camera_id
            batch.append(Record(SIGHTINGS.name, 0, offset, camera_id, encode(event), (), NOW_US))
            offset += 1
        yield batch


def sighting(chance: random.Random, batch: int, index: int, *, back_us: int = 0) -> Sighting:
    """The sighting of that number in a batch; in the hour before now, or so much earlier."""
    camera_id = CAMERAS[index % len(CAMERAS)]
    start_us = NOW_US - (3_600 - batch * 10) * SECOND_US + index * 1_000 - back_us
    return Sighting(
        id=ids.derived_id(camera_id, "person", start_us, index),
        camera_id=camera_id,
        class_name="person",
        group="person",
        start_us=start_us,
        end_us=start_us + 8 * SECOND_US + 1,
        confidence=_share(chance),
        frames=8,
        path=_path(chance, 8),
        colours=Colours(upper=Colour.RED, lower=Colour.BLACK),
        best=Best(start_us, (_share(chance), 0.4, 0.1, 0.2), 0.9),
        model="coco-ssd-480x640",
        model_sha256="0" * 64,
        precision="f32",
        uncertainty_us=50_000,
    )


def _path(chance: random.Random, points: int) -> tuple[PathPoint, ...]:
    return tuple(
        PathPoint(number * 1_000, _share(chance), _share(chance), 0.2) for number in range(points)
    )


def _share(chance: random.Random) -> float:
    """Of a picture, or of one, with as many digits as detection tells."""
    return round(chance.random(), DECIMALS)


def longer(one: Sighting) -> Sighting:
    """The same, some seconds later."""
    chance = random.Random(one.id)
    return msgspec.structs.replace(
        one, end_us=one.end_us + 6 * SECOND_US, path=one.path + _path(chance, 6), frames=14
    )


# Ours


async def ours_side(platform: Platform, settings: Any, batches: Sequence[Sequence[Record]]) -> Cost:
    """Each delivery by an indexer that remembers nothing, as after the crash that repeats it."""
    with measure.costing() as cost:
        for batch in batches:
            for _ in range(DELIVERIES):
                await SightingIndexer(platform, settings).write(batch)
    return cost[0]


async def one_life_side(
    platform: Platform, settings: Any, batches: Sequence[Sequence[Record]]
) -> Cost:
    """All by one, which knows what it wrote."""
    return await delivered(SightingIndexer(platform, settings), batches)


async def delivered(indexer: SightingIndexer, batches: Sequence[Sequence[Record]]) -> Cost:
    """What it took to write each of these batches three times."""
    with measure.costing() as cost:
        for batch in batches:
            for _ in range(DELIVERIES):
                await indexer.write(batch)
    return cost[0]


# The peer


class Base(orm.DeclarativeBase):
    metadata = tables.metadata


class StoredSighting(Base):
    __table__ = tables.sighting


class StoredThumbnail(Base):
    __table__ = tables.thumbnail


async def peer_side(platform: Platform, settings: Any, batches: Sequence[Sequence[Record]]) -> Cost:
    """Through the same port, as a service of this program would."""
    rule = settings.retention
    rows = SightingRows(Policy(0, rule.days, rule.basis, settings.site.timezone))
    with measure.costing() as cost:
        for batch in batches:
            for _ in range(DELIVERIES):
                await _peer_batch(platform, rows, batch)
    return cost[0]


async def _peer_batch(platform: Platform, rows: SightingRows, batch: Sequence[Record]) -> None:
    newest: dict[str, SightingUpdated] = {}
    pictures: dict[str, tuple[int, bytes]] = {}
    for record in batch:
        event = decode(record.value, SightingUpdated)
        one = event.sighting
        check(event)
        if one.id not in newest or rank(event) > rank(newest[one.id]):
            newest[one.id] = event
        if event.thumbnail is not None:
            pictures[one.id] = check_thumbnail(one.best.at_us, event.thumbnail)
    async with platform.database.write() as connection, AsyncSession(bind=connection) as session:
        query = sa.select(StoredSighting).where(StoredSighting.id.in_(newest))
        there = {row.id: row for row in await session.scalars(query)}
        days = {key: row.recording_date for key, row in there.items()}
        fresh: list[Any] = []
        for key, event in newest.items():
            row = there.get(key)
            if row is not None and rank(event) <= (row.end_us, row.ended, row.sent_at_us):
                continue
            values = rows.values(
                event.sighting, NOW_US, ended=event.ended, sent_at_us=event.sent_at_us
            )
            if values[EXPIRES] <= NOW_US:
                continue
            if row is None:
                days[key] = values[DATE]
                fresh.append(StoredSighting(**dict(zip(SIGHTING_COLUMNS, values, strict=True))))
            else:
                for name, value in zip(SIGHTING_COLUMNS, values, strict=True):
                    setattr(row, name, value)
        known = sa.select(StoredThumbnail).where(StoredThumbnail.sighting_id.in_(pictures))
        shown = {row.sighting_id: row for row in await session.scalars(known)}
        for key, (at_us, jpeg) in pictures.items():
            picture = shown.get(key)
            if picture is None:
                fresh.append(
                    StoredThumbnail(
                        sighting_id=key, recording_date=days[key], captured_us=at_us, jpeg=jpeg
                    )
                )
            elif at_us > picture.captured_us:
                picture.captured_us, picture.jpeg = at_us, jpeg
        session.add_all(fresh)
        await session.flush()


def rank(event: SightingUpdated) -> tuple[int, bool, int]:
    """Of two updates of a sighting the greater one counts."""
    return event.sighting.end_us, event.ended, event.sent_at_us
