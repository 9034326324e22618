"""What every part of `check` needs: ports, rules as they stand, and where findings go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.check import queries
from services.check.report import Depth, Notes
from shared.db import holds as stored_holds
from shared.domain import Hold
from shared.platform import Platform
from shared.retention import Facts, Policy
from shared.settings import Settings

LATE_US = 24 * 3_600_000_000
"""The limit of invariants 2 and 4: so long may what is due still be there."""


@dataclass(frozen=True, slots=True)
class Context:
    platform: Platform
    settings: Settings
    depth: Depth
    notes: Notes
    now_us: int
    policies: dict[int, Policy]
    newest: Policy
    holds: dict[str, list[Hold]]
    """By camera, over or in force."""

    @property
    def spool(self) -> Path:
        return self.settings.path(self.settings.spool.dir)

    def policy(self, version: int) -> Policy:
        """The policy of a version, or the newest where that version is unknown."""
        return self.policies.get(version, self.newest)

    def holds_of(self, facts: Facts) -> list[Hold]:
        return self.holds.get(facts.camera_id, [])


async def gather(platform: Platform, settings: Settings, depth: Depth) -> Context:
    """The context of one check."""
    rule = settings.retention
    fallback = Policy(0, rule.days, rule.basis, settings.site.timezone)
    async with platform.database.read() as connection:
        policies = await queries.policies(connection)
        holds: dict[str, list[Hold]] = {}
        for hold in await stored_holds.load(connection):
            for camera_id in hold.camera_ids:
                holds.setdefault(camera_id, []).append(hold)
    newest = policies[max(policies)] if policies else fallback
    return Context(
        platform, settings, depth, Notes(), platform.clock.now_us(), policies, newest, holds
    )
