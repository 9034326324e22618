"""From facts to a plan: what to purge, what to pass over, and whether to stop. Pure.

The executor carries a plan out and asks the same rule again inside the camera's lock; a plan is a
proposal and deletes nothing (docs/retention.md, "How a purge runs").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import NamedTuple

from services.retention import breaker
from shared import retention
from shared.domain import Hold
from shared.retention import Facts, Protection


class Due(NamedTuple):
    """A live segment past its expiry."""

    segment_id: str
    recording_date: date
    size_bytes: int
    facts: Facts


class PlannedClaim(NamedTuple):
    """Segments of one camera and recording date, to be claimed in one transaction."""

    camera_id: str
    recording_date: date
    segment_ids: tuple[str, ...]


class Skipped(NamedTuple):
    """A due segment that stays, and until when (None: no end is set)."""

    segment_id: str
    why: Protection
    until_us: int | None


class Plan(NamedTuple):
    """What a run would do."""

    claims: tuple[PlannedClaim, ...]
    skipped: tuple[Skipped, ...]
    stop: str
    """Why the breaker opens; empty: it does not."""

    @property
    def segments(self) -> int:
        return sum(len(claim.segment_ids) for claim in self.claims)


def by_camera(holds: Iterable[Hold]) -> dict[str, list[Hold]]:
    """The holds that name each camera."""
    found: dict[str, list[Hold]] = {}
    for hold in holds:
        for camera_id in hold.camera_ids:
            found.setdefault(camera_id, []).append(hold)
    return found


def make(
    due: Sequence[Due],
    holds: Sequence[Hold],
    now_us: int,
    *,
    claim_max: int,
    due_counts: Mapping[date, int],
    ledger: Mapping[date, int],
    slack: float,
    accepted: Mapping[date, int],
) -> Plan:
    """The plan for `due` (at most `claim_max` segments a claim).

    `due_counts` are all due segments of a recording date, held ones among them, `ledger` what was
    committed for it; `accepted` are counts that a person cleared.
    """
    of_camera = by_camera(holds)
    groups: dict[tuple[str, date], list[Due]] = {}
    skipped: list[Skipped] = []
    for item in due:
        relevant = of_camera.get(item.facts.camera_id)
        why, until = (
            retention.protection(item.facts, relevant, now_us)
            if relevant
            else (Protection.NONE, None)
        )
        if now_us < item.facts.expires_at_us:
            continue
        if why is Protection.NONE:
            groups.setdefault((item.facts.camera_id, item.recording_date), []).append(item)
        else:
            skipped.append(Skipped(item.segment_id, why, until))
    claims = tuple(
        PlannedClaim(camera_id, day, tuple(item.segment_id for item in items[i : i + claim_max]))
        for (camera_id, day), items in sorted(groups.items())
        for i in range(0, len(items), claim_max)
    )
    chosen = [item.facts for items in groups.values() for item in items]
    stop = breaker.too_many(due_counts, ledger, slack, accepted) or breaker.any_held(
        chosen, of_camera, now_us
    )
    return Plan(claims, tuple(skipped), stop)
