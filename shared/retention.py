"""The 30-day rule and holds as pure functions; no I/O (docs/retention.md).

Archive stamps `expires_at_us` with it, retention plans purges with it, the api refuses access with
it, `check` verifies with it: one rule, four readers.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from enum import StrEnum
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from shared import civil, intervals
from shared.clock import DAY_US, HOUR_US
from shared.domain import Hold, HoldKind

MAX_RETENTION_DAYS = 30
PROVISIONAL_US = 72 * HOUR_US
GRACE_US = 72 * HOUR_US
SYSTEM_HOLD_MAX_US = 2 * HOUR_US
MIN_UNCERTAINTY_US = 2_000_000
REVIEW_MAX_US = 90 * DAY_US
FUTURE_MAX_US = 24 * HOUR_US

Basis = Literal["civil_date", "instant"]


class Policy(NamedTuple):
    """One public policy version."""

    version: int
    retention_days: int
    basis: Basis
    timezone: str

    @property
    def zone(self) -> ZoneInfo:
        return civil.zone(self.timezone)


def recording_date(end_us: int, zone: ZoneInfo) -> date:
    """D: the local date of the last instant of a segment."""
    return civil.local_date(end_us - 1, zone)


def expires_at_us(end_us: int, policy: Policy) -> int:
    """When access to footage that ends at `end_us` stops and its purge falls due.

    `civil_date`: local midnight at the start of D + days + 1, so that whole days follow the
    recording date. `instant`: the capture end + days x 24 h.
    """
    if policy.basis == "instant":
        return end_us + policy.retention_days * DAY_US
    day = recording_date(end_us, policy.zone) + timedelta(days=policy.retention_days + 1)
    return civil.midnight_us(day, policy.zone)


def effective_expiry_us(stored_us: int, end_us: int, policy: Policy) -> int:
    """Shortening a policy applies at once, lengthening never to footage already recorded."""
    return min(stored_us, expires_at_us(end_us, policy))


class HoldState(StrEnum):
    IN_FORCE = "in_force"
    LAPSED = "lapsed"
    ENDED = "ended"
    RELEASED = "released"


def hold_end_us(hold: Hold) -> int | None:
    """The instant the hold stops being in force, None while open-ended."""
    ends = [
        value
        for value in (hold.released_at_us, hold.lapses_at_us, hold.ends_at_us)
        if value is not None
    ]
    return min(ends) if ends else None


def hold_state(hold: Hold, now_us: int) -> HoldState:
    """What the hold is at `now_us`; the end itself is no longer in force."""
    end = hold_end_us(hold)
    if end is None or now_us < end:
        return HoldState.IN_FORCE
    if hold.released_at_us == end:
        return HoldState.RELEASED
    return HoldState.ENDED if hold.ends_at_us == end else HoldState.LAPSED


def covers(hold: Hold, camera_id: str, start_us: int, end_us: int, uncertainty_us: int) -> bool:
    """Whether the predicate touches [start, end) of a camera, widened by the clock's uncertainty
    (2 s at least): a doubtful clock keeps more, never less."""
    slack = max(MIN_UNCERTAINTY_US, uncertainty_us)
    return camera_id in hold.camera_ids and intervals.overlaps(
        (hold.start_us - slack, hold.end_us + slack), (start_us, end_us)
    )


class Protection(StrEnum):
    NONE = "none"
    HELD = "held"
    GRACE = "grace"
    """The last hold was released after expiry: 72 h, not viewable, re-holdable."""


class Facts(NamedTuple):
    """What the rule needs to know of one segment."""

    camera_id: str
    start_us: int
    end_us: int
    expires_at_us: int
    uncertainty_us: int


def protection(facts: Facts, holds: Iterable[Hold], now_us: int) -> tuple[Protection, int | None]:
    """Whether anything keeps the segment from its purge now, and until when (None: open-ended).

    Overlapping holds are a set. A release (or an end date) reached at or after expiry gives 72 h of
    grace; a lapse never extends expiry; a system hold gives none. Release before expiry: nothing.
    """
    until: list[int | None] = []
    grace_until = 0
    for hold in holds:
        if not covers(hold, facts.camera_id, facts.start_us, facts.end_us, facts.uncertainty_us):
            continue
        state = hold_state(hold, now_us)
        end = hold_end_us(hold)
        if state is HoldState.IN_FORCE:
            until.append(end)
        elif (
            state in (HoldState.RELEASED, HoldState.ENDED)
            and hold.kind is HoldKind.OFFICER
            and end is not None
            and end >= facts.expires_at_us
        ):
            grace_until = max(grace_until, end + GRACE_US)
    if until:
        known = [value for value in until if value is not None]
        return Protection.HELD, None if len(known) < len(until) else max(known)
    if now_us < grace_until:
        return Protection.GRACE, grace_until
    return Protection.NONE, None


class Access(StrEnum):
    OPEN = "open"
    HOLD_ONLY = "hold_only"
    """Past expiry and held: only the officers of a hold that covers it may view."""
    CLOSED = "closed"


def access(
    facts: Facts, holds: Iterable[Hold], now_us: int, viewer_id: str | None = None
) -> Access:
    """Whether the segment may be read at `now_us` (by `viewer_id`, once past expiry).

    Access stops at expiry, whatever the purge has done. HOLD_ONLY is returned to an officer of a
    covering hold in force, and to `viewer_id=None` as a statement about the segment itself.
    """
    if now_us < facts.expires_at_us:
        return Access.OPEN
    for hold in holds:
        if (
            hold.kind is HoldKind.OFFICER
            and hold_state(hold, now_us) is HoldState.IN_FORCE
            and covers(hold, facts.camera_id, facts.start_us, facts.end_us, facts.uncertainty_us)
            and (viewer_id is None or viewer_id in (hold.requester_id, *hold.officers))
        ):
            return Access.HOLD_ONLY
    return Access.CLOSED
