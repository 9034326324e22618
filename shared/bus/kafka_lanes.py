"""What waits to be published, by partition: pure bookkeeping, before anything reaches aiokafka.

A lane is one partition. Of each lane one batch is on its way at a time; the rest waits here, where
it is bounded and can be taken back when its caller gives up. What is on its way cannot: it may be
stored although nobody heard so. It is remembered by its `ce_id`, so that a caller who publishes it
again waits for that one, and no second copy is made.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import NamedTuple

from shared.bus import Message

MAX_REMEMBERED = 20_000
"""Messages of failed calls that turned out to be stored; the oldest are forgotten."""
OVERHEAD = 120
"""Bytes of one record beside its key, value and headers; more than Kafka needs."""

Name = tuple[str, str, bytes]


def size_of(message: Message) -> int:
    """Bytes of a message as a record, not less."""
    size = len(message.value) + len(message.key) + OVERHEAD
    for name, value in message.headers:
        size += len(name) + len(value) + 8
    return size


def name_of(message: Message) -> Name | None:
    """What makes a message the same when it is published again; None where nothing does."""
    for name, value in message.headers:
        if name == "ce_id":
            return message.topic, message.key, value
    return None


_numbers = itertools.count()


class Run(NamedTuple):
    """Messages of one partition, in order, and their bytes: counted once, a thousand a batch."""

    messages: list[Message]
    size: int


class Part:
    """The messages of one call for one partition, in order."""

    def __init__(self, run: Run, loop: asyncio.AbstractEventLoop) -> None:
        self.number = next(_numbers)
        self.messages, self.size = run
        self.done: asyncio.Future[None] = loop.create_future()
        self.abandoned = False
        """Its caller was told that it failed, while it was on its way."""


class Lane:
    """One partition of one topic."""

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.waiting: deque[Part] = deque()
        self.flying: list[Part] = []
        self._flying_names: dict[Name, Part] = {}

    def take(self, most_bytes: int) -> list[Part]:
        """What goes next: as many whole parts as fit, at least one."""
        size = 0
        taken: list[Part] = []
        while self.waiting and (not taken or size + self.waiting[0].size <= most_bytes):
            part = self.waiting.popleft()
            size += part.size
            taken.append(part)
        self.flying = taken
        self._flying_names = {
            name: part
            for part in taken
            for message in part.messages
            if (name := name_of(message)) is not None
        }
        return taken

    def on_its_way(self, name: Name) -> Part | None:
        """The part that carries this message already."""
        return self._flying_names.get(name)

    def landed(self) -> list[Part]:
        """Nothing is on its way any more; what was."""
        parts, self.flying, self._flying_names = self.flying, [], {}
        return parts


class Remembered:
    """Messages that were stored although their call failed."""

    def __init__(self) -> None:
        self._names: OrderedDict[Name, None] = OrderedDict()

    def add(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if (name := name_of(message)) is not None:
                self._names[name] = None
                self._names.move_to_end(name)
        while len(self._names) > MAX_REMEMBERED:
            self._names.popitem(last=False)

    def pop(self, name: Name) -> bool:
        """Whether it is stored; forgotten with the answer."""
        return self._names.pop(name, 0) is None


def split(messages: Sequence[Message], most_bytes: int) -> list[Run]:
    """Runs of at most so many bytes: what one batch of records takes."""
    found: list[Run] = []
    run: list[Message] = []
    total = 0
    for message in messages:
        size = size_of(message)
        if run and total + size > most_bytes:
            found.append(Run(run, total))
            run, total = [], 0
        run.append(message)
        total += size
    if run:
        found.append(Run(run, total))
    return found
