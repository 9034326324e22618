"""`lamppost run all`: one supervisor process with three services, recorders and detect workers as
its children.

A crash of one service restarts that one with back-off while the others go on. A stop is ordered:
recorders file what they have, the archive takes it, then the services end; 5 s in all. See
docs/architecture.md, "Five services".
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from services import children, detectors, recorders, summary
from services.board import Board
from services.logfile import LogFile
from services.one import build, in_process, version
from shared import log, metrics, presence
from shared.clock import SECOND_US, Clock
from shared.db import tables
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.runtime import Backoff, Stop
from shared.settings import Settings
from shared.spool import SpoolReader

CHILDREN_END_S = 3.4
CHILDREN_END_PATIENT_S = 10.5
DRAIN_S = 0.3
DRAIN_PATIENT_S = 15.0
INDEX_S = 1.0
"""So long the archive takes at most to index what detectors told last."""
SERVICES_END_S = 0.5
SERVICES_END_PATIENT_S = 10.0
TRIM_EVERY_S = 60.0
PLAN_EVERY_S = 2.0
DETECT_AFTER_S = 15.0
"""Detection waits for every camera to record, but no longer."""


class RunSummary(NamedTuple):
    """The closing JSON of an unattended run."""

    cameras_recording: int
    recorded_s: float
    gap_s: float
    unaccounted_s: float
    segments: int
    frames_analysed: int
    sightings: int
    purged: int
    errors: int
    url: str


async def keep(
    name: str, make: Callable[[], Coroutine[Any, Any, None]], stop: Stop, clock: Clock
) -> None:
    """Run it, and again with back-off whenever it ends unasked."""
    logger = log.get("supervisor")
    backoff = Backoff(0.2, 10.0)
    while not stop.is_set:
        started_us = clock.monotonic_us()
        try:
            await make()
            if stop.is_set:
                return
            logger.error("service ended unasked", service=name)
        except Exception as error:
            logger.error("service crashed", service=name, cause=repr(error), exc_info=True)
        if clock.monotonic_us() - started_us > children.HEALTHY_S * SECOND_US:
            backoff.reset()
        await stop.sleep(clock, backoff.next_s())


def check_port(settings: Settings) -> None:
    """CONFLICT when something else listens where the api should."""
    if settings.api.port == 0:
        return
    family = socket.AF_INET6 if ":" in settings.api.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.api.host, settings.api.port))
        except OSError as error:
            raise LamppostError(
                Kind.CONFLICT,
                f"Cannot listen on {settings.api.host}:{settings.api.port}: {error.strerror}.",
                fix="Stop the program that does, or choose another port: LAMPPOST_API__PORT=8601.",
            ) from error


class Supervisor:
    """Everything of one `run all`, from migration to the last row."""

    def __init__(self, settings: Settings, platform: Platform, logs: LogFile) -> None:
        self.settings = settings
        self.platform = platform
        self.board = Board()
        self._patient = False
        self._logs = logs
        self._clock = platform.clock
        self._log = log.get("supervisor")
        self._recorders: list[children.Child] = []
        self._detectors: list[children.Child] = []
        self._child_tasks: list[asyncio.Task[None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._services_stop = Stop()
        self._started_us = self._clock.now_us()

    def begin(self, stop: Stop) -> None:
        """The first recorder, before all else: it needs the bus and nothing more, so footage does
        not wait for a migration or for what the api imports."""
        self._hire(stop)

    def be_patient(self) -> None:
        """Nobody waits for the end (the time of `--for` is over): let everything be filed."""
        self._patient = True
        for detector in self._detectors:
            detector.kill_after_s = detectors.PATIENT_S

    async def abandon(self) -> None:
        """End what `begin` began, when `run` will never come."""
        await _end(self._child_tasks, CHILDREN_END_S)

    async def prepare(self) -> None:
        """The schema, and the policy that every expiry is stamped with."""
        await self.platform.database.migrate()
        policy = importlib.import_module("services.retention.policy")
        await policy.ensure_policy(self.platform, self.settings)

    async def run(self, stop: Stop) -> None:
        """Work until the stop, then stop everything in order."""
        self._started_us = self._clock.now_us()
        metrics.BUILD_INFO.labels(version(), "all").set(1)
        for name in in_process(self.settings):
            self._start(name, self._service_of(name))
        self._start("status board", lambda: self.board.run(self.platform, self._services_stop))
        self._start("bus trim", self._trim)
        self._start("presence", self._say)
        planners = [
            asyncio.ensure_future(self._staff(stop)),
            asyncio.ensure_future(self._look(stop)),
        ]
        try:
            await stop.wait()
        finally:
            for planner in planners:
                planner.cancel()
            await asyncio.gather(*planners, return_exceptions=True)
            await self._stop_all()

    def _service_of(self, name: str) -> Callable[[], Coroutine[Any, Any, None]]:
        async def run() -> None:
            await build(name, self.platform, self.settings).run(self._services_stop)

        return run

    def _start(self, name: str, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        work = keep(name, make, self._services_stop, self._clock)
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _say(self) -> None:
        """This process is there, and all that it holds is of one release."""
        await presence.say(self.platform, "all", self.settings.instance, self._services_stop)

    async def _trim(self) -> None:
        """The bus keeps no more than its topics promise."""
        while not await self._services_stop.sleep(self._clock, TRIM_EVERY_S):
            await self.platform.bus.trim(self._clock.now_us())

    async def _staff(self, stop: Stop) -> None:
        """As many recorders as the cameras need now; never fewer than before."""
        while not stop.is_set:
            try:
                wanted = recorders.plan(
                    await self._camera_ids(),
                    self.settings.ingest.max_streams,
                    self.settings.stores.bus_partitions,
                ).recorders
            except LamppostError as error:
                self._log.error("cannot plan recorders", cause=str(error))
                wanted = max(1, len(self._recorders))
            while len(self._recorders) < wanted:
                self._hire(stop)
            await stop.sleep(self._clock, PLAN_EVERY_S)

    def _hire(self, stop: Stop) -> None:
        name = recorders.recorder_name(len(self._recorders) + 1)
        recorder = recorders.recorder(name, self.settings, self._clock, self._logs)
        self._recorders.append(recorder)
        self._child_tasks.append(asyncio.create_task(recorder.run(stop), name=name))

    async def _look(self, stop: Stop) -> None:
        """The detect workers, once the cameras record: their imports would delay the first ones."""
        count = detectors.plan(self.settings)
        began_us = self._clock.monotonic_us()
        while count and not stop.is_set:
            if self._clock.monotonic_us() - began_us > DETECT_AFTER_S * SECOND_US:
                break
            with contextlib.suppress(LamppostError):
                if self.board.ever_recorded.issuperset(await self._camera_ids() or ("",)):
                    break
            await stop.sleep(self._clock, 0.25)
        for number in range(1, count + 1):
            if stop.is_set:
                return
            name = detectors.detector_name(number)
            detector = detectors.detector(name, self.settings, self._clock, self._logs)
            self._detectors.append(detector)
            self._child_tasks.append(asyncio.create_task(detector.run(stop), name=name))

    async def _camera_ids(self) -> Sequence[str]:
        table = tables.camera
        query = sa.select(table.c.id).where(table.c.deleted_at_us.is_(None), table.c.enabled)
        async with self.platform.database.read() as connection:
            return [row[0] for row in await connection.execute(query)]

    async def _stop_all(self) -> None:
        """Recorders and detectors, then what they left, then the services; 5 s when a person waits.

        All children were asked at once. Detectors are killed long before the recorders' time is up.
        """
        await _end(self._child_tasks, CHILDREN_END_PATIENT_S if self._patient else CHILDREN_END_S)
        for child in (*self._recorders, *self._detectors):
            child.kill()
        await self._drain(DRAIN_PATIENT_S if self._patient else DRAIN_S)
        if self._patient and self._detectors:
            await self._clock.sleep(INDEX_S)
        self._services_stop.set()
        left = await _end(self._tasks, SERVICES_END_PATIENT_S if self._patient else SERVICES_END_S)
        if left:
            self._log.warning("services did not end in time", services=sorted(left))

    async def _drain(self, seconds: float) -> None:
        """Let the archive take what the recorders filed; what stays is taken at the next start."""
        reader = SpoolReader(self.settings.path(self.settings.spool.dir))
        deadline = self._clock.monotonic_us() + round(seconds * SECOND_US)
        while self._clock.monotonic_us() < deadline:
            if not await asyncio.to_thread(reader.filed, 1):
                return
            await self._clock.sleep(0.05)

    def kill(self) -> None:
        """The second Ctrl-C: nothing is waited for. What is half written is repaired later."""
        for child in (*self._recorders, *self._detectors):
            child.kill()
        os._exit(130)

    async def totals(self, end_us: int) -> RunSummary:
        """What this run left behind, up to `end_us`."""
        found = await summary.run_totals(self.platform, self._started_us, end_us)
        return RunSummary(
            cameras_recording=len(self.board.ever_recorded),
            recorded_s=round(found.recorded_us / SECOND_US, 3),
            gap_s=round(found.gap_us / SECOND_US, 3),
            unaccounted_s=round(found.unaccounted_us / SECOND_US, 3),
            segments=found.segments,
            frames_analysed=self.board.analysed,
            sightings=found.sightings,
            purged=found.purged,
            errors=self._logs.errors,
            url=address(self.settings),
        )


def address(settings: Settings) -> str:
    """Where the api is to be had from this machine."""
    host = settings.api.host
    host = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    return (
        f"http://[{host}]:{settings.api.port}"
        if ":" in host
        else f"http://{host}:{settings.api.port}"
    )


async def _end(tasks: Sequence[asyncio.Task[None]], seconds: float) -> set[str]:
    """Wait so long, then cancel; the names of those that had to be cancelled."""
    if not tasks:
        return set()
    _, pending = await asyncio.wait(tasks, timeout=seconds)
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending, timeout=0.2)
    return {task.get_name() for task in pending}
