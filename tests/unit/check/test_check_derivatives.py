"""Boxes and thumbnails, broken on purpose, are named by `check`; sound ones are no finding."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from services.archive.boxes import BoxesWriter
from services.archive.service import build
from services.check import Depth, Finding, check
from shared import ids
from shared.blobs import STANDARD
from shared.clock import DAY_US, SECOND_US, SimulatedClock
from shared.db import rows, tables
from shared.domain import Camera, Source
from shared.platform import Platform
from shared.settings import Settings
from tests.support import archiving, databases, seen, sightings
from tests.support.archiving import MINUTE_US, START_US, segment

CLEAN: list[tuple[int, str]] = []


class World:
    """A recording with its boxes, and a sighting with its picture."""

    def __init__(self, settings: Settings, platform: Platform, clock: SimulatedClock) -> None:
        self.settings, self.platform, self.clock = settings, platform, clock

    async def build(self) -> None:
        service = build(self.platform, self.settings, "spool")
        archiving.file_segment(self.settings, segment())
        await archiving.drain(service)
        end_us = START_US + MINUTE_US
        await self.platform.bus.publish(list(seen.frames(START_US, end_us + 30 * SECOND_US)))
        writer = BoxesWriter(self.platform, self.settings)
        await self.clock.advance(6)
        await writer.run_once()
        await writer.leave()
        self.key = ids.boxes_key(
            (await archiving.all_rows(self.platform, tables.segment))[0]["key"]
        )
        camera = Camera(
            id="cam", name="cam", source=Source("file:///a.mp4"), created_at_us=START_US
        )
        one = sightings.sighting(start_us=START_US)
        row = sightings.row(one, now_us=self.clock.now_us())
        await databases.make_room(self.platform.database, row)
        async with self.platform.database.write() as connection:
            values = rows.camera_row(camera, START_US)
            await connection.execute(sa.insert(tables.camera).values(values))
            await connection.execute(sa.insert(tables.sighting).values(row))
            await connection.execute(
                sa.insert(tables.thumbnail).values(
                    sighting_id=one.id,
                    recording_date=row["recording_date"],
                    captured_us=START_US,
                    jpeg=b"\xff\xd8\xff",
                )
            )

    async def set(self, **values: Any) -> None:
        async with self.platform.database.write() as connection:
            await connection.execute(sa.update(tables.segment).values(values))

    async def replace(self, data: bytes) -> str:
        """Another object under the key, stored as it should be; its hash."""
        sha256 = hashlib.sha256(data).hexdigest()
        await self.platform.blobs.delete([self.key])
        await self.platform.blobs.put(self.key, data, sha256=sha256, size_bytes=len(data))
        return sha256

    async def found(self, depth: Depth = "hash") -> list[tuple[int, str]]:
        """Invariant and words of each finding about what is derived."""
        report = await check(self.platform, self.settings, depth)
        assert all(_is_whole(one) for one in report.findings)
        words = ("boxes", "thumbnail")
        return [
            (one.invariant, one.what)
            for one in report.findings
            if any(word in one.what for word in words)
        ]


def _is_whole(finding: Finding) -> bool:
    return bool(finding.fix)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    settings, clock = archiving.settings_in(tmp_path / "state"), archiving.late_clock(2 * MINUTE_US)
    async with archiving.opened(settings, clock) as platform:
        made = World(settings, platform, clock)
        await made.build()
        yield made


@pytest.mark.parametrize("depth", ["presence", "size", "hash"])
async def test_sound_derivatives_are_no_finding(world: World, depth: Depth) -> None:
    assert await world.found(depth) == CLEAN
    report = await check(world.platform, world.settings, depth)
    assert (report.segments, report.objects) == (1, 2)


async def test_a_row_whose_boxes_are_gone(world: World) -> None:
    await world.platform.blobs.delete([world.key])
    ((invariant, what),) = await world.found("presence")
    assert (invariant, what) == (1, "The row names a boxes object that is not in the store.")


async def test_a_purge_that_is_under_way_is_no_finding(world: World) -> None:
    await world.platform.blobs.delete([world.key])
    await world.set(state="purging")
    assert await world.found() == CLEAN


async def test_boxes_of_another_size_or_hash(world: World) -> None:
    await world.replace(b"x")
    assert await world.found("presence") == CLEAN
    ((invariant, what),) = await world.found("size")
    assert invariant == 1 and what.startswith("Its boxes object has 1 bytes")
    await world.set(boxes_size_bytes=1)
    ((invariant, what),) = await world.found("size")
    assert invariant == 1 and "another SHA-256" in what


async def test_a_flipped_bit_in_boxes(world: World) -> None:
    path = world.settings.path(world.settings.stores.blobs_dir) / world.key
    with path.open("r+b") as file:
        file.write(b"?")
    assert await world.found("size") == CLEAN
    ((invariant, what),) = await world.found("hash")
    assert invariant == 1 and "no longer have" in what


async def test_boxes_that_are_none(world: World) -> None:
    sha256 = await world.replace(b"abc")
    await world.set(boxes_sha256=sha256, boxes_size_bytes=3)
    ((invariant, what),) = await world.found("hash")
    assert invariant == 1 and "boxes cannot be read" in what


async def test_sums_that_do_not_follow_from_the_boxes(world: World) -> None:
    await world.set(gated_us=SECOND_US)
    assert await world.found("size") == CLEAN
    ((invariant, what),) = await world.found("hash")
    assert invariant == 1 and "seconds analysed" in what


async def test_boxes_that_no_row_names(world: World) -> None:
    await world.set(boxes_sha256=None, boxes_size_bytes=None)
    assert await world.found() == CLEAN, "just written"
    await world.clock.advance(DAY_US / SECOND_US + 1)
    ((invariant, what),) = await world.found()
    assert (invariant, what) == (2, "There is a boxes object that its row does not name.")
    await world.set(analysed_us=None)
    assert await world.found() == CLEAN, "the archive will take them in"


async def test_boxes_of_held_footage_without_their_tag(world: World) -> None:
    hold = archiving.hold(START_US, START_US + MINUTE_US, world.clock.now_us())
    await archiving.place(world.platform, hold)
    await world.platform.blobs.set_tags([world.key], STANDARD)
    ((invariant, what),) = await world.found("presence")
    assert invariant == 3 and "its boxes are not tagged held" in what


async def test_a_picture_of_nobody(world: World) -> None:
    async with world.platform.database.write() as connection:
        await connection.execute(sa.delete(tables.sighting))
    ((invariant, what),) = await world.found()
    assert invariant == 4 and "thumbnail of sighting" in what
