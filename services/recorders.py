"""Recorders as child processes of the supervisor: at most `ingest.max_streams` streams each.

PyAV's threads cost several times as much each when one process has fifty of them, and a crash of
one process should not touch the cameras of another (docs/architecture.md, "Processes").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

from services.children import Child, Trade
from shared.bus.groups import plan as assign
from shared.bus.partitioner import partition_of
from shared.clock import Clock
from shared.errors import Kind, LamppostError
from shared.messages import CAMERAS
from shared.settings import Settings

TRADE = Trade("recorder", "ingest", kill_after_s=3.2, kill_matters=True)


class Load(NamedTuple):
    """How many recorders, and how many streams the fullest of them has."""

    recorders: int
    fullest: int


def recorder(name: str, settings: Settings, clock: Clock, output: IO[str] | Any) -> Child:
    """The child of that name, to be run."""
    return Child(TRADE, name, settings, clock, output)


def recorder_name(number: int) -> str:
    """`recorder-1` and so on; the width keeps the order of names the order of numbers."""
    return f"recorder-{number:03d}"


def plan(camera_ids: Sequence[str], max_streams: int, partitions: int) -> Load:
    """The fewest recorders of which none has more than `max_streams` cameras.

    Uses the bus's own mapping of cameras to partitions and of partitions to members. INVALID when
    a single partition is too full for one recorder.
    """
    per_partition = Counter(partition_of(camera_id, partitions) for camera_id in camera_ids)
    fullest = max(per_partition.values(), default=0)
    if fullest > max_streams:
        raise LamppostError(
            Kind.INVALID,
            f"{fullest} cameras fall on one partition; a recorder takes {max_streams}.",
            fix="Raise stores.bus_partitions (on a new installation).",
        )
    topic = CAMERAS.name
    for count in range(1, partitions + 1):
        members = {recorder_name(number + 1): frozenset({topic}) for number in range(count)}
        streams = [
            sum(per_partition[partition] for _, partition in places)
            for places in assign(members, partitions).values()
        ]
        if max(streams) <= max_streams:
            return Load(count, max(streams))
    raise AssertionError("unreachable: one recorder a partition is never too full")
