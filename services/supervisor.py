"""`lamppost run all`: one supervisor process with four services, recorders as its children.

A crash of one service restarts that one with back-off while the others go on. A stop is ordered:
recorders file what they have, the archive takes it, then the services end; 5 s in all. See
docs/architecture.md, "Five services".
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from services import recorders, summary
from services.logfile import LogFile
from services.statelock import StateLock
from shared import log, metrics
from shared.clock import SECOND_US, Clock
from shared.db import tables
from shared.errors import Kind, LamppostError
from shared.platform import Platform, open_platform
from shared.runtime import Backoff, Service, Stop
from shared.settings import Settings
from shared.spool import SpoolReader

IN_PROCESS = ("archive", "retention", "api", "detect")
SERVICES = ("ingest", *IN_PROCESS)
RECORDERS_END_S = 4.2
DRAIN_S = 0.3
DRAIN_PATIENT_S = 15.0
SERVICES_END_S = 0.5
SERVICES_END_PATIENT_S = 10.0
TRIM_EVERY_S = 60.0
PLAN_EVERY_S = 2.0
LOCK_WAIT_S = 8.0


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


def build(name: str, platform: Platform, settings: Settings) -> Service:
    """A service by its name; the only place that turns names into services."""
    if name not in SERVICES:
        raise LamppostError(
            Kind.INVALID, f"There is no service {name!r}.", fix=f"One of: {', '.join(SERVICES)}."
        )
    module = importlib.import_module(f"services.{name}.service")
    service: Service = module.build(platform, settings)
    return service


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
        if clock.monotonic_us() - started_us > recorders.HEALTHY_S * SECOND_US:
            backoff.reset()
        await stop.sleep(clock, backoff.next_s())


def on_signals(stop: Stop, harder: Callable[[], None]) -> Callable[[], None]:
    """First SIGINT, SIGTERM or SIGHUP: the stop. A second SIGINT: `harder`. Returns the undoing."""
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        if stop.is_set:
            harder()
        stop.set()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)

    def undo() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)

    return undo


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
        self.board = summary.Board()
        self.patient = False
        """Nobody waits for the end (the time of `--for` is over): let everything be filed."""
        self._logs = logs
        self._clock = platform.clock
        self._log = log.get("supervisor")
        self._recorders: list[recorders.Recorder] = []
        self._recorder_tasks: list[asyncio.Task[None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._services_stop = Stop()
        self._started_us = self._clock.now_us()

    async def prepare(self) -> None:
        """The schema, and the policy that every expiry is stamped with."""
        await self.platform.database.migrate()
        policy = importlib.import_module("services.retention.policy")
        await policy.ensure_policy(self.platform, self.settings)

    async def run(self, stop: Stop) -> None:
        """Work until the stop, then stop everything in order."""
        self._started_us = self._clock.now_us()
        metrics.BUILD_INFO.labels(_version(), "all").set(1)
        for name in IN_PROCESS:
            self._start(name, self._service_of(name))
        self._start("status board", lambda: self.board.run(self.platform, self._services_stop))
        self._start("bus trim", self._trim)
        planner = asyncio.ensure_future(self._staff(stop))
        try:
            await stop.wait()
        finally:
            planner.cancel()
            await asyncio.gather(planner, return_exceptions=True)
            await self._stop_all()

    def _service_of(self, name: str) -> Callable[[], Coroutine[Any, Any, None]]:
        async def run() -> None:
            await build(name, self.platform, self.settings).run(self._services_stop)

        return run

    def _start(self, name: str, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        work = keep(name, make, self._services_stop, self._clock)
        self._tasks.append(asyncio.create_task(work, name=name))

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
            for number in range(len(self._recorders) + 1, wanted + 1):
                name = recorders.recorder_name(number)
                recorder = recorders.Recorder(name, self.settings, self._clock, self._logs)
                self._recorders.append(recorder)
                self._recorder_tasks.append(asyncio.create_task(recorder.run(stop), name=name))
            await stop.sleep(self._clock, PLAN_EVERY_S)

    async def _camera_ids(self) -> Sequence[str]:
        table = tables.camera
        query = sa.select(table.c.id).where(table.c.deleted_at_us.is_(None), table.c.enabled)
        async with self.platform.database.read() as connection:
            return [row[0] for row in await connection.execute(query)]

    async def _stop_all(self) -> None:
        """Recorders, then what they filed, then the services; 5 s when a person waits."""
        await _end(self._recorder_tasks, RECORDERS_END_S)
        for recorder in self._recorders:
            recorder.kill()
        await self._drain(DRAIN_PATIENT_S if self.patient else DRAIN_S)
        self._services_stop.set()
        left = await _end(self._tasks, SERVICES_END_PATIENT_S if self.patient else SERVICES_END_S)
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
        for recorder in self._recorders:
            recorder.kill()
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
            frames_analysed=frames_analysed(),
            sightings=found.sightings,
            purged=found.purged,
            errors=self._logs.errors,
            url=address(self.settings),
        )


def frames_analysed() -> int:
    """Frames that a detector looked at; none while detection is empty of models."""
    family = next(iter(metrics.FRAMES_ANALYSED.collect()))
    return int(sum(item.value for item in family.samples if item.name.endswith("_total")))


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


def _version() -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("lamppost")
    return "0"


async def run_one(name: str, settings: Settings, parent: int | None) -> None:
    """`lamppost run ingest` and the like: one service in this process."""
    stop = Stop()
    undo = on_signals(stop, lambda: os._exit(130))
    lock = StateLock(settings.state_dir / "run" / f"{settings.instance}-{name}.lock", name)
    try:
        platform = await open_platform(settings)
        clock = platform.clock
        await asyncio.to_thread(lock.acquire_within, clock, LOCK_WAIT_S)
        watching = (
            asyncio.ensure_future(recorders.watch_parent(parent, stop, clock)) if parent else None
        )
        metrics.BUILD_INFO.labels(_version(), name).set(1)
        try:
            await build(name, platform, settings).run(stop)
        finally:
            if watching is not None:
                watching.cancel()
            await platform.close()
    finally:
        lock.release()
        undo()
