"""What waits before aiokafka, and what was fetched and not polled: bookkeeping without a broker."""

from __future__ import annotations

import asyncio

from shared.bus import Message, Record
from shared.bus.kafka_buffers import Buffers
from shared.bus.kafka_lanes import (
    MAX_REMEMBERED,
    Lane,
    Part,
    Remembered,
    Run,
    name_of,
    size_of,
    split,
)


def message(number: int, size: int = 10, key: str = "cam") -> Message:
    return Message("sightings", key, bytes(size), (("ce_id", b"%d" % number),))


def record(partition: int, offset: int, size: int = 1) -> Record:
    return Record("sightings", partition, offset, "k", bytes(size), (), 0)


async def part(*messages: Message) -> Part:
    return Part(Run(list(messages), sum(map(size_of, messages))), asyncio.get_running_loop())


async def test_a_lane_takes_whole_parts_up_to_the_size_of_a_batch() -> None:
    lane = Lane("sightings", 0)
    parts = [await part(message(n, 400)) for n in range(4)]
    lane.waiting.extend(parts)
    assert lane.take(parts[0].size * 2 + 1) == parts[:2]
    assert lane.landed() == parts[:2]
    # One that is larger than a batch goes alone: it must go at some time.
    assert lane.take(1) == [parts[2]]


async def test_what_is_on_its_way_is_recognised_until_it_landed() -> None:
    lane = Lane("sightings", 0)
    one = await part(message(1), message(2))
    lane.waiting.append(one)
    name = name_of(message(2))
    assert name is not None and lane.on_its_way(name) is None
    lane.take(10_000)
    assert lane.on_its_way(name) is one
    other = name_of(message(2, key="another"))
    assert other is not None and lane.on_its_way(other) is None
    lane.landed()
    assert lane.on_its_way(name) is None


def test_what_was_stored_is_skipped_once() -> None:
    remembered = Remembered()
    remembered.add([message(1), message(2)])
    name = name_of(message(1))
    assert name is not None
    assert remembered.pop(name) and not remembered.pop(name)
    remembered.add([message(n) for n in range(3, MAX_REMEMBERED + 3)])
    oldest, newest = name_of(message(2)), name_of(message(MAX_REMEMBERED + 2))
    assert oldest is not None and newest is not None
    assert not remembered.pop(oldest) and remembered.pop(newest)


def test_without_an_id_nothing_is_the_same() -> None:
    assert name_of(Message("sightings", "cam", b"")) is None


def test_a_call_is_cut_into_batches_in_order() -> None:
    messages = [message(n, 100) for n in range(10)]
    size = size_of(messages[0])
    runs = split(messages, size * 4)
    assert [len(run.messages) for run in runs] == [4, 4, 2]
    assert [run.size for run in runs] == [size * 4, size * 4, size * 2]
    assert [m for run in runs for m in run.messages] == messages
    # One that is larger than a batch goes alone: the brokers refuse it by name.
    large = message(11, 1_000)
    assert [run.messages for run in split([messages[0], large, messages[1]], size * 4)] == [
        [messages[0]], [large], [messages[1]],
    ]  # fmt: skip
    assert split([], 10) == []


def test_a_busy_partition_starves_no_other() -> None:
    buffers = Buffers()
    buffers.put(("sightings", 0), (record(0, n) for n in range(100)))
    buffers.put(("sightings", 1), [record(1, 0)])
    found = buffers.drain(10, 1_000)
    assert len(found) == 10 and record(1, 0) in found
    assert [r.offset for r in found if r.partition == 0] == list(range(9))


def test_a_drain_is_bounded_in_bytes_but_never_empty() -> None:
    buffers = Buffers()
    buffers.put(("sightings", 0), (record(0, n, 50) for n in range(10)))
    assert len(buffers.drain(100, 120)) == 3
    assert len(buffers.drain(100, 1)) == 1


def test_what_moved_is_forgotten_and_what_stays_goes_on() -> None:
    buffers = Buffers()
    for partition in range(2):
        buffers.put(("sightings", partition), [record(partition, 5), record(partition, 6)])
    buffers.keep({("sightings", 1)})
    assert buffers.following(("sightings", 0), 3) == 3
    assert buffers.following(("sightings", 1), 3) == 7
    assert {r.partition for r in buffers.drain(10, 100)} == {1}
    assert buffers.is_empty
