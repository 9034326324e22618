"""What purges left (invariants 3, 5, 7): claims go forward, tombstones tell the truth and are
written twice, and nothing went that was not due.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import RowMapping

from services.check import queries
from services.check.context import LATE_US, Context
from shared import civil, retention, tombstones
from shared.db import tables
from shared.retention import Facts, Protection
from shared.tombstones import Purged

_AUDIT = "Report it as an incident: the audit log says who did what at that time."


async def purges(context: Context) -> None:
    """Claims, tombstones, the journal, and the count of what was ever committed."""
    await _claims(context)
    await _tombstones(context)
    await _ledger_days(context)


async def _claims(context: Context) -> None:
    async with context.platform.database.read() as connection:
        claims = await queries.claims(connection)
        lonely = await queries.unclaimed_purging(connection)
    for claim in claims:
        where = {"camera": claim["camera_id"]}
        if claim["has_tombstone"]:
            context.notes.add(
                7,
                f"Claim {claim['id']} is open although its tombstone is written.",
                _AUDIT,
                **where,
            )
        elif claim["claimed_at_us"] < context.now_us - LATE_US:
            context.notes.add(
                7, f"Claim {claim['id']} has been open for over 24 h.",
                "Start retention: it resumes open claims.", **where,
            )  # fmt: skip
    for row in lonely:
        context.notes.add(
            7, "The segment is being purged, but by no claim.",
            "Set its state back to live, or give it a claim; then find out how it came about.",
            camera=row["camera_id"], segment=row["id"], key=row["key"],
        )  # fmt: skip


async def _tombstones(context: Context) -> None:
    journal = tombstones.journal(context.settings.state_dir)
    journalled = await asyncio.to_thread(lambda: {stone.id for stone in journal.read()})
    # On a server's database each retention worker has its journal, on its own volume.
    has_every = context.settings.stores.database == "sqlite"
    known: set[str] = set()
    stone = tables.tombstone
    async for row in queries.pages(context.platform.database, stone.select(), stone.c.id):
        known.add(row["id"])
        if has_every and row["id"] not in journalled:
            context.notes.add(
                7, f"Tombstone {row['id']} is not in the journal: a restore would forget it.",
                "Write it to the journal from the row; see docs/retention.md.",
                camera=row["camera_id"],
            )  # fmt: skip
        await _tombstone(context, row)
    async with context.platform.database.read() as connection:
        open_claims = {claim["id"] for claim in await queries.claims(connection)}
    for missing in sorted(journalled - known - open_claims):
        context.notes.add(
            7, f"The journal has tombstone {missing}, the database has not.",
            "The database is older than the purge: restore it with `lamppost restore`, which "
            "replays tombstones.",
        )  # fmt: skip


async def _tombstone(context: Context, row: RowMapping) -> None:
    purged = tombstones.unpack_segments(row["segments"])
    camera = row["camera_id"]
    async with context.platform.database.read() as connection:
        back = await queries.rows_with_ids(connection, [segment.id for segment in purged])
    for segment_id in sorted(back):
        context.notes.add(
            7, "A tombstone says that it was purged, but its row is there.",
            "A backup was put back without its tombstones: use `lamppost restore`.",
            camera=camera, segment=segment_id,
        )  # fmt: skip
    for segment in purged:
        _purged(context, row, segment)
    steps = (row["due_at_us"], row["claimed_at_us"], row["bytes_gone_at_us"], row["written_at_us"])
    if steps[0] > steps[1]:
        context.notes.add(
            5, f"Purge {row['id']} was claimed at {civil.rfc3339(steps[1])}, before it fell due "
            f"at {civil.rfc3339(steps[0])}.", _AUDIT, camera=camera,
        )  # fmt: skip
    if sorted(steps[1:]) != list(steps[1:]):
        context.notes.add(
            7, f"The times of tombstone {row['id']} do not go forward.", _AUDIT, camera=camera
        )


def _purged(context: Context, row: RowMapping, segment: Purged) -> None:
    where = {"camera": row["camera_id"], "segment": segment.id}
    expires = retention.expires_at_us(
        min(segment.end_us, row["claimed_at_us"]), context.policy(row["policy_version"])
    )
    if expires > row["claimed_at_us"]:
        context.notes.add(
            5, f"It was purged at {civil.rfc3339(row['claimed_at_us'])} and would have expired at "
            f"{civil.rfc3339(expires)}.", _AUDIT, **where,
        )  # fmt: skip
    facts = Facts(row["camera_id"], segment.start_us, segment.end_us, expires, 0)
    holds = [hold for hold in context.holds_of(facts) if hold.placed_at_us <= row["claimed_at_us"]]
    kept, _ = retention.protection(facts, holds, row["claimed_at_us"])
    if kept is not Protection.NONE:
        names = ", ".join(sorted(hold.id for hold in holds))
        context.notes.add(3, f"It was purged while a hold covered it ({names}).", _AUDIT, **where)


async def _ledger_days(context: Context) -> None:
    """Every committed segment is there or in a tombstone."""
    async with context.platform.database.read() as connection:
        days = await queries.ledger_days(connection)
    for day in days:
        missing = day["segments"] - day["there"] - day["purged"]
        if missing <= 0:
            continue
        end_us = civil.day_bounds_us(day["recording_date"], context.newest.zone)[1]
        due = retention.expires_at_us(end_us, context.newest) <= context.now_us
        told = (
            f"{missing} of {day['segments']} segments committed for {day['recording_date']} are "
            "gone without a tombstone"
        )
        context.notes.add(
            7 if due else 5, told + ("." if due else ", and the day has not expired."), _AUDIT,
            camera=day["camera_id"],
        )  # fmt: skip
