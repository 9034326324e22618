"""`archive --spool`: claims what recorders filed, stores it, indexes it, then removes it.

The order is the promise (docs/invariants.md, 1, 2, 9, 10): bytes durable and checked in the object
store; then, in one transaction under the cameras' locks, row, fragment table, ledger count and
event; then the spool file goes. A crash between any two steps is repaired by running again, because
key and row id are the segment's own. Whatever is down, the spool grows and drains by itself.

Nothing is dropped silently: what cannot be filed becomes a gap with its reason and is set aside in
`bad/`. No item is tried for ever, and none stops the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from services.archive import filing, leftovers
from services.archive.commit import Committer, Outcome, holds_of
from services.archive.doubts import Doubts
from services.archive.filing import Refused
from shared import doubt, log, metrics, outbox, retention
from shared.blobs import HELD, STANDARD
from shared.clock import SECOND_US
from shared.db import holds as stored_holds
from shared.domain import Gap, GapReason, Hold, Segment
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.retention import Policy, Protection
from shared.settings import Settings
from shared.spool import Filed, SpoolReader

BATCH = 64
STRIKES = 3
MAX_WAITING = 10_000
_TO_ITEM = (Kind.CORRUPT, Kind.INVALID, Kind.TOO_LARGE, Kind.CONFLICT)
"""Kinds that are the item's own fault: trying again cannot help."""


class Loaded(NamedTuple):
    """A spool item as read: a segment, a gap, or the reason why it is neither."""

    item: Filed
    segment: Segment | None = None
    gap: Gap | None = None
    problem: str = ""


class SpoolArchiver:
    """See the module."""

    def __init__(
        self,
        platform: Platform,
        settings: Settings,
        relay: outbox.Relay,
        reader: SpoolReader | None = None,
    ) -> None:
        self._platform = platform
        self._settings = settings
        self.committer = Committer(platform, settings, relay)
        self.root = settings.path(settings.spool.dir)
        self._reader = reader or SpoolReader(self.root)
        self._log = log.get("archive.spool")
        self._limiter = log.Limiter(platform.clock)
        self._slots = asyncio.Semaphore(settings.archive.workers)
        self._strikes: dict[str, int] = {}
        self._waiting: set[str] = set()
        self._doubts = Doubts(platform, settings)

    async def run_once(self) -> bool:
        """Take up to `BATCH` items through all steps; whether there were any. Raises, after the
        others are done, when a neighbour is down."""
        begun_us = self._platform.clock.monotonic_us()
        items = await self._claim()
        if not items:
            self._waiting.clear()
            return False
        loaded = await asyncio.to_thread(lambda: [self._load(item) for item in items])
        policy, holds, doubted = await self._rules(loaded)
        results = await asyncio.gather(
            *(self._file(one, policy, holds, doubted) for one in loaded), return_exceptions=True
        )
        outcomes = [one for one in results if isinstance(one, Outcome)]
        errors = [one for one in results if isinstance(one, BaseException)]
        done = await self._commit_all(outcomes)
        await asyncio.to_thread(self._clear, done)
        self._count(done, begun_us)
        if errors:
            raise errors[0]
        return bool(outcomes)

    async def _claim(self) -> list[Filed]:
        found = await asyncio.to_thread(self._reader.filed, BATCH + len(self._waiting))
        return [item for item in found if item.name not in self._waiting][:BATCH]

    def _load(self, item: Filed) -> Loaded:
        try:
            if item.video is None:
                gap = self._reader.read_gap(item)
                filing.check_gap(gap)
                return Loaded(item, gap=gap)
            size = item.video.stat().st_size
            segment = self._reader.read_segment(item)
            try:
                filing.check_segment(segment, item.name, size)
            except LamppostError as error:
                usable = segment.end_us > segment.start_us and segment.camera_id in item.name
                return Loaded(item, segment if usable else None, problem=str(error))
            return Loaded(item, segment)
        except (LamppostError, OSError) as error:
            return Loaded(item, problem=str(error))

    async def _rules(self, loaded: Sequence[Loaded]) -> tuple[Policy, list[Hold], doubt.Doubt]:
        segments = [one.segment for one in loaded if one.segment is not None]
        async with self._platform.database.read() as connection:
            policy = await self.committer.policy(connection)
            holds = await holds_of(connection, segments)
            return policy, holds, await self._doubts.judge(connection)

    # One item up to its commit

    async def _file(
        self, one: Loaded, policy: Policy, holds: Sequence[Hold], doubted: doubt.Doubt
    ) -> Outcome | None:
        if one.gap is not None:
            return Outcome(one.item, gap=one.gap)
        if one.problem or one.segment is None:
            return await asyncio.to_thread(self._damaged, one, one.problem)
        try:
            return await self._store(one.item, one.segment, policy, holds, doubted)
        except LamppostError as error:
            if error.kind is Kind.NOT_FOUND:  # another archive was faster
                return None
            if error.kind not in _TO_ITEM:
                raise
            return await asyncio.to_thread(self._damaged, one, str(error))
        except Exception as error:
            if not self._struck_out(one.item):
                raise
            return await asyncio.to_thread(self._damaged, one, f"It could not be filed: {error}.")

    async def _store(
        self,
        item: Filed,
        segment: Segment,
        policy: Policy,
        holds: Sequence[Hold],
        doubted: doubt.Doubt,
    ) -> Outcome | None:
        now_us = self._platform.clock.now_us()
        late_max = self._settings.archive.late_max_days
        decided = filing.decide(segment, policy, holds, now_us, late_max)
        if isinstance(decided, Refused):
            return self._late(item, decided, doubted)
        assert item.video is not None
        async with self._slots:
            info = await self._platform.blobs.put(
                decided.key,
                item.video,
                sha256=segment.sha256,
                size_bytes=segment.size_bytes,
                tags=HELD if decided.held else STANDARD,
            )
        return Outcome(
            item,
            accepted=decided,
            tagged_held=info.tags == HELD,
            stored_at_us=info.stored_at_us,
        )

    def _late(self, item: Filed, refused: Refused, doubted: doubt.Doubt) -> Outcome | None:
        if doubted:
            self._say("late footage waits", item, "; ".join(doubted.reasons), kind="doubt")
            if len(self._waiting) < MAX_WAITING:
                self._waiting.add(item.name)
            return None
        gap = filing.lost_gap(refused.segment, GapReason.LATE_REFUSED, refused.reason)
        return Outcome(item, gap=gap, aside=f"Refused: {refused.reason}.")

    def _damaged(self, one: Loaded, problem: str) -> Outcome:
        """The gap that stands for a damaged item, from whatever is known of its times."""
        reason = problem or "The item cannot be read."
        if one.segment is not None:
            gap = filing.lost_gap(one.segment, GapReason.SEGMENT_DAMAGED, reason)
            return Outcome(one.item, gap=gap, aside=reason)
        parts = filing.named(one.item.name)
        if parts is None or one.item.video is None:
            return Outcome(one.item, aside=reason)
        longest_us = parts.start_us + round(self._settings.ingest.segment_s * SECOND_US)
        try:
            written_us = one.item.video.stat().st_mtime_ns // 1_000
        except FileNotFoundError:
            written_us = longest_us
        end_us = min(written_us, longest_us) if written_us > parts.start_us else longest_us
        return Outcome(one.item, gap=filing.damaged_gap(parts, end_us, reason), aside=reason)

    async def _commit_all(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Commit the batch; when a row spoils it, each item alone: it spoils only itself."""
        if not outcomes:
            return []
        try:
            await self.committer.commit(outcomes)
            return list(outcomes)
        except LamppostError as error:
            if _passes(error):
                raise
        done: list[Outcome] = []
        for outcome in outcomes:
            try:
                await self.committer.commit([outcome])
                done.append(outcome)
            except LamppostError as error:
                if _passes(error):
                    raise
                self._say("row refused", outcome.item, str(error), kind=error.kind.value)
                if self._struck_out(outcome.item):
                    done.append(await self._give_up(outcome, f"The row was refused: {error}"))
        return done

    async def _give_up(self, outcome: Outcome, reason: str) -> Outcome:
        if outcome.accepted is None:
            return Outcome(outcome.item, aside=reason)
        gap = filing.lost_gap(outcome.accepted.segment, GapReason.SEGMENT_DAMAGED, reason)
        lost = Outcome(outcome.item, gap=gap, aside=reason)
        await self.committer.commit([lost])
        return lost

    # After the commit

    def _clear(self, done: Sequence[Outcome]) -> None:
        for one in done:
            if one.aside:
                leftovers.set_aside(self.root, one.item, one.aside)
            else:
                self._reader.remove(one.item)

    def _count(self, done: Sequence[Outcome], begun_us: int) -> None:
        seconds = (self._platform.clock.monotonic_us() - begun_us) / SECOND_US
        now_us = self._platform.clock.now_us()
        for one in done:
            self._strikes.pop(one.item.name, None)
            if one.accepted is not None and not one.aside:
                metrics.SEGMENTS_ARCHIVED.inc()
                metrics.ARCHIVE_SECONDS.observe(seconds)
                age_us = max(0, now_us - one.accepted.segment.end_us)
                metrics.FOOTAGE_AGE_SECONDS.observe(age_us / SECOND_US)
            elif one.aside:
                reason = one.gap.reason.value if one.gap else "unreadable"
                self._say("item set aside", one.item, one.aside, kind=reason)

    def _struck_out(self, item: Filed) -> bool:
        """Whether an unexpected failure of the item was its last chance."""
        if len(self._strikes) > MAX_WAITING:
            self._strikes.clear()
        strikes = self._strikes[item.name] = self._strikes.get(item.name, 0) + 1
        return strikes >= STRIKES

    def _say(self, event: str, item: Filed, cause: str, *, kind: str) -> None:
        metrics.ARCHIVE_FAILURES.labels(kind).inc()
        withheld = self._limiter.allow(event)
        if withheld is not None:
            self._log.warning(event, item=item.name, cause=cause, withheld=withheld)

    # Leftovers

    async def tidy(self) -> None:
        """Once an hour: remove lonely sidecars, and set-aside videos past their expiry."""
        await asyncio.to_thread(leftovers.remove_lonely_sidecars, self.root)
        aside = await asyncio.to_thread(leftovers.videos_aside, self.root)
        if not aside:
            return
        cameras = {one.camera_id for one in aside}
        async with self._platform.database.write(sorted(cameras)) as connection:
            if await self._doubts.judge(connection):
                return
            policy = await self.committer.policy(connection)
            holds = await stored_holds.load(connection, cameras=cameras)
            now_us = self._platform.clock.now_us()
            due = []
            for one in aside:
                expires = filing.expiry_us(one.end_us, now_us, policy)
                facts = retention.Facts(one.camera_id, one.start_us, one.end_us, expires, 0)
                kept, _ = retention.protection(facts, holds, now_us)
                if now_us >= expires and kept is Protection.NONE:
                    due.append(one.path)
            await asyncio.to_thread(leftovers.remove, due)

    async def measure(self) -> None:
        """Say how much waits."""
        found = await asyncio.to_thread(self._reader.usage)
        metrics.BACKLOG_ITEMS.set(found.items)
        metrics.BACKLOG_BYTES.set(found.size_bytes)
        metrics.BACKLOG_OLDEST.set((found.oldest_us or 0) / SECOND_US)

    async def measure_store(self) -> None:
        """Say how much may still be filed, where the store tells."""
        room = await self._platform.blobs.usage()
        if room.total_bytes and room.free_bytes is not None:
            metrics.DISK_BYTES.labels("store").set(room.total_bytes)
            metrics.DISK_FREE_BYTES.labels("store").set(room.free_bytes)
            metrics.DISK_FREE_RATIO.labels("store").set(room.free_bytes / room.total_bytes)


def _passes(error: LamppostError) -> bool:
    """Whether the error is the neighbour's, not the item's: it will pass."""
    return error.retryable or error.kind is Kind.CLOSED
