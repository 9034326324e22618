"""The archive's transaction: row, fragment table, ledger count, gap and event become true at once.

It runs under the locks of the cameras it names, which holds and purges take too, so that a hold
placed while a segment was on its way covers it (docs/retention.md, "Hold against purge: the race").
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from services.archive import filing, queries
from services.archive.filing import Accepted, Span
from shared import outbox, retention
from shared.blobs import HELD, STANDARD
from shared.clock import HOUR_US
from shared.db import holds as stored_holds
from shared.db import policies
from shared.db.partitions import days_near
from shared.domain import Gap, Hold, Segment
from shared.errors import Kind, LamppostError
from shared.messages import CAMERA_STATUS, SEGMENTS, GapRecorded, SegmentArchived
from shared.platform import Platform
from shared.retention import Policy, Protection
from shared.settings import Settings
from shared.spool import Filed

SERVICE = "archive"
FRESH_US = HOUR_US // 2
"""So young an object is nobody's to remove without a row: half of what reconcile.py waits for."""


class Outcome(NamedTuple):
    """What is to be committed for an item, and then done with its files."""

    item: Filed
    accepted: Accepted | None = None
    tagged_held: bool = False
    gap: Gap | None = None
    aside: str = ""
    """The reason to set the files aside; empty: they are archived and removed."""
    stored_at_us: int = 0
    """When the store got the bytes of what is accepted."""


class Committer:
    """See the module."""

    def __init__(self, platform: Platform, settings: Settings, relay: outbox.Relay) -> None:
        self._platform = platform
        self._settings = settings
        self._relay = relay

    async def policy(self, connection: AsyncConnection) -> Policy:
        """The newest policy, or the settings' until retention has written one."""
        return await policies.newest(connection) or default_policy(self._settings)

    async def commit(self, outcomes: Sequence[Outcome]) -> None:
        cameras = {one.accepted.segment.camera_id for one in outcomes if one.accepted}
        cameras |= {one.gap.camera_id for one in outcomes if one.gap}
        await self._platform.database.ensure_days(_days(outcomes))
        async with self._platform.database.write(sorted(cameras)) as connection:
            await self._commit_segments(connection, outcomes)
            await self._commit_gaps(connection, outcomes)
        self._relay.wake()

    async def _commit_segments(
        self, connection: AsyncConnection, outcomes: Sequence[Outcome]
    ) -> None:
        segments = {one.accepted.segment.id: one for one in outcomes if one.accepted}
        if not segments:
            return
        for known in await queries.existing(connection, queries.SEGMENT, segments):
            del segments[known]
        accepted = [one.accepted for one in segments.values() if one.accepted]
        if not accepted:
            return
        now_us = self._platform.clock.now_us()
        await self._look_again(list(segments.values()), now_us)
        holds = await holds_of(connection, [one.segment for one in accepted])
        await self._retag(list(segments.values()), holds, now_us)
        spans = [_span(one.segment) for one in accepted]
        fresh, changed = await queries.counted(connection, spans)
        await queries.insert_segments(connection, accepted, fresh, now_us)
        await queries.set_effective(connection, changed)
        await outbox.add(
            connection,
            SERVICE,
            [
                outbox.event(
                    SEGMENTS.name, one.segment.camera_id, _archived(one), source=SERVICE,
                    at_us=now_us,
                )
                for one in accepted
            ],
            at_us=now_us,
        )  # fmt: skip

    async def _look_again(self, stored: Sequence[Outcome], now_us: int) -> None:
        """UNAVAILABLE where bytes that lay there without a row for long are gone by now: another
        archive removed them, under the lock that is ours now, as past their expiry or set aside
        (invariants 1 and 2). What was put just now it leaves alone, and is asked nothing of."""
        for one in stored:
            if one.accepted is None or now_us - one.stored_at_us < FRESH_US:
                continue
            if await self._platform.blobs.stat(one.accepted.key) is None:
                raise LamppostError(
                    Kind.UNAVAILABLE,
                    f"The bytes of {one.accepted.key} were removed before their row was written.",
                    fix="It is tried again: what the spool has is stored anew.",
                )

    async def _retag(self, stored: Sequence[Outcome], holds: Sequence[Hold], now_us: int) -> None:
        """A hold placed or ended since the put: no hold can come between this and the commit,
        because the cameras' locks are ours, and a later one finds the row and tags for itself."""
        for want, tags in ((True, HELD), (False, STANDARD)):
            keys = [
                one.accepted.key
                for one in stored
                if one.accepted
                and one.tagged_held is not want
                and _is_held(one.accepted, holds, now_us) is want
            ]
            if keys:
                await self._platform.blobs.set_tags(keys, tags)

    async def _commit_gaps(self, connection: AsyncConnection, outcomes: Sequence[Outcome]) -> None:
        gaps = {one.gap.id: one.gap for one in outcomes if one.gap}
        if not gaps:
            return
        for known in await queries.existing(connection, queries.GAP, gaps):
            del gaps[known]
        if not gaps:
            return
        now_us = self._platform.clock.now_us()
        policy = await self.policy(connection)
        await queries.insert_gaps(connection, list(gaps.values()), policy, now_us)
        messages = [
            outbox.event(
                CAMERA_STATUS.name, gap.camera_id, _recorded(gap), source=SERVICE, at_us=now_us
            )
            for gap in gaps.values()
        ]
        await outbox.add(connection, SERVICE, messages, at_us=now_us)


def _days(outcomes: Sequence[Outcome]) -> set[date]:
    """The recording dates under which rows will stand, and neighbours of a gap's: its own is known
    once the policy is."""
    dates = {one.accepted.recording_date for one in outcomes if one.accepted}
    return dates | days_near(one.gap.end_us for one in outcomes if one.gap)


async def holds_of(connection: AsyncConnection, segments: Sequence[Segment]) -> list[Hold]:
    """Every hold that may cover one of the segments, over or in force."""
    if not segments:
        return []
    slack = max(
        retention.MIN_UNCERTAINTY_US, *(segment.clock_uncertainty_us for segment in segments)
    )
    return await stored_holds.load(
        connection,
        cameras={segment.camera_id for segment in segments},
        start_us=min(segment.start_us for segment in segments) - slack,
        end_us=max(segment.end_us for segment in segments) + slack,
    )


def default_policy(settings: Settings) -> Policy:
    """The settings' policy, for as long as retention has not written one."""
    rule = settings.retention
    return Policy(0, rule.days, rule.basis, settings.site.timezone)


def _span(segment: Segment) -> Span:
    return Span(segment.id, segment.camera_id, segment.start_us, segment.end_us, segment.epoch)


def _is_held(one: Accepted, holds: Sequence[Hold], now_us: int) -> bool:
    facts = filing.facts_of(one.segment, one.expires_at_us)
    return retention.protection(facts, holds, now_us)[0] is Protection.HELD


def _archived(one: Accepted) -> SegmentArchived:
    segment = one.segment
    return SegmentArchived(
        segment.id,
        segment.camera_id,
        segment.start_us,
        segment.end_us,
        segment.size_bytes,
        segment.sha256,
        one.expires_at_us,
    )


def _recorded(gap: Gap) -> GapRecorded:
    return GapRecorded(
        gap.id, gap.camera_id, gap.start_us, gap.end_us, gap.reason, gap.detail[:500]
    )
