"""Messages that a handler cannot use: set aside on topic `dead-letters`, within a limit.

A handler gives each record that it cannot read to `Letters.put`, and calls `settle` with all it
polled before it commits. Past the limit (too many in a row, or too large a share of the last ones)
`settle` raises instead: it is not the messages that are wrong then, and to go on would throw the
stream away. Nothing is committed, the handler's loop tries again, and a person is told.

A letter keeps its value, key and headers, with `lp_dead_*` headers beside them that say where it
stood and why. `lamppost letters list|replay` shows them and sends them again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from shared import log, metrics
from shared.bus import Bus, Message, Partition, Record
from shared.clock import Clock
from shared.errors import Kind, LamppostError
from shared.messages import DEAD_LETTERS, Headers

MAX_IN_A_ROW = 100
MAX_SHARE = 0.25
"""Of the last `WINDOW` records; not judged before `WINDOW` / 4 were read."""
WINDOW = 2_000
MAX_CAUSE = 500
MAX_HEADERS = 12 * 1024
"""Bytes of a message's own headers that a letter has room for; more are left out."""
PREFIX = "lp_dead_"
REPLAYED = PREFIX + "replayed"
"""On a mark: the id of a letter that was sent again."""
READ_MAX = 100_000
"""Most letters that are looked at for a list."""


class Letter(NamedTuple):
    """One message that was set aside."""

    id: str
    """`topic-partition-offset` of where it stood."""
    topic: str
    key: str
    value: bytes
    headers: Headers
    group: str
    cause: str
    at_us: int
    replayed: bool = False


class Letters:
    """What one consumer of one group sets aside."""

    def __init__(self, bus: Bus, clock: Clock, group: str) -> None:
        self._bus, self._clock, self._group = bus, clock, group
        self._causes: dict[tuple[Partition, int], tuple[Record, str]] = {}
        self._in_a_row = 0
        self._window: deque[tuple[int, int]] = deque()
        self._log = log.get("bus.letters")
        self._limiter = log.Limiter(clock)

    def put(self, record: Record, error: LamppostError) -> None:
        """This record cannot be used. Counted; sent by `settle`."""
        metrics.BUS_POISON.labels(record.topic).inc()
        self._causes[_place(record)] = (record, error.message)
        if (withheld := self._limiter.allow(record.topic)) is not None:
            self._log.warning(
                "message set aside",
                topic=record.topic, offset=record.offset, cause=str(error), withheld=withheld,
            )  # fmt: skip

    async def settle(self, records: Sequence[Record]) -> None:
        """Send what was put of these records, before they are committed. CORRUPT, and nothing sent,
        when that is more than can be right."""
        bad = [self._causes[_place(record)] for record in records if _place(record) in self._causes]
        self._causes.clear()
        if not records:
            return
        places = {_place(record) for record, _ in bad}
        self._judge(records, places)
        if bad:
            at_us = self._clock.now_us()
            await self._bus.publish(
                [_message(record, cause, self._group, at_us) for record, cause in bad]
            )

    def _judge(self, records: Sequence[Record], bad: set[tuple[Partition, int]]) -> None:
        row, longest = self._in_a_row, self._in_a_row
        for record in records:
            row = row + 1 if _place(record) in bad else 0
            longest = max(longest, row)
        window = deque([*self._window, (len(records), len(bad))])
        while sum(count for count, _ in window) - window[0][0] >= WINDOW:
            window.popleft()
        read = sum(count for count, _ in window)
        wrong = sum(count for _, count in window)
        # A judgement that stops the stream is not remembered: the same records come again.
        if longest > MAX_IN_A_ROW or (read >= WINDOW // 4 and wrong > MAX_SHARE * read):
            raise LamppostError(
                Kind.CORRUPT,
                f"Group {self._group} cannot read {wrong} of the last {read} messages "
                f"({longest} in a row), and stops here rather than set them all aside.",
                fix="See the cause in the log; is everything of the same version?",
            )
        self._in_a_row, self._window = row, window


def _place(record: Record) -> tuple[Partition, int]:
    return (record.topic, record.partition), record.offset


def _message(record: Record, cause: str, group: str, at_us: int) -> Message:
    facts = {
        "id": f"{record.topic}-{record.partition}-{record.offset}",
        "topic": record.topic,
        "group": group,
        "cause": cause[:MAX_CAUSE],
        "at_us": str(at_us),
    }
    own = tuple((PREFIX + name, value.encode()) for name, value in facts.items())
    kept = tuple(item for item in record.headers if not item[0].startswith(PREFIX))
    if sum(len(name) + len(value) for name, value in kept) > MAX_HEADERS:
        kept = ()
    return Message(DEAD_LETTERS.name, record.key, record.value, kept + own)


def letter_of(record: Record) -> Letter | None:
    """The letter that a record of the topic is; None where it is none (a mark of a replay)."""
    found = {
        name.removeprefix(PREFIX): value.decode("utf-8", "replace")
        for name, value in record.headers
        if name.startswith(PREFIX)
    }
    if "topic" not in found:
        return None
    return Letter(
        found.get("id", ""),
        found["topic"],
        record.key,
        record.value,
        tuple(item for item in record.headers if not item[0].startswith(PREFIX)),
        found.get("group", ""),
        found.get("cause", ""),
        int(found["at_us"]) if found.get("at_us", "").isdigit() else record.timestamp_us,
    )


async def read(bus: Bus) -> list[Letter]:
    """Every letter that is kept, each once, oldest first."""
    found: dict[str, Letter] = {}
    replayed: set[str] = set()
    reader = await bus.consumer([DEAD_LETTERS.name], start="earliest")
    try:
        while (records := await reader.poll(timeout_s=0)) and len(found) < READ_MAX:
            for record in records:
                letter = letter_of(record)
                if letter is not None:
                    found.setdefault(letter.id, letter)
                else:
                    replayed.update(
                        value.decode() for name, value in record.headers if name == REPLAYED
                    )
    finally:
        await reader.close()
    letters = (letter._replace(replayed=letter.id in replayed) for letter in found.values())
    return sorted(letters, key=lambda letter: (letter.at_us, letter.id))


async def replay(bus: Bus, letters: Sequence[Letter]) -> None:
    """Send letters again where they stood, as they were: with the same `ce_id`, so that whoever
    has had one does nothing twice."""
    for letter in letters:
        await bus.publish([Message(letter.topic, letter.key, letter.value, letter.headers)])
        mark = ((REPLAYED, letter.id.encode()),)
        await bus.publish([Message(DEAD_LETTERS.name, letter.key, b"", mark)])
