"""Carries a plan out: claim, bytes, derivatives, tombstone (invariant 7, docs/retention.md).

Each step may be the last before a crash, and each is safe to do again:

1. claim: one transaction with the camera's lock asks the rule anew of the segments as they are now,
   and marks what is due `purging`. From here it only goes forward.
2. bytes: the objects and their boxes are deleted; a missing one is fine.
3. journal: the tombstone is appended outside the database, before any row goes, so that a database
   restored from a backup never brings a purged segment back.
4. rows: tombstone (its id is the claim's, so there is one), segments, fragments, sightings and the
   outbox rows, in one transaction. Where fragments and sightings leave with their whole day
   (leaving.py) they are left to it.

Claims overlap: while the bytes of one are deleted another commits and a third is journalled, each
by these four steps in their order.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import date
from typing import NamedTuple

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from services.retention import queries, queries_claims
from services.retention.plan import PlannedClaim
from services.retention.queries_claims import PurgeRow
from shared import ids, log, metrics, outbox, retention
from shared.blobs import Blobs
from shared.bus import Message
from shared.db import holds as stored_holds
from shared.domain import Hold
from shared.errors import Kind, LamppostError
from shared.messages import SEGMENTS, SegmentPurged
from shared.platform import Platform
from shared.retention import MIN_UNCERTAINTY_US, Facts, Protection
from shared.tombstones import Journal, Purged, Tombstone, row_of

KEYS_A_CALL = 1_000
LEASE_US = 600 * 1_000_000
"""So long a claim of another worker is left alone; then that worker is taken for dead."""
_log = log.get("retention.executor")


class Claim(NamedTuple):
    """Segments past the point of no return."""

    id: str
    camera_id: str
    recording_date: date
    policy_version: int
    claimed_at_us: int
    rows: Sequence[PurgeRow]


class Executor:
    """One worker's hands. `may_delete` is asked before each claim and each resumed one; `lanes`
    claims are under way at a time, at most. `with_day` says of a recording date at a time whether
    what belongs to its segments leaves with the day."""

    def __init__(
        self,
        platform: Platform,
        journal: Journal,
        worker: str,
        may_delete: Callable[[], bool],
        *,
        lanes: int = 1,
        with_day: Callable[[date, int], bool] = lambda _day, _now_us: False,
    ) -> None:
        self._platform = platform
        self._with_day = with_day
        self._journal = journal
        self._worker = worker
        self._may_delete = may_delete
        self._lanes = lanes
        self.failed: list[str] = []
        """Claims that could not be finished for a reason of their own, since it was emptied."""

    async def run_all(self, planned: Iterable[PlannedClaim], policy_version: int) -> int:
        """Claim and purge each; how many segments are gone.

        After an error no further claim begins. Those under way come to their end before it is
        raised, so that nothing of this call is at work when the next begins.
        """
        waiting, stopped = iter(planned), asyncio.Event()
        ends = await asyncio.gather(
            *(self._lane(waiting, stopped, policy_version) for _ in range(self._lanes)),
            return_exceptions=True,
        )
        purged = 0
        for end in ends:
            if isinstance(end, BaseException):
                raise end
            purged += end
        return purged

    async def _lane(
        self, waiting: Iterator[PlannedClaim], stopped: asyncio.Event, policy_version: int
    ) -> int:
        """One claim after another, of those that no lane has taken yet."""
        purged = 0
        try:
            while not stopped.is_set() and (planned := next(waiting, None)) is not None:
                purged += await self.run(planned, policy_version)
        except BaseException:
            stopped.set()
            raise
        return purged

    async def run(self, planned: PlannedClaim, policy_version: int) -> int:
        """Claim and purge; how many segments are gone."""
        if not self._may_delete():
            return 0
        claim = await self.claim(planned, policy_version)
        return await self._try_to_finish(claim) if claim is not None else 0

    async def resume(self) -> int:
        """Finish what a crash left: this worker's claims, and others' whose lease is over."""
        now_us = self._platform.clock.now_us()
        async with self._platform.database.read() as connection:
            found = await queries_claims.open_claims(connection, self._worker, now_us - LEASE_US)
        purged = 0
        for row in found:
            if not self._may_delete():
                break
            async with self._platform.database.read() as connection:
                rows = await queries_claims.claimed_rows(connection, row["id"])
            _log.info("resuming a purge", claim=row["id"], segments=len(rows))
            purged += await self._try_to_finish(
                Claim(
                    row["id"],
                    row["camera_id"],
                    row["recording_date"],
                    row["policy_version"],
                    row["claimed_at_us"],
                    rows,
                )
            )
        return purged

    async def claim(self, planned: PlannedClaim, policy_version: int) -> Claim | None:
        """Ask the rule again inside the camera's lock and mark what is due; None: nothing was."""
        async with self._platform.database.write([planned.camera_id]) as connection:
            now_us = self._platform.clock.now_us()
            rows = await queries_claims.live_rows(
                connection, planned.camera_id, planned.segment_ids
            )
            chosen = await self._due(connection, planned.camera_id, rows, now_us)
            if not chosen:
                return None
            claim = Claim(
                ids.new_id(),
                planned.camera_id,
                planned.recording_date,
                policy_version,
                now_us,
                chosen,
            )
            await queries_claims.insert_claim(
                connection,
                {
                    "id": claim.id,
                    "camera_id": claim.camera_id,
                    "recording_date": claim.recording_date,
                    "worker": self._worker,
                    "claimed_at_us": now_us,
                    "policy_version": policy_version,
                },
                [row.id for row in chosen],
            )
        return claim

    async def _due(
        self,
        connection: AsyncConnection,
        camera_id: str,
        rows: Sequence[PurgeRow],
        now_us: int,
    ) -> list[PurgeRow]:
        """The rows that are past expiry and that nothing protects, by the holds as they are now."""
        if not rows:
            return []
        holds = await holds_touching(connection, camera_id, rows)
        return [
            row
            for row in rows
            if row.expires_at_us <= now_us
            and (not holds or retention.protection(row.facts, holds, now_us)[0] is Protection.NONE)
        ]

    async def _try_to_finish(self, claim: Claim) -> int:
        """One claim with a fault of its own must not stop the others; a store that is away does."""
        try:
            return await self.finish(claim)
        except LamppostError as error:
            if error.retryable:
                raise
            _log.error("a claim cannot be finished", claim=claim.id, cause=str(error))
            self.failed.append(f"claim {claim.id}: {error}")
            return 0

    async def finish(self, claim: Claim) -> int:
        """Bytes, journal, rows; how many segments this call brought to their end."""
        every = [name for row in claim.rows for name in row.objects]
        await delete_bytes(self._platform.blobs, every)
        gone_us = self._platform.clock.now_us()
        tombstone = self._tombstone(claim, gone_us) if claim.rows else None
        if tombstone is not None:
            await asyncio.to_thread(self._write_down, tombstone)
        async with self._platform.database.write([claim.camera_id]) as connection:
            if await queries_claims.has_tombstone(connection, claim.id):
                return 0  # another worker finished the same claim
            with_day = self._with_day(claim.recording_date, gone_us)
            await queries_claims.finish(
                connection,
                claim.id,
                row_of(tombstone) if tombstone else None,
                fragments_too=not with_day,
            )
            if tombstone is None:
                return 0
            if not with_day:
                span = (
                    min(segment.start_us for segment in tombstone.segments),
                    max(segment.end_us for segment in tombstone.segments),
                )
                await purge_sightings(connection, claim.camera_id, gone_us, span=span)
            await outbox.add(connection, "retention", _events(tombstone), at_us=gone_us)
        metrics.RETENTION_PURGED.inc(tombstone.segment_count)
        metrics.RETENTION_PURGED_BYTES.inc(tombstone.size_bytes)
        return tombstone.segment_count

    def _write_down(self, tombstone: Tombstone) -> None:
        try:
            self._journal.append(tombstone)
        except OSError as error:
            kind = Kind.FULL if error.errno == errno.ENOSPC else Kind.UNAVAILABLE
            raise LamppostError(
                kind,
                f"The journal of tombstones cannot be written: {error.strerror}.",
                fix="Look at the disk of the state folder; the purge goes on by itself.",
            ) from error

    def _tombstone(self, claim: Claim, gone_us: int) -> Tombstone:
        segments = tuple(
            Purged(row.id, row.start_us, row.end_us, row.sha256, row.size_bytes)
            for row in claim.rows
        )
        return Tombstone(
            id=claim.id,
            camera_id=claim.camera_id,
            recording_date=claim.recording_date,
            segments=segments,
            policy_version=claim.policy_version,
            due_at_us=min(row.expires_at_us for row in claim.rows),
            claimed_at_us=claim.claimed_at_us,
            bytes_gone_at_us=gone_us,
            written_at_us=self._platform.clock.now_us(),
        )


async def delete_bytes(blobs: Blobs, keys: Sequence[str]) -> None:
    """These objects are gone when this returns."""
    for first in range(0, len(keys), KEYS_A_CALL):
        await blobs.delete(keys[first : first + KEYS_A_CALL])


async def holds_touching(
    connection: AsyncConnection, camera_id: str, rows: Sequence[PurgeRow]
) -> list[Hold]:
    """Every hold that can bear on these rows of a camera."""
    slack = max(MIN_UNCERTAINTY_US, *(row.clock_uncertainty_us for row in rows))
    return await stored_holds.load(
        connection,
        cameras=[camera_id],
        start_us=min(row.start_us for row in rows) - slack,
        end_us=max(row.end_us for row in rows) + slack,
    )


async def purge_sightings(
    connection: AsyncConnection,
    camera_id: str,
    now_us: int,
    *,
    span: tuple[int, int] | None = None,
    but_of: Collection[date] = (),
) -> int:
    """Delete expired sightings whose footage is gone and that no hold covers by itself, but for
    those of some dates."""
    after: tuple[int, str] | None = None
    count = 0
    while rows := await queries.lone_sightings(
        connection, camera_id, now_us, span=span, after=after, but_of=but_of
    ):
        holds = await stored_holds.load(
            connection,
            cameras=[camera_id],
            start_us=rows[0]["start_us"] - MIN_UNCERTAINTY_US,
            end_us=max(row["end_us"] for row in rows) + MIN_UNCERTAINTY_US,
        )
        gone = [
            row["id"]
            for row in rows
            if retention.protection(_sighting_facts(row), holds, now_us)[0] is Protection.NONE
        ]
        await queries.delete_sightings(connection, gone)
        count += len(gone)
        after = (rows[-1]["start_us"], rows[-1]["id"])
    return count


def _sighting_facts(row: RowMapping) -> Facts:
    return Facts(
        row["camera_id"],
        row["start_us"],
        row["end_us"],
        row["expires_at_us"],
        MIN_UNCERTAINTY_US,
    )


def _events(tombstone: Tombstone) -> list[Message]:
    camera_id = tombstone.camera_id
    gone = [
        SegmentPurged(segment.id, camera_id, segment.start_us, segment.end_us, tombstone.id)
        for segment in tombstone.segments
    ]
    return outbox.events(
        SEGMENTS.name, camera_id, gone, source="retention", at_us=tombstone.bytes_gone_at_us
    )
