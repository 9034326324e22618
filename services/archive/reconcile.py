"""Bytes without a row: adopted, removed past their expiry, or reported (invariant 2).

They come from a death of the machine between put and commit that took the spool too, from a
database restored to an earlier day, or from a person. A walk over the store goes page by page, with
a rest after each and a long one at the end; the database is asked for keys of that page alone, and
only what has no row is looked at more closely. So a sound store costs a listing an hour.

An object is left alone for its first hour, and while a spool has its video. Else, in this order:

- its purge has a tombstone, or it is past its expiry and no hold keeps it: removed, audited first;
- boxes without their recording are removed alike, unless a hold covers them;
- so is a second object of a recording whose row names another, where that has the same bytes: it
  was filed again after a death, and the site had got another time zone;
- it reads as a whole recording of a camera that is or was there: it gets its row back, under the
  camera's lock and with its holds, as if the recorder had filed it now;
- else it stays, counted and logged: nothing unexpired is deleted (invariant 5).

While the time is doubted, nothing is adopted or removed; while the breaker is open only what was
purged before is removed: after a restore, holds may have to be placed again. Of several archives
the one with the lease walks: the bucket is one, and a removal should be audited once. One that
stood still while the lease passed on goes on beside the next, and each files what recorders left:
so both look again under the camera's lock, which is held until the bytes are gone (`_remove`), or
until the row stands that found them there (commit.py).
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from services.archive import filing, leftovers, queries, rebuild
from services.archive.commit import Committer, Outcome
from services.archive.doubts import Doubts
from services.archive.filing import Accepted, Refused
from services.archive.rebuild import Place
from shared import audit, log, metrics, retention
from shared.blobs import HELD, STANDARD, BlobInfo
from shared.clock import HOUR_US
from shared.db import holds as stored_holds
from shared.domain import Hold
from shared.errors import LamppostError
from shared.lease import Lease
from shared.platform import Platform
from shared.retention import Facts, Policy, Protection
from shared.runtime import Backoff, Stop
from shared.settings import Settings
from shared.spool import Filed, item_name

AGE_US = HOUR_US
PAGE = 2_000
FIRST_S = 60.0
PAUSE_S = 1.0
REST_S = 3_600.0
LEASE_S = 4_500.0
"""Longer than a walk's rest, so that replicas do not walk more often than one would."""
_ANY_AGE = 1_000_000
"""Days: it was stored in time once, so being late is no reason to refuse it now."""
ACTOR = audit.Actor("archive", "archive")
GONE = "another removed them"


class Found(NamedTuple):
    """What the database says of an orphan."""

    policy: Policy
    holds: list[Hold]
    purged: bool
    has_camera: bool
    elsewhere: str
    """The key of the recording's row, which is another; empty: it has no row."""


class Reconciler:
    """See the module."""

    def __init__(self, platform: Platform, settings: Settings, committer: Committer) -> None:
        self._platform = platform
        self._committer = committer
        self._root = settings.path(settings.spool.dir)
        self._doubts = Doubts(platform, settings)
        self._lease = Lease(platform, "archive:reconcile", ttl_s=LEASE_S)
        self._log = log.get("archive.reconcile")
        self._cursor = ""
        self._left: dict[str, str] = {}
        self._left_count = 0

    async def run(self, stop: Stop) -> None:
        """Walk again and again until the stop; an error costs a pause, then the page again."""
        clock, backoff = self._platform.clock, Backoff(PAUSE_S, REST_S)
        delay_s = FIRST_S
        while not await stop.sleep(clock, delay_s):
            try:
                if not await self._lease.hold():
                    self._cursor, delay_s = "", REST_S / 4
                    continue
                delay_s = PAUSE_S if await self.step() else REST_S
                backoff.reset()
            except LamppostError as error:
                self._log.warning("waits", cause=str(error))
                delay_s = backoff.next_s()
            except Exception:
                self._log.exception("failed")
                delay_s = backoff.next_s()

        await self._let_go()

    async def _let_go(self) -> None:
        try:
            await self._lease.release()
        except LamppostError as error:
            self._log.info("the lease runs out by itself", cause=str(error))

    async def step(self) -> bool:
        """One page; False when the walk is at its end, or cannot go on for now."""
        page = await self._page()
        orphans = await self._orphans(page)
        if orphans and await self._doubted():
            return False
        for found in orphans:
            try:
                await self._settle(found)
            except LamppostError as error:
                if error.retryable:
                    raise
                self._leave(found.key, str(error))
        if len(page) == PAGE:
            self._cursor = page[-1].key
            return True
        self._report()
        self._cursor = ""
        return False

    async def _page(self) -> list[BlobInfo]:
        page: list[BlobInfo] = []
        async for found in self._platform.blobs.list(start_after=self._cursor):
            page.append(found)
            if len(page) == PAGE:
                break
        return page

    async def _orphans(self, page: list[BlobInfo]) -> list[BlobInfo]:
        async with self._platform.database.read() as connection:
            known = await queries.known_keys(connection, {_segment_key(one.key) for one in page})
        before_us = self._platform.clock.now_us() - AGE_US
        return [
            one
            for one in page
            if one.stored_at_us <= before_us and _segment_key(one.key) not in known
        ]

    async def _doubted(self) -> bool:
        async with self._platform.database.read() as connection:
            doubted = await self._doubts.judge(connection)
        if doubted:
            self._log.warning("waits: the time is doubted", cause="; ".join(doubted.reasons))
        return bool(doubted)

    # One object

    async def _settle(self, found: BlobInfo) -> None:
        place = rebuild.place_of(found.key)
        name = item_name(place.camera_id, place.start_us, place.segment_id)
        if await self._in_hand(name):
            return
        now_us = self._platform.clock.now_us()
        known = await self._look_up(place)
        if known.purged:
            await self._remove(found, place, "its purge has a tombstone", sure=True)
        elif _is_over(place, known, now_us):
            await self._remove(found, place, "past its expiry")
        elif await self._size_aside(name) == found.size_bytes:
            await self._remove(found, place, "the same bytes are set aside in the spool", sure=True)
        elif found.key.endswith(".boxes"):
            await self._settle_boxes(found, place)
        elif known.elsewhere:
            await self._settle_second(found, place, known.elsewhere)
        elif not known.has_camera:
            self._leave(found.key, f"there is no camera {place.camera_id}")
        else:
            await self._adopt(found, place, known)

    async def _settle_boxes(self, found: BlobInfo, place: Place) -> None:
        """Boxes are a derivative: without their recording they go, with it they wait for its row.
        They come from a death of the archive just after the recording was purged."""
        if await self._platform.blobs.stat(_segment_key(found.key)) is not None:
            self._leave(found.key, "boxes of a recording without a row")
        else:
            await self._remove(found, place, "boxes without their recording", alone=True)

    async def _settle_second(self, found: BlobInfo, place: Place, key: str) -> None:
        other = await self._platform.blobs.stat(key)
        mine = await self._platform.blobs.stat(found.key)  # a listing may not say the hash
        if other and mine and mine.sha256 and other[1:3] == mine[1:3]:  # size and hash
            why = f"its recording has a row, and lies under {key}"
            await self._remove(found, place, why, sure=True)
        else:
            self._leave(found.key, f"its recording's row names {key}, where the bytes are not")

    async def _in_hand(self, name: str) -> bool:
        return await asyncio.to_thread(leftovers.waits_in_spool, self._root, name)

    async def _size_aside(self, name: str) -> int | None:
        return await asyncio.to_thread(leftovers.size_aside, self._root, name)

    async def _look_up(self, place: Place) -> Found:
        async with self._platform.database.read() as connection:
            policy = await self._committer.policy(connection)
            return Found(
                policy,
                await stored_holds.load(connection, cameras=[place.camera_id]),
                await queries.is_purged(connection, place.camera_id, place.day, place.segment_id),
                await queries.camera_exists(connection, place.camera_id),
                await queries.key_of(connection, place.segment_id),
            )

    async def _adopt(self, found: BlobInfo, place: Place, known: Found) -> None:
        """Read every byte, then file it: the row's hash is of what lies there now."""
        now_us = self._platform.clock.now_us()
        segment = await rebuild.rebuild(
            self._platform.blobs.stream(found.key),
            place,
            known.policy.zone,
            min(now_us, found.stored_at_us or now_us),
        )
        decided = filing.decide(segment, known.policy, known.holds, now_us, _ANY_AGE)
        if isinstance(decided, Refused):
            await self._remove(found, place, "past its expiry")
            return
        if decided.key != found.key:
            self._leave(found.key, f"by its content its key would be {decided.key}")
            return
        await self._file(found, decided)
        metrics.ORPHANS.labels("adopted").inc()
        self._log.warning(
            "bytes without a row have one again",
            key=found.key,
            start_us=segment.start_us,
            end_us=segment.end_us,
        )

    async def _file(self, found: BlobInfo, decided: Accepted) -> None:
        tags = HELD if decided.held else STANDARD
        if dict(found.tags) != dict(tags):
            await self._platform.blobs.set_tags([found.key], tags)
        segment = decided.segment
        name = item_name(segment.camera_id, segment.start_us, segment.id)
        nowhere = Filed(name, self._root, None, self._root / f"{name}.json")
        outcome = Outcome(
            nowhere,
            accepted=decided,
            tagged_held=decided.held,
            stored_at_us=found.stored_at_us,
        )
        await self._committer.commit([outcome])

    async def _remove(
        self, found: BlobInfo, place: Place, why: str, *, sure: bool = False, alone: bool = False
    ) -> None:
        """Audit, then delete, each under the camera's lock and each after a look of its own: no
        commit or hold comes between the second look and the end of the bytes. `sure`: no hold
        matters; `alone`: only without the recording beside it."""
        async with self._platform.database.write([place.camera_id]) as connection:
            if await self._kept(connection, found, place, sure=sure, alone=alone):
                return
            await self._audit(connection, found, place, "orphan.remove", why)
        async with self._platform.database.write([place.camera_id]) as connection:
            kept = await self._kept(connection, found, place, sure=sure, alone=alone)
            if kept == GONE:
                return
            if kept:
                await self._audit(connection, found, place, "orphan.keep", kept)
            else:
                await self._platform.blobs.delete([found.key])
        if kept:
            self._log.warning("bytes without a row stay after all", key=found.key, cause=kept)
            return
        metrics.ORPHANS.labels("removed").inc()
        self._log.warning("bytes without a row are removed", key=found.key, cause=why)

    async def _kept(
        self, connection: AsyncConnection, found: BlobInfo, place: Place, *, sure: bool, alone: bool
    ) -> str:
        """Why the bytes are not to be removed, as things stand under the lock; empty: they are."""
        if await queries.known_keys(connection, [_segment_key(found.key)]):
            return "they have a row"
        if await self._platform.blobs.stat(found.key) is None:
            return GONE
        if alone and await self._platform.blobs.stat(_segment_key(found.key)) is not None:
            return "their recording is there"
        if await self._in_hand(item_name(place.camera_id, place.start_us, place.segment_id)):
            return "a spool has their video"
        if sure:
            return ""
        kept = ""
        if await queries.deletion_stopped(connection):
            kept = "the breaker has stopped deletion"
        else:
            policy = await self._committer.policy(connection)
            holds = await stored_holds.load(connection, cameras=[place.camera_id])
            now_us = self._platform.clock.now_us()
            facts = _facts(place, policy)
            if retention.protection(facts, holds, now_us)[0] is not Protection.NONE:
                kept = "a hold covers it"
        if kept:
            self._leave(found.key, kept)
        return kept

    async def _audit(
        self, connection: AsyncConnection, found: BlobInfo, place: Place, action: str, why: str
    ) -> None:
        entry = audit.Entry(
            at_us=self._platform.clock.now_us(),
            actor=ACTOR,
            action=action,
            resource=found.key,
            camera_ids=(place.camera_id,),
            start_us=place.start_us,
            reason=why,
            detail={"size_bytes": found.size_bytes, "sha256": found.sha256},
        )
        await audit.append(connection, entry)

    # What stays

    def _leave(self, key: str, why: str) -> None:
        self._left_count += 1
        if len(self._left) < 5:
            self._left[key] = why

    def _report(self) -> None:
        metrics.ORPHANS_LEFT.set(self._left_count)
        if self._left_count:
            self._log.error("bytes without a row stay", count=self._left_count, examples=self._left)
        self._left, self._left_count = {}, 0


def _segment_key(key: str) -> str:
    """Boxes belong to the recording beside them."""
    return key.removesuffix(".boxes") + ".mp4" if key.endswith(".boxes") else key


def _facts(place: Place, policy: Policy) -> Facts:
    """As far as the key alone tells: the widest that it can be."""
    end_us = rebuild.latest_end_us(place, policy.zone)
    expires_us = retention.expires_at_us(end_us, policy)
    return Facts(place.camera_id, place.start_us, end_us, expires_us, rebuild.UNCERTAINTY_US)


def _is_over(place: Place, known: Found, now_us: int) -> bool:
    """Past its expiry, and nothing keeps it."""
    facts = _facts(place, known.policy)
    kept, _ = retention.protection(facts, known.holds, now_us)
    return now_us >= facts.expires_at_us and kept is Protection.NONE
