"""The archive: `--spool` stores and indexes recordings, `--index` what was seen in them: sightings,
the boxes beside each segment, and zones that change (docs/architecture.md).

Both roles are loops that never end on an error: they wait with back-off and go on.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Literal

from services.archive.boxes import BoxesWriter
from services.archive.commit import SERVICE
from services.archive.index import SightingIndexer
from services.archive.reconcile import Reconciler
from services.archive.reindex import ZoneFollower
from services.archive.spooler import SpoolArchiver
from services.archive.waiting import WaitingKeeper, sweep
from shared import log, outbox, runtime
from shared.clock import EARLIEST_US, HeldClock
from shared.db.partitions import keep_around
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.runtime import Stop
from shared.settings import Settings

Role = Literal["all", "spool", "index"]
TIDY_S = 3_600.0
SWEEP_S = 60.0
TRIM_S = 60.0
MEASURE_S = 10.0
STORE_S = 60.0


class ArchiveService:
    """One or both roles in one task."""

    name = SERVICE

    def __init__(self, platform: Platform, settings: Settings, role: Role) -> None:
        self._platform = platform
        self._settings = settings
        self._role = role
        self._log = log.get("archive")
        self.relay = outbox.Relay(platform, SERVICE)
        # What is filed is dated: a clock that falls back must not make it expire at once.
        dated = dataclasses.replace(platform, clock=HeldClock(platform.clock))
        self.spool = SpoolArchiver(dated, settings, self.relay)
        self.reconciler = Reconciler(platform, settings, self.spool.committer)
        self.index = SightingIndexer(platform, settings)
        self.boxes = BoxesWriter(platform, settings)
        self.zones = ZoneFollower(platform, settings)
        self.waiting = WaitingKeeper(platform, settings)

    async def run(self, stop: Stop) -> None:
        async with asyncio.TaskGroup() as group:
            if self._role in ("all", "spool"):
                group.create_task(self._run_spool(stop))
                group.create_task(self._run_relay(stop))
                group.create_task(self.reconciler.run(stop))
                group.create_task(self._every(stop, TIDY_S, self.spool.tidy))
                group.create_task(self._every(stop, MEASURE_S, self.spool.measure))
                group.create_task(self._every(stop, STORE_S, self.spool.measure_store))
                group.create_task(self._every(stop, SWEEP_S, self.sweep))
            group.create_task(self._every(stop, TIDY_S, self._make_days))
            if self._role in ("all", "index"):
                group.create_task(self.index.run(stop))
                group.create_task(self.boxes.run(stop))
                group.create_task(self.zones.run(stop))
                group.create_task(self.waiting.run(stop))
                group.create_task(self._every(stop, TRIM_S, self.trim))

    async def sweep(self) -> None:
        """Forget dead recorders of this volume once everything that they left is filed."""
        gone = await sweep(self._platform, self.spool.root)
        if gone:
            self._log.info("nothing waits any more", recorders=gone)

    async def trim(self) -> None:
        """The bus keeps no more than its topics promise; one that does so by itself ignores it."""
        await self._platform.bus.trim(self._platform.clock.now_us())

    async def _run_spool(self, stop: Stop) -> None:
        await runtime.loop(
            "archive.spool",
            self.file_once,
            stop,
            self._platform.clock,
            idle_s=self._settings.archive.scan_interval_s,
        )

    async def file_once(self) -> bool:
        """One batch of the spool; DOUBT while nobody knows what day it is."""
        if self._platform.clock.now_us() < EARLIEST_US:
            raise LamppostError(
                Kind.DOUBT, "The clock is not set; the spool waits.", fix="Set the machine's clock."
            )
        return await self.spool.run_once()

    async def _make_days(self) -> None:
        """Before a day comes, where the database keeps a partition for each."""
        if self._platform.clock.now_us() >= EARLIEST_US:
            rule = self._settings.postgres
            await keep_around(self._platform.database, self._platform.clock, rule)

    async def _run_relay(self, stop: Stop) -> None:
        """The relay, begun again should it meet an error that it does not know."""
        backoff = runtime.Backoff(0.2, 10.0)
        while not stop.is_set:
            try:
                await self.relay.run(stop)
            except Exception:
                self._log.exception("outbox failed")
                await stop.sleep(self._platform.clock, backoff.next_s())

    async def _every(self, stop: Stop, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while not stop.is_set:
            try:
                await work()
            except LamppostError as error:
                self._log.warning("waits", cause=str(error))
            except Exception:
                self._log.exception("failed")
            await stop.sleep(self._platform.clock, seconds)


def build(platform: Platform, settings: Settings, role: Role = "all") -> ArchiveService:
    """The service in one role or both."""
    return ArchiveService(platform, settings, role)
