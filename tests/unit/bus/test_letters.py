"""Messages set aside: kept with their cause, sent again, and never a whole stream of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.bus import Bus, Message, Record
from shared.bus.embedded import HEADERS_MAX_BYTES
from shared.bus.letters import MAX_IN_A_ROW, WINDOW, Letters, read, replay
from shared.clock import SimulatedClock
from shared.errors import Kind, LamppostError
from tests.support.bus_harness import EmbeddedHarness, drain, values

BAD = LamppostError(Kind.CORRUPT, "Not a message of this topic: it is nonsense.")


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    harness = EmbeddedHarness(tmp_path / "bus.db")
    yield await harness.open()
    await harness.close()


def records(count: int, first: int = 0) -> list[Record]:
    return [
        Record("sightings", 1, first + n, "cam", b"?", (("ce_id", b"%d" % n),), 7)
        for n in range(count)
    ]


async def test_a_letter_keeps_its_message_and_says_why(bus: Bus) -> None:
    letters = Letters(bus, SimulatedClock(), "archive-index")
    found = records(3)
    letters.put(found[1], BAD)
    await letters.settle(found)
    [letter] = await read(bus)
    assert (letter.id, letter.topic, letter.key) == ("sightings-1-1", "sightings", "cam")
    assert (letter.value, letter.headers) == (b"?", (("ce_id", b"1"),))
    assert (letter.group, letter.cause) == ("archive-index", BAD.message)
    assert not letter.replayed


async def test_a_letter_that_came_twice_is_one(bus: Bus) -> None:
    letters = Letters(bus, SimulatedClock(), "g")
    for _ in range(2):
        letters.put(records(1)[0], BAD)
        await letters.settle(records(1))
    assert len(await read(bus)) == 1


async def test_a_replay_sends_it_where_it_stood_and_is_remembered(bus: Bus) -> None:
    await bus.publish([Message("sightings", "cam", b"?", (("ce_id", b"x"),))])
    consumer = await bus.consumer(["sightings"], group="g", member="one")
    found = await drain(consumer)
    letters = Letters(bus, SimulatedClock(), "g")
    letters.put(found[0], BAD)
    await letters.settle(found)
    await consumer.commit(found)
    await replay(bus, await read(bus))
    again = await drain(consumer)
    assert (values(again), again[0].key, again[0].headers) == (["?"], "cam", (("ce_id", b"x"),))
    assert [letter.replayed for letter in await read(bus)] == [True]


async def test_a_run_of_them_stops_the_consumer(bus: Bus) -> None:
    letters = Letters(bus, SimulatedClock(), "g")
    for first in (0, MAX_IN_A_ROW // 2):
        found = records(MAX_IN_A_ROW // 2, first)
        for record in found:
            letters.put(record, BAD)
        await letters.settle(found)
    one_more = records(1, MAX_IN_A_ROW)
    for _ in range(2):  # and goes on to stop it: the same records come again
        letters.put(one_more[0], BAD)
        with pytest.raises(LamppostError, match="stops here") as caught:
            await letters.settle(one_more)
        assert caught.value.kind is Kind.CORRUPT
    assert len(await read(bus)) == MAX_IN_A_ROW
    # What can be read again ends it.
    await letters.settle(one_more)
    letters.put(one_more[0], BAD)
    await letters.settle(one_more)


async def test_a_large_share_of_them_stops_the_consumer(bus: Bus) -> None:
    letters = Letters(bus, SimulatedClock(), "g")

    async def batch(bad_each: int) -> None:
        found = records(WINDOW // 4)
        for record in found[::bad_each]:
            letters.put(record, BAD)
        await letters.settle(found)

    for _ in range(8):
        await batch(5)
    with pytest.raises(LamppostError, match="of the last"):
        for _ in range(4):
            await batch(2)


async def test_a_few_at_the_beginning_stop_nobody(bus: Bus) -> None:
    letters = Letters(bus, SimulatedClock(), "g")
    found = records(10)
    for record in found:
        letters.put(record, BAD)
    await letters.settle(found)
    assert len(await read(bus)) == 10


async def test_headers_without_room_are_left_out(bus: Bus) -> None:
    letters = Letters(bus, SimulatedClock(), "g")
    full = records(1)[0]._replace(headers=(("x", bytes(HEADERS_MAX_BYTES - 1)),))
    letters.put(full, BAD)
    await letters.settle([full])
    [letter] = await read(bus)
    assert letter.headers == ()
