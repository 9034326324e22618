"""The ledger: a camera's interval, such as its day, with each microsecond counted exactly once.

Pure (docs/architecture.md, invariant 6). Where two claims meet the first of this order wins:
recorded and unexpired, held past expiry, expired, pending on a recorder (it said that its spool has
them; perhaps it died), a gap with its reason, to come, inactive (before the camera was added or
after it was deleted), pending (recorded so lately that it may still be on its way to the archive),
and what is left is unaccounted: nobody fills it in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from shared import intervals
from shared.intervals import Interval


class Kind(StrEnum):
    RECORDED = "recorded"
    HELD = "held"
    """Past expiry, kept by a hold that is in force."""
    EXPIRED = "expired"
    """Past expiry and not held, or purged."""
    GAP = "gap"
    FUTURE = "future"
    INACTIVE = "inactive"
    PENDING = "pending"
    UNACCOUNTED = "unaccounted"


class Facts(NamedTuple):
    """What is known of one camera around an interval."""

    recorded: Sequence[Interval] = ()
    held: Sequence[Interval] = ()
    expired: Sequence[Interval] = ()
    gaps: Sequence[tuple[Interval, str]] = ()
    """Each gap with its reason."""
    active_from_us: int | None = None
    active_until_us: int | None = None
    waiting: Sequence[tuple[Interval, str]] = ()
    """What a recorder said its spool holds, with the recorder's name."""


class Entry(NamedTuple):
    """A stretch of one kind; `reason` of a gap, or the recorder it is pending on; else empty."""

    start_us: int
    end_us: int
    kind: Kind
    reason: str = ""


class Ledger(NamedTuple):
    """Disjoint entries in order that cover the interval whole."""

    start_us: int
    end_us: int
    entries: tuple[Entry, ...]

    def total_us(self, kind: Kind, reason: str | None = None) -> int:
        """How much is of a kind (and reason)."""
        return sum(
            entry.end_us - entry.start_us
            for entry in self.entries
            if entry.kind is kind and (reason is None or entry.reason == reason)
        )

    def gaps_us(self) -> dict[str, int]:
        """Gap time by reason."""
        return self._by_reason(Kind.GAP)

    def pending_us(self) -> dict[str, int]:
        """Pending time by recorder; empty: no recorder said that it has it."""
        return self._by_reason(Kind.PENDING)

    def _by_reason(self, kind: Kind) -> dict[str, int]:
        found: dict[str, int] = {}
        for entry in self.entries:
            if entry.kind is kind:
                length = entry.end_us - entry.start_us
                found[entry.reason] = found.get(entry.reason, 0) + length
        return found


def account(
    start_us: int, end_us: int, facts: Facts, *, now_us: int, pending_us: int = 0
) -> Ledger:
    """Share [start, end) out between the kinds; their lengths add up to its length."""
    left: list[Interval] = [(start_us, end_us)] if start_us < end_us else []
    entries: list[Entry] = []

    def take(kind: Kind, claim: Iterable[Interval], reason: str = "") -> None:
        nonlocal left
        taken = intervals.intersect(left, claim)
        if taken:
            entries.extend(Entry(a, b, kind, reason) for a, b in taken)
            left = intervals.subtract(left, taken)

    take(Kind.RECORDED, facts.recorded)
    take(Kind.HELD, facts.held)
    take(Kind.EXPIRED, facts.expired)
    for recorder, claim in _by_reason(facts.waiting).items():
        take(Kind.PENDING, claim, recorder)
    for reason, claim in _by_reason(facts.gaps).items():
        take(Kind.GAP, claim, reason)
    take(Kind.FUTURE, [(max(start_us, now_us), end_us)])
    if facts.active_from_us is not None:
        take(Kind.INACTIVE, [(start_us, min(end_us, facts.active_from_us))])
    if facts.active_until_us is not None:
        take(Kind.INACTIVE, [(max(start_us, facts.active_until_us), end_us)])
    take(Kind.PENDING, [(now_us - pending_us, now_us)])
    take(Kind.UNACCOUNTED, list(left))
    return Ledger(start_us, end_us, tuple(sorted(entries)))


def _by_reason(gaps: Iterable[tuple[Interval, str]]) -> dict[str, list[Interval]]:
    """Gaps grouped, in a fixed order, so that overlapping ones are shared out alike each time."""
    found: dict[str, list[Interval]] = {}
    for interval, reason in sorted(gaps):
        found.setdefault(reason, []).append(interval)
    return found
