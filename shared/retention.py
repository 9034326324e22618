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

from shared import civil
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
    effective_from_us: int = 0
    """When it came into force: no footage that was readable until then expires before it."""

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
    """Shortening a policy applies at once, lengthening never to footage already recorded.

    "At once" is the instant the policy came into force, never earlier: otherwise a hold placed
    while the footage was still readable would look, afterwards, as if it had come too late.
    """
    return min(stored_us, max(expires_at_us(end_us, policy), policy.effective_from_us))


def expired_before_us(now_us: int, policy: Policy) -> int:
    """Footage that ends at or before this instant has expired by `now_us`, later footage not:
    the inverse of `expires_at_us`."""
    if policy.basis == "instant":
        return now_us - policy.retention_days * DAY_US
    zone = policy.zone
    day = civil.local_date(now_us, zone) - timedelta(days=policy.retention_days)
    return civil.midnight_us(day, zone)


class HoldState(StrEnum):
    IN_FORCE = "in_force"
    LAPSED = "lapsed"
    ENDED = "ended"
    RELEASED = "released"


def hold_end(hold: Hold) -> tuple[int, HoldState] | None:
    """When the hold stops being in force and what ends it; None while it has no end.

    Of two ends at one instant the person's act counts before the date, the date before the lapse.
    """
    ends = [
        (value, order, state)
        for order, (value, state) in enumerate(
            (
                (hold.released_at_us, HoldState.RELEASED),
                (hold.ends_at_us, HoldState.ENDED),
                (hold.lapses_at_us, HoldState.LAPSED),
            )
        )
        if value is not None
    ]
    if not ends:
        return None
    end, _, state = min(ends)
    return end, state


def hold_end_us(hold: Hold) -> int | None:
    """The instant the hold stops being in force, None while open-ended."""
    found = hold_end(hold)
    return found[0] if found else None


def hold_state(hold: Hold, now_us: int) -> HoldState:
    """What the hold is at `now_us`; the end itself is no longer in force."""
    found = hold_end(hold)
    if found is None or now_us < found[0]:
        return HoldState.IN_FORCE
    return found[1]


def kept_until_us(hold: Hold, expires_us: int) -> int | None:
    """Until when the hold keeps footage that expires at `expires_us`; None: no end is set.

    A release (or an end date) reached at or after expiry gives 72 h of grace; a lapse never extends
    expiry; a system hold gives none.
    """
    found = hold_end(hold)
    if found is None:
        return None
    end, state = found
    graced = state is not HoldState.LAPSED and hold.kind is HoldKind.OFFICER and end >= expires_us
    return end + GRACE_US if graced else end


def covers(hold: Hold, camera_id: str, start_us: int, end_us: int, uncertainty_us: int) -> bool:
    """Whether the predicate touches [start, end) of a camera, widened by the clock's uncertainty
    (2 s at least): a doubtful clock keeps more, never less."""
    slack = max(MIN_UNCERTAINTY_US, uncertainty_us)
    # Written out, and the range first: a purge asks this of every segment of a day, twice.
    return (
        hold.start_us - slack < max(end_us, start_us + 1)
        and start_us < hold.end_us + slack
        and hold.start_us - slack < hold.end_us + slack
        and camera_id in hold.camera_ids
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


def binding(facts: Facts, holds: Iterable[Hold]) -> list[Hold]:
    """The holds that count for the segment, in order of placement, whether over or in force.

    A hold binds what was not yet due when it was placed: unexpired, or kept by another officer's
    hold (its grace included). One placed later on a wider range does not revive what had expired
    inside it. What a system hold keeps is not holdable by that.
    """
    found: list[Hold] = []
    until: int | None = facts.expires_at_us
    touching = [
        hold
        for hold in holds
        if covers(hold, facts.camera_id, facts.start_us, facts.end_us, facts.uncertainty_us)
    ]
    if not touching:
        return found
    for hold in sorted(touching, key=lambda hold: (hold.placed_at_us, hold.id)):
        if until is not None and hold.placed_at_us >= until:
            continue
        found.append(hold)
        if until is not None and hold.kind is HoldKind.OFFICER:
            end = kept_until_us(hold, facts.expires_at_us)
            until = None if end is None else max(until, end)
    return found


def protection(facts: Facts, holds: Iterable[Hold], now_us: int) -> tuple[Protection, int | None]:
    """Whether anything keeps the segment from its purge now, and until when (None: no end is set).

    Overlapping holds are a set: one in force is enough; grace counts once none is.
    """
    held: list[int | None] = []
    grace_until = 0
    for hold in binding(facts, holds):
        if hold_state(hold, now_us) is HoldState.IN_FORCE:
            held.append(hold_end_us(hold))
        else:
            grace_until = max(grace_until, kept_until_us(hold, facts.expires_at_us) or 0)
    if held:
        known = [value for value in held if value is not None]
        return Protection.HELD, None if len(known) < len(held) else max(known)
    if now_us < grace_until:
        return Protection.GRACE, grace_until
    return Protection.NONE, None


def due_since_us(facts: Facts, holds: Iterable[Hold]) -> int:
    """Since when an unprotected segment has been due: its expiry, or the end of what kept it."""
    kept = [kept_until_us(hold, facts.expires_at_us) for hold in binding(facts, holds)]
    return max([facts.expires_at_us, *(until for until in kept if until is not None)])


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
    binding hold in force, and to `viewer_id=None` as a statement about the segment itself.
    """
    if now_us < facts.expires_at_us:
        return Access.OPEN
    for hold in binding(facts, holds):
        if (
            hold.kind is HoldKind.OFFICER
            and hold_state(hold, now_us) is HoldState.IN_FORCE
            and (viewer_id is None or viewer_id in (hold.requester_id, *hold.officers))
        ):
            return Access.HOLD_ONLY
    return Access.CLOSED
