"""What became of what was sent: lost, late, or in an edge. Pure functions on intervals.

Sent is what a reader was connected for, from a key picture on; it is compared with what the ledger
says is recorded. Times on both sides are capture times: the replay's are exact, a recorder's are
as good as it knows its cameras' clocks. docs/guide/load-testing.md says how to read it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from shared import intervals
from shared.clock import SECOND_US
from shared.intervals import Interval

EDGE_US = SECOND_US // 2
"""What is missing for less is an edge: the last pictures before a cut, or a clock's doubt."""


class Loss(NamedTuple):
    """Of one camera."""

    lost: list[Interval]
    """Sent to a connected reader, and recorded nowhere."""
    edge_us: int


def loss(sent: Sequence[Interval], recorded: Sequence[Interval]) -> Loss:
    """What was sent and is in no recording."""
    missing = intervals.subtract(sent, recorded)
    lost = [span for span in missing if span[1] - span[0] >= EDGE_US]
    edge_us = sum(end - start for start, end in missing if end - start < EDGE_US)
    return Loss(lost, edge_us)


class Look(NamedTuple):
    """A look at one camera's ledger while it was replayed."""

    at_us: int
    newest_us: int
    """The end of its newest recorded second that can be searched."""


def lateness_us(look: Look, sent: Sequence[Interval]) -> int:
    """How much of what had been sent could not be searched yet."""
    return intervals.total(intervals.intersect(sent, [(look.newest_us, look.at_us)]))


class Spread(msgspec.Struct, frozen=True):
    """Of some values."""

    count: int
    p50: float
    p95: float
    most: float


def spread(values: Sequence[float]) -> Spread | None:
    """None without values."""
    if not values:
        return None
    ordered = sorted(values)

    def at(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return Spread(len(ordered), at(0.5), at(0.95), ordered[-1])
