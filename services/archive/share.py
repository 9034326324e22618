"""Which cameras are this member's: those whose partition of a topic it reads.

What a member says about a camera's silence is true only of cameras whose messages it would get.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shared.bus import Bus, Consumer, Record
from shared.bus.partitioner import partition_of

MAX_RECORDS = 500
_SHORT_BYTES = 4 * 1024 * 1024


async def mine(bus: Bus, consumer: Consumer, topic: str) -> Callable[[str], bool]:
    """Whether a camera's messages on the topic come to this consumer, as its last poll left it."""
    count = await bus.partitions(topic)
    assigned = consumer.assignment
    return lambda camera_id: (topic, partition_of(camera_id, count)) in assigned


def is_short(records: Sequence[Record]) -> bool:
    """Whether a poll of `MAX_RECORDS` gave all there was: neither its count nor its bytes were
    what ended it."""
    return (
        len(records) < MAX_RECORDS and sum(len(record.value) for record in records) < _SHORT_BYTES
    )
