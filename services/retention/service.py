"""The retention service: every minute, look at the clocks, then purge what is due.

A run is: doubt, breaker, tags, resumed claims, plan, claims, days that leave, sightings without
footage, gauges.
Any doubt about the time, or an open breaker, ends it before anything is deleted
(docs/retention.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import date
from typing import NamedTuple

from services.retention import breaker, plan, queries, queries_claims
from services.retention.doubt import Watch
from services.retention.executor import Executor, purge_sightings
from services.retention.leaving import Leaving
from services.retention.plan import Plan
from services.retention.policy import ensure_policy
from services.retention.restored import forgotten
from services.retention.tags import Tags
from shared import log, metrics, standing
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import holds as stored
from shared.db import policies
from shared.errors import Kind, LamppostError
from shared.outbox import Relay
from shared.platform import Platform
from shared.retention import MIN_UNCERTAINTY_US, Policy
from shared.runtime import Stop, loop
from shared.settings import Settings
from shared.standing import Standing
from shared.tombstones import journal

PAGE = 20_000
LANES = 4
"""Claims under way at a time: one commits while the bytes of others are deleted."""
CAUSES = ("doubt", "breaker", "error")


class Outcome(NamedTuple):
    """What one run did; `stopped` is empty, `doubt`, `breaker` or `error`."""

    purged: int
    stopped: str = ""
    detail: str = ""


class RetentionService:
    """See the module."""

    name = "retention"

    def __init__(
        self, platform: Platform, settings: Settings, *, worker: str = "", lanes: int = LANES
    ) -> None:
        self._platform = platform
        self._settings = settings
        self._worker = worker or f"retention-{settings.instance}"
        self._watch = Watch(platform, settings.retention.max_clock_error_s)
        self._tags = Tags(platform)
        self._leaving = Leaving(platform, settings, lambda: not self._watch.drifted())
        self._journal = journal(settings.state_dir)
        self._executor = Executor(
            platform,
            self._journal,
            self._worker,
            lambda: not self._watch.drifted(),
            lanes=lanes,
            with_day=self._leaving.takes,
        )
        self._relay = Relay(platform, self.name)
        self._policy_ensured = False
        self._swept_us: int | None = None
        self._reminded: set[str] = set()
        self._log = log.get(self.name)

    async def run(self, stop: Stop) -> None:
        """Run every `retention.interval_s` until the stop."""

        async def once() -> bool:
            await self.run_once()
            return False

        await asyncio.gather(
            loop(
                self.name,
                once,
                stop,
                self._platform.clock,
                idle_s=self._settings.retention.interval_s,
                max_backoff_s=self._settings.retention.interval_s,
            ),
            self._relay.run(stop),
        )

    async def run_once(self) -> Outcome:
        """One run; raises only what is no error of a port."""
        try:
            outcome = await self._run()
        except LamppostError as error:
            outcome = Outcome(0, "error", str(error))
        await self._report(outcome)
        return outcome

    async def _run(self) -> Outcome:
        doubt = await self._watch.look()
        if doubt:
            return Outcome(0, "doubt", "; ".join(doubt.reasons))
        policy = await self._policy_in_force()
        if (cause := await self._breaker_cause()) is not None:
            return Outcome(0, "breaker", cause)
        if cause := await forgotten(self._platform, self._journal):
            now_us = self._platform.clock.now_us()
            await breaker.open_breaker(self._platform, cause, {}, now_us, kind=standing.RESTORED)
            return Outcome(0, "breaker", cause)
        self._leaving.follow(policy)
        await self._follow_holds(policy)
        self._executor.failed.clear()
        purged = await self._executor.resume()
        after: tuple[int, str, str] | None = None
        while True:
            made, after = await self._plan(after)
            if made.stop:
                return Outcome(purged, "breaker", made.stop)
            purged += await self._executor.run_all(made.claims, policy.version)
            if self._watch.drifted():
                return Outcome(purged, "doubt", "the wall clock moved during the run")
            if after is None:
                break
        await self._sweep(await self._leaving.run())
        if self._executor.failed:
            return Outcome(purged, "error", "; ".join(self._executor.failed[:5]))
        return Outcome(purged)

    async def _follow_holds(self, policy: Policy) -> None:
        """Tags are for the store's backstop; the purge obeys the holds and does not wait."""
        try:
            await self._tags.run(policy)
        except LamppostError as error:
            self._log.warning("tags wait", cause=str(error))

    async def _policy_in_force(self) -> Policy:
        """The newest policy; the first run writes the settings' one if it is new. Settings that
        would lengthen it are refused, and the purge goes on by the policy that stands."""
        if not self._policy_ensured:
            try:
                policy = await ensure_policy(self._platform, self._settings)
            except LamppostError as error:
                if error.kind is not Kind.NOT_BUILT:
                    raise
                self._log.error("the settings' retention is refused", cause=str(error))
            else:
                self._policy_ensured = True
                return policy
            self._policy_ensured = True
        async with self._platform.database.read() as connection:
            found = await policies.newest(connection)
        assert found is not None
        return found

    async def _breaker_cause(self) -> str | None:
        async with self._platform.database.read() as connection:
            found = await queries.open_breaker(connection)
        return None if found is None else str(found["cause"])

    async def _plan(
        self, after: tuple[int, str, str] | None
    ) -> tuple[Plan, tuple[int, str, str] | None]:
        """The plan of the next page of what is due, and where the page after it begins."""
        now_us = self._platform.clock.now_us()
        async with self._platform.database.read() as connection:
            counts = await queries.due_counts(connection, now_us)
            ledger = await queries.ledger_counts(connection, counts)
            accepted = await queries.accepted(connection)
            due = await queries_claims.due_page(connection, now_us, after, PAGE)
            slack = max([MIN_UNCERTAINTY_US, *(item.facts.uncertainty_us for item in due)])
            holds = (
                await stored.load(
                    connection,
                    start_us=min(item.facts.start_us for item in due) - slack,
                    end_us=max(item.facts.end_us for item in due) + slack,
                )
                if due
                else []
            )
        made = plan.make(
            due,
            holds,
            now_us,
            claim_max=self._settings.retention.claim_max,
            due_counts=counts,
            ledger=ledger,
            slack=self._settings.retention.breaker_slack,
            accepted=accepted,
        )
        if made.stop:
            await breaker.open_breaker(self._platform, made.stop, counts, now_us)
        if len(due) < PAGE:
            return made, None
        last = due[-1]
        return made, (last.facts.expires_at_us, last.facts.camera_id, last.segment_id)

    async def _sweep(self, waiting: Collection[date]) -> None:
        """Sightings whose footage is gone, but for those of days that wait to leave whole; once an
        hour, uploads that were never finished."""
        now_us = self._platform.clock.now_us()
        for camera_id in await self._leaving.to_sweep(waiting):
            async with self._platform.database.write([camera_id]) as connection:
                await purge_sightings(connection, camera_id, now_us, but_of=waiting)
        if self._swept_us is None or now_us - self._swept_us >= HOUR_US:
            self._swept_us = now_us
            swept = await self._platform.blobs.sweep(now_us - DAY_US)
            if swept:
                self._log.info("removed unfinished uploads", count=swept)

    async def _report(self, outcome: Outcome) -> None:
        """Metrics, the run's row, reminders."""
        for cause in CAUSES:
            metrics.RETENTION_STOPPED.labels(cause).set(cause == outcome.stopped)
        now_s = self._platform.clock.now_us() / SECOND_US
        metrics.RETENTION_LAST_RUN.set(now_s)
        if not outcome.stopped:
            metrics.RETENTION_LAST_SUCCESS.set(now_s)
        if outcome.stopped:
            self._log.error("nothing is purged", cause=outcome.stopped, detail=outcome.detail)
        try:
            async with self._platform.database.write() as connection:
                await queries.record_run(
                    connection,
                    self._worker,
                    # A wall clock in doubt must not become the newest commit of tomorrow.
                    None if outcome.stopped == "doubt" else self._platform.clock.now_us(),
                    outcome.purged,
                    outcome.stopped,
                    outcome.detail,
                )
            found = await standing.read(self._platform)
        except LamppostError as error:
            self._log.warning("the run could not be recorded", cause=str(error))
            return
        metrics.RETENTION_DUE.set(found.due_segments)
        metrics.RETENTION_OVERDUE.set(found.overdue_segments)
        metrics.RETENTION_HELD.set(found.held_segments)
        metrics.HOLDS_ACTIVE.set(found.holds_active)
        metrics.HOLDS_ENDING.set(len(found.holds_ending_soon))
        if found.oldest_us is not None:
            metrics.RETENTION_OLDEST.set(found.oldest_us / SECOND_US)
        self._remind(found)

    def _remind(self, found: Standing) -> None:
        for hold_id in found.holds_ending_soon:
            if hold_id not in self._reminded:
                self._log.warning("a hold ends within a day", hold=hold_id)
        self._reminded = set(found.holds_ending_soon)


def build(platform: Platform, settings: Settings) -> RetentionService:
    """The service on these ports."""
    return RetentionService(platform, settings)


async def status(platform: Platform, settings: Settings) -> Standing:
    """How retention stands now (the settings are part of every service's signature)."""
    return await standing.read(platform)
