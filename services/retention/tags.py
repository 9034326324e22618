"""Objects' tags follow holds, so that a store's late lifecycle backstop spares what is held.

A placement tags what it covers before it reports it preserved (services/api/holds.py). Here: what
arrives later under a hold, what a store that was away missed, and the way back. After a hold's end
an object that is not past its expiry and that nothing else protects is `standard` again; past
expiry it keeps `held` until it is purged (docs/retention.md, "Tags").
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta

from services.retention import queries, queries_claims
from services.retention.queries_claims import PurgeRow
from shared import civil, ids, log, metrics, retention
from shared.blobs import HELD, STANDARD
from shared.clock import DAY_US, SECOND_US
from shared.db import holds as stored
from shared.domain import Hold, HoldKind
from shared.platform import Platform
from shared.retention import HoldState, Policy, Protection

BATCH = 500
LOOK_BACK_US = 60 * SECOND_US
"""A row's commit time is taken a moment before its commit."""
ASK_AGAIN_US = DAY_US


class Tags:
    """Remembers up to which commit each hold's objects were tagged; forgetting costs one pass."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._tagged: dict[str, int] = {}
        self._missing: dict[str, set[str]] = {}
        self._forgot_us = platform.clock.monotonic_us()
        self._log = log.get("retention.holds")

    async def run(self, policy: Policy) -> None:
        """Tag what came under holds in force, and settle what ended."""
        now_us = self._platform.clock.now_us()
        if self._platform.clock.monotonic_us() - self._forgot_us >= ASK_AGAIN_US:
            # Whether the store still has everything that is held is asked anew, object by object.
            self._tagged, self._missing = {}, {}
            self._forgot_us = self._platform.clock.monotonic_us()
        async with self._platform.database.read() as connection:
            oldest = await queries.oldest_date(connection)
            over = await queries.unsettled(connection, now_us)
            start_us = None
            if oldest is not None:
                start_us = civil.midnight_us(oldest - timedelta(days=2), policy.zone)
            holds = await stored.load(connection, start_us=start_us)
        in_force = [hold for hold in holds if _in_force(hold, now_us)]
        for hold in in_force:
            await self._tag(hold, holds, now_us)
        self._tagged = {hold.id: self._tagged[hold.id] for hold in in_force}
        self._missing = {hold.id: self._missing.get(hold.id, set()) for hold in in_force}
        metrics.HOLDS_MISSING.set(len(set().union(*self._missing.values())))
        if over:
            await self._settle(over, holds, now_us)

    async def _tag(self, hold: Hold, holds: Sequence[Hold], now_us: int) -> None:
        after_us = self._tagged.get(hold.id, 0) - LOOK_BACK_US
        async with self._platform.database.read() as connection:
            rows = await queries_claims.touched(connection, hold, after_us)
        bound = [
            row.key
            for row in rows
            if any(found.id == hold.id for found in retention.binding(row.facts, holds))
        ]
        gone = set(await self._set(bound, held=True)).intersection(bound)
        missing = self._missing.setdefault(hold.id, set())
        missing -= set(bound)
        missing |= gone
        if gone:
            self._log.error("held footage is not in the store", hold=hold.id, segments=len(gone))
        self._tagged[hold.id] = now_us

    async def _settle(self, over: Collection[str], holds: Sequence[Hold], now_us: int) -> None:
        freed: dict[str, PurgeRow] = {}
        for hold in holds:
            if hold.id not in over:
                continue
            async with self._platform.database.read() as connection:
                rows = await queries_claims.touched(connection, hold)
            freed.update((row.key, row) for row in rows if now_us < row.expires_at_us)
        await self._set([key for key in freed if _free(freed[key], holds, now_us)], held=False)
        # A hold placed meanwhile may have tagged these before they were freed here: look again.
        async with self._platform.database.write() as connection:
            again = await stored.load(connection, cameras={row.camera_id for row in freed.values()})
            await queries.settle(connection, sorted(over), now_us)
        await self._set([key for key in freed if not _free(freed[key], again, now_us)], held=True)

    async def _set(self, keys: Sequence[str], *, held: bool) -> list[str]:
        """Tag objects and the boxes beside them; which of either do not exist."""
        tags = HELD if held else STANDARD
        gone: list[str] = []
        for first in range(0, len(keys), BATCH):
            batch = keys[first : first + BATCH]
            gone += await self._platform.blobs.set_tags(
                [name for key in batch for name in (key, ids.boxes_key(key))], tags
            )
        return gone


def _in_force(hold: Hold, now_us: int) -> bool:
    return (
        hold.kind is HoldKind.OFFICER and retention.hold_state(hold, now_us) is HoldState.IN_FORCE
    )


def _free(row: PurgeRow, holds: Sequence[Hold], now_us: int) -> bool:
    """Whether no officer's hold protects it (a system hold does not tag)."""
    officers = [hold for hold in holds if hold.kind is HoldKind.OFFICER]
    return retention.protection(row.facts, officers, now_us)[0] is Protection.NONE
