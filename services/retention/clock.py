"""`lamppost clock accept`: the clock ran ahead, is right now, and a person says so.

Rows that were committed while it was ahead stop the purge until their time comes, and would be kept
that much too long. Accepting the clock dates their receipt now: footage that claims to be of later
counts as recorded now, so that a wrong clock never lengthens retention (docs/retention.md, edge
case 13). The times of the footage stay as they are: nothing says what they should have been.
"""

from __future__ import annotations

from typing import NamedTuple

from services.retention import queries_clock as queries
from shared import audit, retention
from shared.audit import LOCAL, Actor
from shared.clock import EARLIEST_US
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.retention import Policy

BATCH = 2_000


class Accepted(NamedTuple):
    """What the acceptance corrected."""

    at_us: int
    segments: int


async def accept_clock(platform: Platform, reason: str, *, by: Actor = LOCAL) -> Accepted:
    """Take the present wall time for right, with a reason, audited. CONFLICT when no row is ahead
    of it. Only for whoever is at the machine itself: there is no route to it."""
    if not 1 <= len(reason.strip()) <= 1000:
        raise LamppostError(Kind.INVALID, "Say why it is right, in up to 1000 characters.")
    now_us = platform.clock.now_us()
    if now_us < EARLIEST_US:
        raise LamppostError(Kind.DOUBT, "The wall clock is not set.", fix="Set it first.")
    done = 0
    while found := await _correct(platform, now_us):
        done += found
    async with platform.database.write() as connection:
        newest_us = await queries.newest_audit_us(connection)
        if not done and (newest_us is None or newest_us <= now_us):
            raise LamppostError(Kind.CONFLICT, "No row is ahead of the clock.")
        await audit.append(
            connection,
            audit.Entry(
                at_us=now_us,
                actor=by,
                action="clock.accept",
                resource="retention",
                reason=reason,
                detail={"segments": done},
            ),
        )
    return Accepted(now_us, done)


async def _correct(platform: Platform, now_us: int) -> int:
    """One batch in one transaction; how many."""
    async with platform.database.write() as connection:
        rows = await queries.committed_after(connection, now_us, BATCH)
        if not rows:
            return 0
        policies = {
            row["version"]: Policy(
                row["version"],
                row["retention_days"],
                row["basis"],
                row["timezone"],
                row["effective_from_us"],
            )
            for row in await queries.policies(connection)
        }
        newest = policies[max(policies)]
        await queries.correct(
            connection,
            [
                {
                    "row_id": row["id"],
                    "now_us": now_us,
                    "expires_us": min(
                        row["expires_at_us"],
                        retention.expires_at_us(
                            min(row["end_us"], now_us),
                            policies.get(row["policy_version"], newest),
                        ),
                    ),
                }
                for row in rows
            ],
        )
    return len(rows)
