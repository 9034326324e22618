"""What the torture's judge counts as lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from shared.bus import Consumer, Partition, Record
from tests.torture.judge import Sent, losses_before, read_whole

RATE = 10
S = 1_000_000


def sent(seconds: int) -> list[Sent]:
    return [Sent(i * S // RATE, str(i)) for i in range(seconds * RATE)]


def test_what_was_sent_before_the_kill_and_is_not_stored_is_lost() -> None:
    (loss,) = losses_before(sent(10), set(range(40, 100)), [(5 * S, 5 * S)], RATE)
    assert (loss.seconds, loss.oldest_s) == (1.0, 1.0)


def test_down_time_is_no_loss_of_the_next_kill() -> None:
    pictures = sent(10)
    # The first kill begins at 2 s; its victim stores two more pictures and is gone at 2.2 s. The
    # next life records from 5 s and is killed at 8 s with half a second unwritten.
    missing = set(range(22, 50)) | set(range(75, 80))
    losses = losses_before(pictures, missing, [(2 * S, 2 * S + S // 5), (8 * S, 8 * S)], RATE)
    assert [loss.seconds for loss in losses] == [0.0, 0.5]


PLACES: tuple[Partition, ...] = (("segments", 0), ("segments", 1))


@dataclass
class Reader:
    """A consumer of a log whose next looks find so many records."""

    log: Log
    positions: dict[Partition, int]
    assignment: frozenset[Partition] = frozenset(PLACES)
    closed: bool = False

    async def poll(self, max_records: int = 500, timeout_s: float = 1.0) -> list[Record]:
        found: list[Record] = []
        for _ in range(self.log.looks.pop(0) if self.log.looks else 0):
            place = next(place for place in PLACES if self.positions[place] < self.log.ends[place])
            found.append(Record(*place, self.positions[place], "cam", b"", (), 0))
            self.positions[place] += 1
        return found

    async def close(self) -> None:
        self.closed = True

    async def commit(self, records: Sequence[Record]) -> None:
        raise NotImplementedError

    async def owners(self) -> Mapping[Partition, str]:
        raise NotImplementedError

    async def seek_to_beginning(self, partitions: frozenset[Partition]) -> None:
        raise NotImplementedError


@dataclass
class Log:
    """A bus of two partitions, read by looks that find as many records as they are told to."""

    looks: list[int]
    ends: dict[Partition, int]
    readers: list[Reader] = field(default_factory=list)

    async def consumer(self, topics: Sequence[str], *, start: str = "", **_: object) -> Consumer:
        reader = Reader(self, dict(self.ends) if start == "latest" else dict.fromkeys(PLACES, 0))
        self.readers.append(reader)
        return reader


async def test_looks_that_find_nothing_do_not_end_the_reading() -> None:
    log = Log([0, 2, 0, 0, 1, 2, 9], dict(zip(PLACES, (3, 2), strict=True)))
    found = await read_whole(log, ["segments"])  # type: ignore[arg-type]
    assert len(found) == 5
    assert all(reader.closed for reader in log.readers)


async def test_a_log_that_is_empty_is_whole() -> None:
    assert await read_whole(Log([], dict.fromkeys(PLACES, 0)), ["segments"]) == []  # type: ignore[arg-type]


async def test_a_log_that_gives_less_than_it_has_is_named() -> None:
    log = Log([2], dict(zip(PLACES, (3, 2), strict=True)))
    with pytest.raises(AssertionError, match="segments read to the end"):
        await read_whole(log, ["segments"], timeout_s=0.05)  # type: ignore[arg-type]
    assert all(reader.closed for reader in log.readers)
