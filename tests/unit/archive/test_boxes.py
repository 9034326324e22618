"""The boxes object beside a segment: when it is written, what its row says, what never stays."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from services.archive.boxes import GROUP, BoxesWriter
from services.archive.boxes_buffer import Buffer
from services.archive.service import ArchiveService, build
from shared import boxes, ids, metrics
from shared.bus import Message
from shared.clock import HOUR_US, SECOND_US, SimulatedClock
from shared.db import tables
from shared.errors import Kind, LamppostError
from shared.messages import DETECTIONS
from shared.platform import Platform
from shared.settings import Settings
from tests.support import archiving, seen
from tests.support.archiving import MINUTE_US, START_US, segment

END_US = START_US + MINUTE_US


@dataclasses.dataclass
class World:
    settings: Settings
    platform: Platform
    clock: SimulatedClock
    service: ArchiveService
    writer: BoxesWriter

    async def file(self, *starts: int, camera_id: str = "cam") -> None:
        for start_us in starts:
            archiving.file_segment(self.settings, segment(start_us, camera_id))
        await archiving.drain(self.service)

    async def say(self, *messages: Message) -> None:
        await self.platform.bus.publish(messages)

    async def round(self, seconds: float = 6.0) -> None:
        """Time passes, then everything is read and what can be is decided."""
        await self.clock.advance(seconds)
        while await self.writer.run_once():
            pass
        await self.clock.advance(6.0)
        await self.writer.run_once()

    async def row(self, start_us: int = START_US, camera_id: str = "cam") -> dict[str, Any]:
        wanted = segment(start_us, camera_id).id
        rows = await archiving.all_rows(self.platform, tables.segment)
        return next(row for row in rows if row["id"] == wanted)

    async def sums(self, start_us: int = START_US, camera_id: str = "cam") -> tuple[Any, ...]:
        row = await self.row(start_us, camera_id)
        names = ("analysed_us", "gated_us", "dropped_us", "boxes_partial")
        return tuple(row[name] for name in names)

    async def object(self, start_us: int = START_US) -> boxes.SegmentBoxes:
        """The object that the row names, whose bytes are what the row says."""
        row = await self.row(start_us)
        key = ids.boxes_key(row["key"])
        data = await self.platform.blobs.read(key)
        assert await self.platform.blobs.verify(key) == row["boxes_sha256"]
        assert len(data) == row["boxes_size_bytes"]
        return boxes.decode(data)

    async def objects(self) -> list[str]:
        return [key for key in await archiving.all_keys(self.platform) if key.endswith(".boxes")]

    async def unread(self) -> int:
        """Messages that a next life would get again."""
        await self.writer.leave()
        consumer = await self.platform.bus.consumer([DETECTIONS.name], group=GROUP, member="next")
        count = 0
        while found := await consumer.poll(timeout_s=0):
            count += len(found)
        await consumer.close()
        return count

    async def set(self, **values: Any) -> None:
        async with self.platform.database.write() as connection:
            await connection.execute(sa.update(tables.segment).values(values))

    def with_put(self, around: Callable[[Callable[..., Any]], Awaitable[Any]]) -> None:
        """From now on a put of the writer's goes through `around`."""
        inner = self.platform.blobs

        class Store:
            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

            async def put(self, *args: Any, **kwargs: Any) -> Any:
                return await around(lambda: inner.put(*args, **kwargs))

        platform = dataclasses.replace(self.platform, blobs=Store())  # type: ignore[arg-type]
        self.writer = writer_of(platform, self.settings)


def writer_of(platform: Platform, settings: Settings, buffer: Buffer | None = None) -> BoxesWriter:
    return BoxesWriter(platform, settings, buffer)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened(tmp_path) as found:
        yield found


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[World]:
    settings, clock = archiving.settings_in(folder / "state"), archiving.late_clock(2 * MINUTE_US)
    async with archiving.opened(settings, clock) as platform:
        service = build(platform, settings, "all")
        world = World(settings, platform, clock, service, writer_of(platform, settings))
        yield world
        await world.writer.leave()


async def test_a_segment_is_decided_once_its_end_is_passed_by_30_s(world: World) -> None:
    await world.file(START_US)
    await world.say(*seen.frames(START_US, END_US + 29 * SECOND_US))
    await world.round()
    assert await world.sums() == (None, None, None, None)
    await world.say(seen.frame(END_US + 30 * SECOND_US))
    await world.round()
    assert await world.sums() == (MINUTE_US, 0, 0, False)
    found = await world.object()
    assert (found.segment_id, found.camera_id) == (segment().id, "cam")
    assert [row.ms for row in found.frames] == [1000 * second for second in range(1, 61)]
    first = next(boxes.frames(found))
    assert first.boxes == (seen.WALKER,)


async def test_the_sums_tell_analysed_gated_dropped_and_unseen(world: World) -> None:
    await world.file(START_US)
    await world.say(
        seen.frame(START_US + SECOND_US),
        seen.passed(START_US + SECOND_US, START_US + 11 * SECOND_US),
        seen.passed(START_US + 11 * SECOND_US, START_US + 13 * SECOND_US, "too_old"),
        seen.frame(START_US + 20 * SECOND_US),
        seen.passed(END_US + 30 * SECOND_US, END_US + 40 * SECOND_US),
    )
    await world.round()
    assert await world.sums() == (2 * SECOND_US, 10 * SECOND_US, 2 * SECOND_US, False)


async def test_after_ten_minutes_it_is_written_as_far_as_it_goes(world: World) -> None:
    await world.file(START_US)
    await world.say(*seen.frames(START_US, START_US + 20 * SECOND_US))
    await world.round(400)
    assert await world.sums() == (None, None, None, None)
    await world.round(200)
    assert await world.sums() == (20 * SECOND_US, 0, 0, True)
    assert len((await world.object()).frames) == 20


async def test_where_nobody_looked_there_is_no_object_and_the_row_says_so(world: World) -> None:
    await world.file(START_US)
    await world.round(400)
    assert await world.sums() == (None, None, None, None)
    await world.round(200)
    assert await world.sums() == (0, 0, 0, True)
    assert await world.objects() == []
    assert (await world.row())["boxes_sha256"] is None


async def test_a_backlog_is_read_before_anything_is_called_overdue(world: World) -> None:
    """The archive was away for an hour: what it reads first is not all there is."""
    starts = [START_US + number * MINUTE_US for number in range(20)]
    await world.clock.advance(3_600)
    await world.file(*starts)
    await world.say(*seen.frames(START_US, starts[-1] + MINUTE_US))
    await world.round()
    for start_us in starts:
        assert (await world.sums(start_us))[0] == MINUTE_US, start_us
    # Of the last one nothing says that its end was passed.
    assert [(await world.sums(start))[3] for start in starts] == [False] * 19 + [True]


async def test_a_segment_that_is_filed_late_finds_its_frames(world: World) -> None:
    """The store was away for half an hour."""
    await world.say(*seen.frames(START_US, START_US + 30 * MINUTE_US))
    await world.round(1_800)
    await world.file(START_US)
    await world.round()
    assert await world.sums() == (MINUTE_US, 0, 0, False)


async def test_overlapping_segments_both_have_the_frames(world: World) -> None:
    """Two recorders at a change of hands."""
    await world.file(START_US, START_US + MINUTE_US // 2)
    await world.say(*seen.frames(START_US, START_US + 3 * MINUTE_US))
    await world.round()
    assert (await world.sums())[0] == MINUTE_US
    assert (await world.sums(START_US + MINUTE_US // 2))[0] == MINUTE_US


# Offsets


async def test_messages_are_done_when_their_segments_are(world: World) -> None:
    await world.file(START_US)
    await world.say(*seen.frames(START_US, END_US + 40 * SECOND_US))
    await world.round()
    # The first frame of the next minute stands for no part of this one.
    assert await world.unread() == 40


async def test_what_a_next_life_reads_again_changes_nothing(world: World) -> None:
    await world.file(START_US)
    await world.say(*seen.frames(START_US, END_US + 40 * SECOND_US))
    await world.round()
    before = await world.row()
    await world.writer.leave()
    await world.say(*seen.frames(START_US, END_US + 40 * SECOND_US))
    await world.round()
    assert await world.row() == before
    assert len(await world.objects()) == 1


async def test_frames_of_a_gap_are_let_go(world: World) -> None:
    before = metrics.BOXES_DROPPED.labels("no_segment")._value.get()
    await world.say(*seen.frames(START_US, END_US))
    await world.round()
    archiving.file_gap(world.settings, archiving.gap(START_US, end_us=END_US))
    await archiving.drain(world.service)
    await world.round()
    assert await world.unread() == 0
    assert metrics.BOXES_DROPPED.labels("no_segment")._value.get() == before


async def test_frames_that_no_row_ever_has_are_let_go_and_counted(world: World) -> None:
    before = metrics.BOXES_DROPPED.labels("no_segment")._value.get()
    await world.say(*seen.frames(START_US, END_US))
    await world.round(3_600)
    assert world.writer.buffer.size_bytes > 0
    await world.round(3 * 3_600)
    assert world.writer.buffer.size_bytes == 0
    assert await world.unread() == 0
    assert metrics.BOXES_DROPPED.labels("no_segment")._value.get() - before == 60


async def test_a_full_buffer_drops_the_oldest_and_goes_on(world: World) -> None:
    before = metrics.BOXES_DROPPED.labels("full")._value.get()
    await world.file(START_US, END_US)
    world.writer = writer_of(world.platform, world.settings, Buffer(max_bytes=60_000))
    await world.say(*seen.frames(START_US, END_US + 90 * SECOND_US))
    await world.round()
    dropped = metrics.BOXES_DROPPED.labels("full")._value.get() - before
    assert dropped > 0
    assert world.writer.buffer.size_bytes <= 60_000
    assert (await world.sums(END_US))[0] == MINUTE_US
    assert (await world.sums())[0] < MINUTE_US


async def test_poison_is_set_aside_and_holds_nothing_up(world: World) -> None:
    counter = metrics.BUS_POISON.labels(DETECTIONS.name)
    before = counter._value.get()
    await world.file(START_US)
    far_us = world.clock.now_us() + 2 * HOUR_US
    await world.say(
        Message(DETECTIONS.name, "cam", b"\x00"),
        seen.frame(far_us),
        seen.passed(END_US, START_US),
        seen.frame(START_US + SECOND_US, "../cam"),
        *seen.frames(START_US, END_US + 30 * SECOND_US),
    )
    await world.round()
    assert (await world.sums())[0] == MINUTE_US
    assert counter._value.get() - before == 4
    assert await world.unread() == 30


# The store


async def test_a_store_that_is_away_costs_nothing_but_time(world: World) -> None:
    away = True

    async def around(put: Callable[..., Any]) -> Any:
        if away:
            raise LamppostError(Kind.UNAVAILABLE, "The store is away.")
        return await put()

    await world.file(START_US)
    world.with_put(around)
    await world.say(*seen.frames(START_US, END_US + 30 * SECOND_US))
    await world.round()
    assert await world.sums() == (None, None, None, None)
    away = False
    await world.round()
    assert (await world.sums())[0] == MINUTE_US


async def test_boxes_of_held_footage_are_tagged_held(world: World) -> None:
    await world.file(START_US)
    await archiving.place(world.platform, archiving.hold(START_US, END_US, world.clock.now_us()))
    await world.say(*seen.frames(START_US, END_US + 30 * SECOND_US))
    await world.round()
    await _is_tagged(world, "held")


async def _is_tagged(world: World, tag: str) -> None:
    (key,) = await world.objects()
    found = await world.platform.blobs.stat(key)
    assert found is not None and found.tags == {"lamppost": tag}


async def test_a_hold_between_put_and_row_is_seen(world: World) -> None:
    async def around(put: Callable[..., Any]) -> Any:
        found = await put()
        made = archiving.hold(START_US, END_US, world.clock.now_us())
        await archiving.place(world.platform, made)
        return found

    await world.file(START_US)
    world.with_put(around)
    await world.say(*seen.frames(START_US, END_US + 30 * SECOND_US))
    await world.round()
    await _is_tagged(world, "held")
    assert (await world.sums())[0] == MINUTE_US


@pytest.mark.parametrize("how", ["claimed", "gone"])
async def test_nothing_stays_of_a_segment_that_was_purged_meanwhile(world: World, how: str) -> None:
    async def around(put: Callable[..., Any]) -> Any:
        if how == "claimed":
            await world.set(state="purging")
        else:
            async with world.platform.database.write() as connection:
                await connection.execute(sa.delete(tables.segment))
        return await put()

    await world.file(START_US)
    world.with_put(around)
    await world.say(*seen.frames(START_US, END_US + 30 * SECOND_US))
    await world.round()
    assert await world.objects() == []
    if how == "claimed":
        assert await world.sums() == (None, None, None, None)


async def test_a_segment_being_purged_gets_none(world: World) -> None:
    await world.file(START_US)
    await world.set(state="purging")
    await world.say(*seen.frames(START_US, END_US + 30 * SECOND_US))
    await world.round(700)
    assert await world.objects() == []
    assert await world.sums() == (None, None, None, None)


async def test_a_restored_row_takes_in_the_object_that_is_there(world: World) -> None:
    """A database of before the object, and a bus that remembers nothing."""
    await world.file(START_US)
    await world.say(*seen.frames(START_US, END_US + 30 * SECOND_US))
    await world.round()
    before = await world.row()
    await world.set(
        boxes_sha256=None, boxes_size_bytes=None, boxes_partial=None,
        analysed_us=None, gated_us=None, dropped_us=None,
    )  # fmt: skip
    await world.round(600)
    assert await world.row() == before | {"boxes_partial": True}
    await world.object()


async def test_a_damaged_object_that_no_row_names_is_replaced(world: World) -> None:
    await world.file(START_US)
    key = ids.boxes_key((await world.row())["key"])
    sha256 = "9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0"
    await world.platform.blobs.put(key, b"aaa", sha256=sha256, size_bytes=3)
    await world.say(*seen.frames(START_US, END_US + 30 * SECOND_US))
    await world.round()
    assert len((await world.object()).frames) == 60
