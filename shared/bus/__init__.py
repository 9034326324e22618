"""Port `Bus`: a partitioned log between services.

The contract, which tests/contract/test_bus.py runs against every adapter:

- Order: records of one key are in one partition and are read in the order published.
- `publish` returns after the record is as durable as its topic promises (`durable` topics survive
  a kill of every process). On a topic that is not durable it may drop the oldest record instead of
  waiting; a drop is counted in `lamppost_bus_dropped_total`.
- Delivery: a group's consumer gets each record at least once; what is not committed is delivered
  again after a restart or a change of assignment. Commit after the effect (invariant 9).
- Assignment: each partition of a group's topics belongs to at most one live member. A member that
  is silent for `session_timeout_s` loses its partitions. A member that joins under a live
  member's name takes its place; the one displaced meets CONFLICT.
- Bounds: a value over the topic's `max_bytes` is TOO_LARGE; a poll returns at most `max_records`.
- After `close` every call raises CLOSED. When the store cannot be reached: UNAVAILABLE, retryable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from shared.messages import Headers

Partition = tuple[str, int]
Start = Literal["committed", "earliest", "latest"]


class Message(NamedTuple):
    """What is published."""

    topic: str
    key: str
    value: bytes
    headers: Headers = ()


class Record(NamedTuple):
    """What is read: a message with its place in the log."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    headers: Headers
    timestamp_us: int


class Consumer(Protocol):
    """One member of a group, or a reader of everything (group None)."""

    @property
    def assignment(self) -> frozenset[Partition]:
        """The partitions that are this member's now; changes only inside `poll`."""
        ...

    @property
    def positions(self) -> Mapping[Partition, int]:
        """The next offset of each assigned partition: where a reader resumes that comes back."""
        ...

    async def poll(self, max_records: int = 500, timeout_s: float = 1.0) -> list[Record]:
        """The next records, waiting up to `timeout_s` for the first; empty when none came."""
        ...

    async def commit(self, records: Sequence[Record]) -> None:
        """Everything up to these records is done. A no-op without a group.

        CONFLICT, and nothing committed, when one of their partitions is no longer this member's:
        its new owner gets them again, and the next poll shows the new assignment.
        """
        ...

    async def owners(self) -> Mapping[Partition, str]:
        """Which live member has each assigned partition of this group's topics; a partition
        that is between two owners is missing. Empty without a group."""
        ...

    async def seek_to_beginning(self, partitions: frozenset[Partition]) -> None:
        """Read these partitions from their first record again (compacted state)."""
        ...

    async def close(self) -> None:
        """Leave the group at once, so that others take over; where that cannot be said, they notice
        the silence."""
        ...


class Bus(Protocol):
    """See the module's contract."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """All or none of one call is durable (on Kafka: of its messages for one partition); order
        within a key is kept."""
        ...

    async def consumer(
        self,
        topics: Sequence[str],
        *,
        group: str | None = None,
        member: str = "",
        start: Start = "committed",
        positions: Mapping[Partition, int] | None = None,
    ) -> Consumer:
        """Join `group` as `member`, or read all partitions without one.

        `start` says where a partition without a committed offset (or without a group) begins:
        "committed" means earliest where nothing is committed. "earliest" with a group ignores
        commits (compacted state is read anew by each process). `positions` are the next offsets
        to read, for a reader that resumes.
        """
        ...

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has; said from memory."""
        ...

    async def reach(self) -> None:
        """Ask whether the bus can be used now; UNAVAILABLE when not, within two seconds. An answer
        may be a second old, so that probes may ask as often as they like."""
        ...

    async def trim(self, now_us: int) -> int:
        """Drop what is older than its topic keeps; compact compacted topics. Records dropped."""
        ...

    async def close(self) -> None: ...
