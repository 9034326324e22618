"""Policy versions: written from the settings, never lengthened (docs/retention.md, "The rule").

A shorter policy is a new version and applies at once, to what is recorded already too: the rows'
expiry is brought forward, a recording date at a time, and every reader asks
`retention.effective_expiry_us` besides, so that nothing waits for the rows. A longer one needs two
people, which is not built, and is refused.
"""

from __future__ import annotations

from datetime import timedelta

from services.retention import queries
from shared import audit, civil, retention
from shared.audit import LOCAL
from shared.clock import DAY_US
from shared.db import policies
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.retention import Policy
from shared.settings import Settings

_STRICTNESS = {"instant": 0, "civil_date": 1}


def is_longer(old: Policy, new: Policy) -> bool:
    """Whether `new` could keep footage longer than `old`: more days, or whole days instead of
    hours."""
    return (new.retention_days, _STRICTNESS[new.basis]) > (
        old.retention_days,
        _STRICTNESS[old.basis],
    )


async def ensure_policy(platform: Platform, settings: Settings) -> Policy:
    """The policy in force, after making the settings' one the newest version if they changed.

    NOT_BUILT when the settings would lengthen it.
    """
    async with platform.database.write() as connection:
        now_us = platform.clock.now_us()
        old = await policies.newest(connection)
        new = Policy(
            1 if old is None else old.version + 1,
            settings.retention.days,
            settings.retention.basis,
            settings.site.timezone,
            now_us,
        )
        if old is not None and old[1:4] == new[1:4]:
            new = old
        else:
            if old is not None and is_longer(old, new):
                raise LamppostError(
                    Kind.NOT_BUILT,
                    f"The settings keep footage longer ({new.retention_days} days, {new.basis}) "
                    f"than the policy in force ({old.retention_days} days, {old.basis}).",
                    fix="Lengthening needs two people, which is not built; set retention back.",
                )
            await queries.insert_policy(connection, new)
            await audit.append(
                connection,
                audit.Entry(
                    at_us=now_us,
                    actor=LOCAL,
                    action="policy.set",
                    resource=f"policy/{new.version}",
                    detail={
                        "days": new.retention_days,
                        "basis": new.basis,
                        "timezone": new.timezone,
                    },
                ),
            )
    if new.version > 1:
        await _shorten_rows(platform, new)
    return new


async def _shorten_rows(platform: Platform, policy: Policy) -> None:
    """Bring forward what the new policy shortens; running it again changes nothing."""
    async with platform.database.read() as connection:
        dates = await queries.recording_dates(connection)
    for day in dates:
        async with platform.database.write() as connection:
            if policy.basis == "instant":
                await queries.shorten_by_instant(
                    connection,
                    day,
                    policy.retention_days * DAY_US,
                    policy.effective_from_us,
                )
                continue
            # The row's date may be of another zone than the policy's: look at its neighbours too.
            for local in (day - timedelta(days=1), day, day + timedelta(days=1)):
                first, last = civil.day_bounds_us(local, policy.zone)
                expires = max(retention.expires_at_us(last, policy), policy.effective_from_us)
                await queries.shorten(connection, [day], (first, last), expires)
