"""A batch that comes again is known by its mark; nothing that nobody read ever is."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from services.archive.consumed import DIGEST_BYTES, marks_of
from services.archive.index import GROUP, SightingIndexer
from services.retention.policy import ensure_policy
from shared.bus import Message, Record, letters
from shared.clock import DAY_US
from shared.db import tables
from shared.db.coordination import consumed
from shared.errors import Kind, LamppostError
from shared.messages import SIGHTINGS
from tests.support.archiving import START_US, all_rows
from tests.support.indexing import JPEG, World, made, new_life, opened, update

ASKING = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")


def log_of(messages: Sequence[Message], first: int = 0, part: int = 0) -> list[Record]:
    """The messages as a partition has them."""
    return [
        Record(one.topic, part, first + number, one.key, one.value, one.headers, START_US + number)
        for number, one in enumerate(messages)
    ]


def several(count: int, first: int = 1) -> list[Message]:
    return [update(made(first + number), thumbnail=JPEG) for number in range(count)]


@contextmanager
def statements() -> Iterator[list[str]]:
    """What is asked of any database meanwhile."""
    heard: list[str] = []

    def hear(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(ASKING):
            heard.append(statement)

    event.listen(sa.Engine, "before_cursor_execute", hear)
    try:
        yield heard
    finally:
        event.remove(sa.Engine, "before_cursor_execute", hear)


async def marks(world: World) -> dict[int, int]:
    """Where each partition's mark ends."""
    found = await all_rows(world.platform, consumed)
    assert {(row["consumer_group"], row["topic"]) for row in found} <= {(GROUP, SIGHTINGS.name)}
    return {row["part"]: row["next_offset"] for row in found}


class Failing:
    """A bus that is away when it is asked for the named thing, so many times."""

    def __init__(self, inner: Any, what: str, times: int = 1) -> None:
        self._inner, self._what, self.left = inner, what, times

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name != self._what:
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.left:
                self.left -= 1
                raise LamppostError(Kind.UNAVAILABLE, "The bus is away.")
            return await found(*args, **kwargs)

        return call


class Joining(Failing):
    """A bus of which the consumers' commits fail."""

    async def consumer(self, *args: Any, **kwargs: Any) -> Any:
        found = await self._inner.consumer(*args, **kwargs)
        self.joined = Failing(found, "commit", min(1, self.left))
        self.left -= self.joined.left
        return self.joined


async def test_a_batch_that_comes_again_costs_one_query_and_touches_no_row(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        gone = made(8, start_us=START_US - 40 * DAY_US, end_us=START_US - 40 * DAY_US + 1)
        batch = log_of([*several(6), update(gone)])
        await world.index.write(batch)
        before = await world.rows()
        await world.clock.advance(30.0)
        await new_life(world)
        with statements() as heard:
            await world.index.write(batch)
        assert len(heard) == 1
        assert "consumed" in heard[0]
        assert await world.rows() == before
        assert len(before) == 6


async def test_what_it_wrote_itself_it_knows_without_a_question(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        batch = log_of(several(6))
        await world.index.write(batch)
        before = await world.rows()
        await world.clock.advance(30.0)
        with statements() as heard:
            await world.index.write(batch)
        assert heard == []
        assert await world.rows() == before
        await world.index.write(log_of(several(2, first=7), first=6))
        assert len(await world.rows()) == 8


async def test_nothing_is_asked_of_the_table_before_a_write(tmp_path: Path) -> None:
    """While all its rows stand under dates of one zone."""
    async with opened(tmp_path) as world:
        await ensure_policy(world.platform, world.settings)
        await world.index.write(log_of(several(3)))
        with statements() as heard:
            await world.index.write(log_of(several(3, first=4), first=3))
        assert len(await world.rows()) == 6
        looks = [one for one in heard if one.startswith("SELECT") and "sighting" in one]
        assert looks == []


async def test_a_death_between_rows_and_offsets(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        bus: Any = Joining(world.platform.bus, "", times=1)
        platform = dataclasses.replace(world.platform, bus=bus)
        world.index = SightingIndexer(platform, world.settings)
        world.index.wait_s = 0.0
        await world.platform.bus.publish(several(5))
        with pytest.raises(LamppostError, match="away"):
            await world.index.run_once()
        before = await world.rows()
        assert len(before) == 5
        await new_life(world)
        with statements() as heard:
            assert await world.index.run_once()
        assert len(heard) == 1
        assert not await world.index.run_once(), "its offsets are committed now"
        assert await world.rows() == before
        await world.send(*several(2, first=6))
        assert len(await world.rows()) == 7


async def test_of_a_batch_partly_consumed_the_rest_is_handled(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        log = log_of(several(10))
        await world.index.write(log[0:5])
        first_us = world.clock.now_us()
        await world.clock.advance(10.0)
        await new_life(world)
        await world.index.write(log[1:3])
        await world.index.write(log[3:8])
        await world.index.write(log[8:10])
        at_us = [
            row["committed_at_us"] - first_us for _, row in sorted((await world.rows()).items())
        ]
        assert sorted(at_us) == [0] * 5 + [10_000_000] * 5
        assert await marks(world) == {0: 10}


async def test_what_no_mark_names_goes_the_long_way_and_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        log = log_of(several(6))
        await world.index.write(log[:3])
        await world.index.write(log[3:])
        before = await world.rows()
        await world.clock.advance(10.0)
        await new_life(world)
        await world.index.write(log)
        assert await world.rows() == before


async def test_a_log_that_begins_anew_loses_nothing(tmp_path: Path) -> None:
    """The bus was lost: offsets begin at nought, below the mark, and soon stand above it."""
    async with opened(tmp_path) as world:
        await world.send(*several(3))
        await world.send(*several(3, first=4))
        assert await marks(world) == {0: 6}
    for path in (tmp_path / "state").glob("bus.db*"):
        path.unlink()
    async with opened(tmp_path) as world:
        await world.send(*several(2, first=7))
        assert len(await world.rows()) == 8
        assert await marks(world) == {0: 2}
        await new_life(world)
        await world.send(*several(20, first=9))
        assert len(await world.rows()) == 28


async def test_another_message_at_a_marked_offset_is_news(tmp_path: Path) -> None:
    """A topic made again that has grown past the mark before anybody looked."""
    async with opened(tmp_path) as world:
        await world.index.write(log_of(several(4)))
        await new_life(world)
        await world.index.write(log_of(several(9, first=5)))
        assert len(await world.rows()) == 13


async def test_the_mark_goes_with_the_rows(tmp_path: Path) -> None:
    """What was not written is not marked."""
    async with opened(tmp_path) as world:
        inner = world.platform.database

        class Database:
            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

            @asynccontextmanager
            async def write(self, cameras: Any = ()) -> AsyncIterator[Any]:
                async with inner.write(cameras) as connection:
                    yield connection
                    raise LamppostError(Kind.UNAVAILABLE, "Lost before the commit.")

        platform = dataclasses.replace(world.platform, database=Database())  # type: ignore[arg-type]
        batch = log_of(several(4))
        with pytest.raises(LamppostError, match="Lost"):
            await SightingIndexer(platform, world.settings).write(batch)
        assert await marks(world) == {}
        await world.index.write(batch)
        assert len(await world.rows()) == 4


async def test_what_cannot_be_used_is_met_again_until_its_letter_is_sent(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        bus: Any = Failing(world.platform.bus, "publish")
        platform = dataclasses.replace(world.platform, bus=bus)
        world.index = SightingIndexer(platform, world.settings)
        world.index.wait_s = 0.0
        poison = Message(SIGHTINGS.name, "cam", b"{")
        await world.platform.bus.publish([*several(3), poison, *several(1, first=4)])
        with pytest.raises(LamppostError, match="away"):
            await world.index.run_once()
        assert len(await world.rows()) == 4
        assert await letters.read(world.platform.bus) == []
        await new_life(world)
        await world.index.run_once()
        [letter] = await letters.read(world.platform.bus)
        assert letter.value == b"{"


async def test_there_is_one_mark_for_each_partition(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        ends = {0: 0, 1: 0, 2: 0}
        for number in range(12):
            part = number % 3
            batch = log_of(several(4, first=1 + 4 * number), ends[part], part)
            await world.index.write(batch)
            ends[part] += 4
        assert await marks(world) == ends
        found = await all_rows(world.platform, consumed)
        assert {len(row["digests"]) for row in found} == {4 * DIGEST_BYTES}


async def test_a_partition_that_comes_back_is_looked_up_anew(tmp_path: Path) -> None:
    """Another member had it meanwhile, and died before its offsets were committed."""
    async with opened(tmp_path) as world:
        log = log_of(several(8))
        await world.index.write(log[:4])
        await SightingIndexer(world.platform, world.settings).write(log[4:])
        await world.index.leave()
        with statements() as heard:
            await world.index.write(log[4:])
        assert len(heard) == 1


def test_a_mark_tells_messages_apart() -> None:
    """By place, time, key and value; not by where one ends and the next begins."""
    one = log_of([Message(SIGHTINGS.name, "cam", b"value")])[0]
    others = [
        one._replace(offset=1),
        one._replace(timestamp_us=one.timestamp_us + 1),
        one._replace(key="camv", value=b"alue"),
        one._replace(value=b"values"),
    ]
    found = {mark.digests for each in [one, *others] for mark in marks_of([each])}
    assert len(found) == 5


# Any history


_examples = itertools.count()


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One database for all examples, each with sightings of its own."""
    with asyncio.Runner() as runner:
        manager = opened(tmp_path_factory.mktemp("consumed"))
        world = runner.run(manager.__aenter__())
        yield runner, world
        runner.run(manager.__aexit__(None, None, None))


def _history(prefix: str, chance: random.Random, count: int) -> list[Message]:
    """Updates of a few sightings, in order or not, some with pictures, some of no use."""
    found = []
    for _ in range(count):
        if chance.random() < 0.05:
            found.append(Message(SIGHTINGS.name, "cam", b"nonsense"))
            continue
        seconds = chance.randrange(1, 9)
        sighting = made(seconds=seconds, id=f"{prefix}-{chance.randrange(6)}")
        best = msgspec.structs.replace(sighting.best, at_us=START_US + seconds)
        sighting = msgspec.structs.replace(sighting, best=best)
        picture = JPEG + bytes([seconds]) if chance.random() < 0.4 else None
        found.append(update(sighting, ended=seconds == 8, sent=seconds, thumbnail=picture))
    return found


async def _state(world: World, prefix: str) -> list[Any]:
    """Rows and pictures of an example, without its name."""
    cut = len(prefix)
    rows = await all_rows(world.platform, tables.sighting)
    pictures = await all_rows(world.platform, tables.thumbnail)
    return sorted(
        [(row["id"][cut:], row["end_us"], row["ended"], row["sent_at_us"])
         for row in rows if row["id"].startswith(prefix)]
    ) + sorted(
        (row["sighting_id"][cut:], row["captured_us"], row["jpeg"])
        for row in pictures if row["sighting_id"].startswith(prefix)
    )  # fmt: skip


async def _deliver(world: World, messages: Sequence[Message], chance: random.Random) -> None:
    """Each at least once, in any cuts: a life ends after any write with its offsets committed or
    not, some batches behind, and the log begins anew once."""
    cut = chance.randrange(len(messages) + 1)
    for part in (messages[:cut], messages[cut:]):
        log, committed = log_of(part), 0
        crashes = 12
        while committed < len(log):
            batch = log[committed : committed + chance.randrange(1, 9)]
            await world.index.write(batch)
            if crashes and chance.random() < 0.4:
                crashes -= 1
                committed = max(0, committed - chance.choice([0, 0, 0, 5]))
                await new_life(world)
            else:
                committed += len(batch)
        await new_life(world)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_whatever_comes_again_the_rows_are_those_of_once(
    shared_world: Any, seed: int, count: int
) -> None:
    runner, world = shared_world
    number = next(_examples)
    once, again = f"once{number:04d}", f"many{number:04d}"

    async def run() -> None:
        log = log_of(_history(once, random.Random(seed), count))
        for first in range(0, len(log), 20):
            await world.index.write(log[first : first + 20])
        await new_life(world)
        await _deliver(world, _history(again, random.Random(seed), count), random.Random(seed + 1))
        assert await _state(world, again) == await _state(world, once)

    runner.run(run())
