"""A batch that Kafka delivers again is known by its mark, and a topic made again loses nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from services.archive.index import SightingIndexer
from shared.bus import Bus, Message
from shared.db.coordination import consumed
from shared.errors import Kind, LamppostError
from tests.support.archiving import all_rows
from tests.support.bus_harness import KafkaHarness
from tests.support.indexing import World, made, opened, update
from tests.support.servers.kafka import Kafka
from tests.support.wait import until

pytestmark = pytest.mark.servers


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened(tmp_path) as found:
        yield found


class Dying:
    """A bus whose consumers die before they commit."""

    def __init__(self, inner: Bus) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def consumer(self, *args: Any, **kwargs: Any) -> Any:
        found = await self._inner.consumer(*args, **kwargs)

        async def commit(_records: object) -> None:
            raise LamppostError(Kind.UNAVAILABLE, "Dead before the commit.")

        found.commit = commit  # type: ignore[method-assign]
        return found


def several(count: int, first: int = 1) -> list[Message]:
    return [update(made(first + number)) for number in range(count)]


def indexer(world: World, bus: Any) -> SightingIndexer:
    """A process that remembers nothing."""
    made_ = SightingIndexer(dataclasses.replace(world.platform, bus=bus), world.settings)
    made_.wait_s = 1.0
    return made_


async def write(world: World, bus: Any, messages: Sequence[Message]) -> None:
    """One process indexes until there is nothing more, and leaves."""
    await bus.publish(messages)
    one = indexer(world, bus)
    await until(one.run_once, timeout_s=60)
    while await one.run_once():
        pass
    await one.leave()


async def test_a_death_before_the_commit_costs_one_query(
    world: World, broker: Kafka, tmp_path: Path
) -> None:
    harness = KafkaHarness(broker, tmp_path)
    bus = await harness.open()
    await bus.publish(several(5))
    dying = indexer(world, Dying(bus))

    async def dead() -> bool:
        try:
            await dying.run_once()
        except LamppostError as error:
            return "Dead" in error.message
        return False

    await until(dead, timeout_s=60)
    before = await world.rows()
    assert len(before) == 5
    heard: list[str] = []

    def hear(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(("SELECT", "INSERT", "UPDATE")):
            heard.append(statement)

    event.listen(Engine, "before_cursor_execute", hear)
    try:
        again = indexer(world, bus)
        await until(again.run_once, timeout_s=60)
    finally:
        event.remove(Engine, "before_cursor_execute", hear)
    await again.leave()
    assert len(heard) == 1
    assert await world.rows() == before
    await harness.close()


async def test_a_topic_made_again_is_read_from_its_begin(
    world: World, broker: Kafka, tmp_path: Path
) -> None:
    """Offsets at and below the mark are of other messages now; also once they have passed it."""
    old = KafkaHarness(broker, tmp_path)
    await write(world, await old.open(), several(6))
    await old.close()
    for count, first in ((3, 7), (9, 10)):
        anew = KafkaHarness(broker, tmp_path)
        await write(world, await anew.open(), several(count, first))
        await anew.close()
    assert len(await world.rows()) == 18
    [mark] = await all_rows(world.platform, consumed)
    assert mark["next_offset"] == 9
