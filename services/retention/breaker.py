"""The circuit breaker: a plan that cannot be right stops all deletion until a person clears it.

It opens when more is due of a recording date than the ledger says was ever committed for it (and
1 %), or when a plan holds a held segment. The second question is asked here in another way than the
plan asks it, so that one mistake is not made twice. Clearing accepts the counts that were seen,
never a held segment (docs/retention.md, "The breaker").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date

from services.retention import queries
from shared import audit, ids, log
from shared.audit import LOCAL, Actor
from shared.domain import Hold
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.retention import Facts

_log = log.get("retention.breaker")


def too_many(
    due_counts: Mapping[date, int],
    ledger: Mapping[date, int],
    slack: float,
    accepted: Mapping[date, int],
) -> str:
    """Which dates have more due than was recorded, or nothing."""
    wrong = [
        f"{day.isoformat()}: {count} due, {ledger.get(day, 0)} recorded"
        for day, count in sorted(due_counts.items())
        if count > ledger.get(day, 0) * (1 + slack) and count > accepted.get(day, 0)
    ]
    if not wrong:
        return ""
    more = f" and {len(wrong) - 5} more dates" if len(wrong) > 5 else ""
    return "More segments are due than were recorded. " + "; ".join(wrong[:5]) + more + "."


def any_held(chosen: Iterable[Facts], of_camera: Mapping[str, Sequence[Hold]], now_us: int) -> str:
    """Says so when a chosen segment lies in the bare range of a hold that stands, or nothing.

    Only holds placed before the segment's expiry are asked about: those placed later bind through
    an earlier one, which stood then.
    """
    standing = {
        camera_id: [hold for hold in holds if _stands(hold, now_us)]
        for camera_id, holds in of_camera.items()
    }
    for facts in chosen:
        for hold in standing.get(facts.camera_id, ()):
            if (
                hold.placed_at_us < facts.expires_at_us
                and facts.start_us < hold.end_us
                and hold.start_us < facts.end_us
            ):
                return f"The plan holds a segment of {facts.camera_id} that hold {hold.id} keeps."
    return ""


def _stands(hold: Hold, now_us: int) -> bool:
    ends = (hold.released_at_us, hold.ends_at_us, hold.lapses_at_us)
    return all(end is None or end > now_us for end in ends)


async def open_breaker(
    platform: Platform, cause: str, due_counts: Mapping[date, int], now_us: int, *, kind: str = ""
) -> None:
    """Write the row that stops every worker, and the alarm."""
    planned = {day.isoformat(): count for day, count in due_counts.items()}
    async with platform.database.write() as connection:
        if await queries.open_breaker(connection) is not None:
            return
        await queries.insert_breaker(
            connection, ids.new_id(), cause[:1000], planned, now_us, kind=kind
        )
        await audit.append(
            connection,
            audit.Entry(
                at_us=now_us,
                actor=Actor("retention", "retention"),
                action="breaker.open",
                resource="retention",
                reason=cause[:1000],
                result="stopped",
            ),
        )
    _log.error("the breaker opened: nothing is purged until it is cleared", cause=cause)


async def clear_breaker(platform: Platform, reason: str, *, by: Actor = LOCAL) -> str:
    """Close it, with a reason, audited; the cause it had. CONFLICT when it is not open.

    Only for whoever is at the machine itself: there is no route to it.
    """
    if not 1 <= len(reason.strip()) <= 1000:
        raise LamppostError(Kind.INVALID, "Say why it is cleared, in up to 1000 characters.")
    async with platform.database.write() as connection:
        found = await queries.open_breaker(connection)
        if found is None:
            raise LamppostError(Kind.CONFLICT, "The breaker is not open.")
        now_us = platform.clock.now_us()
        await queries.close_breaker(connection, found["id"], now_us, by.name, reason)
        await audit.append(
            connection,
            audit.Entry(
                at_us=now_us,
                actor=by,
                action="breaker.clear",
                resource="retention",
                reason=reason,
                detail={"cause": found["cause"]},
            ),
        )
    return str(found["cause"])
