"""One service in one process: what `lamppost run all` starts as its children, and a person by hand.

Imports little, because a recorder should be recording soon after its start: neither the command
line nor a database driver, which a recorder never needs (docs/architecture.md, "Processes").
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING

from services import children, detectors, malloc, probing
from services.statelock import StateLock
from shared import log, metrics, tracing
from shared.errors import Kind, LamppostError
from shared.platform import Platform, open_platform
from shared.probes import Probes
from shared.runtime import Service, Stop
from shared.settings import Settings, load
from shared.version import version as version

if TYPE_CHECKING:
    from shared.internal_http import InternalServer

IN_PROCESS = ("archive", "retention", "api")
CHILDREN = ("ingest", "detect")
"""Processes of their own, without a database: they go on whatever it does."""
SERVICES = (*CHILDREN, *IN_PROCESS, "relay")
MODULES = {"relay": "services.api.relay"}
"""Second roles; every other service is `services.NAME.service`."""
ROLES = {"archive": ("all", "spool", "index")}
"""Services that can be split: `--spool` runs beside a recorder, `--index` by replicas."""
LOCK_WAIT_S = 8.0


def build(name: str, platform: Platform, settings: Settings, role: str = "all") -> Service:
    """A service by its name; the only place that turns names into services."""
    check_role(name, role)
    module = importlib.import_module(MODULES.get(name, f"services.{name}.service"))
    parts = {"role": role} if name in ROLES else {}
    service: Service = module.build(platform, settings, **parts)
    return service


def check_role(name: str, role: str) -> None:
    """INVALID for a service or role that there is not."""
    if name not in SERVICES:
        raise LamppostError(
            Kind.INVALID, f"There is no service {name!r}.", fix=f"One of: {', '.join(SERVICES)}."
        )
    if role not in ROLES.get(name, ("all",)):
        raise LamppostError(
            Kind.INVALID,
            f"Service {name} has no role {role!r}.",
            fix="Only archive has roles: --spool or --index.",
        )


def asked(arguments: Sequence[str]) -> tuple[str, str] | None:
    """The service and its role, when a command line names them and nothing more."""
    if not 2 <= len(arguments) <= 3 or arguments[0] != "run" or arguments[1] not in SERVICES:
        return None
    service, options = (
        arguments[1],
        {f"--{role}": role for role in ROLES.get(arguments[1], ("all",))[1:]},
    )
    role = "all" if len(arguments) == 2 else options.get(arguments[2])
    return None if role is None else (service, role)


def in_process(settings: Settings) -> tuple[str, ...]:
    """What `run all` runs in its own process: the relay only where events go anywhere."""
    relays = settings.relay.webhook_hosts or settings.relay.mqtt_host
    return (*IN_PROCESS, "relay") if relays else IN_PROCESS


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


async def run_one(name: str, settings: Settings, parent: int | None, role: str = "all") -> None:
    """`lamppost run ingest` and the like: one service in this process."""
    if parent is not None:
        # A supervisor ends all recorders together: there is nobody to hand over to.
        settings = settings.model_copy(
            update={"ingest": settings.ingest.model_copy(update={"handover_s": 0.0})}
        )
    stop = Stop()
    undo = on_signals(stop, lambda: os._exit(130))
    part = name if role == "all" else f"{name}-{role}"
    lock = StateLock(settings.state_dir / "run" / f"{settings.instance}-{part}.lock", part)
    probes = Probes()
    # Beside what follows: it is loaded while neighbours are looked for, and says so meanwhile.
    listening = asyncio.ensure_future(probing.listen(settings, probes)) if parent is None else None
    try:
        platform = await open_platform(settings, database=name not in CHILDREN)
        clock = platform.clock
        watching = None
        try:
            await asyncio.to_thread(lock.acquire_within, clock, LOCK_WAIT_S)
            if parent:
                watching = asyncio.ensure_future(children.watch_parent(parent, stop, clock))
            metrics.BUILD_INFO.labels(version(), name).set(1)
            service = build(name, platform, settings, role)
            probing.know(probes, name, platform, service)
            if listening is not None:
                await listening
            keep_what_is_there()
            async with _told(name, part, platform, settings):
                await service.run(stop)
        finally:
            if watching is not None:
                watching.cancel()
            await platform.close()
    finally:
        await _end(listening)
        lock.release()
        undo()


def keep_what_is_there() -> None:
    """Say that what is loaded by now stays for the life of the process: the collector of cycles
    would walk all of it again and again, an eighth of the time of a search."""
    gc.collect()
    gc.freeze()


def _told(
    name: str, part: str, platform: Platform, settings: Settings
) -> AbstractAsyncContextManager[None]:
    """The process's row, where it has a database; the others say the same on the bus."""
    if name in CHILDREN:
        return nullcontext()
    presence = importlib.import_module("shared.presence")
    found: AbstractAsyncContextManager[None] = presence.told(platform, part, settings.instance)
    return found


async def _end(listening: asyncio.Future[InternalServer | None] | None) -> None:
    """Nobody is answered any more."""
    if listening is None:
        return
    if not listening.done():
        listening.cancel()
    (found,) = await asyncio.gather(listening, return_exceptions=True)
    if found is not None and not isinstance(found, BaseException):
        await found.stop()


def run(name: str, settings: Settings, parent: int | None, role: str = "all") -> None:
    """Run it to its end. With a parent, end with it."""
    check_role(name, role)
    malloc.settle(name, os.environ)
    log.configure(settings.log)
    tracing.configure(settings.tracing, name, settings.instance)
    if parent is not None:
        children.end_with_parent(parent)
    if name == detectors.TRADE.service:
        detectors.begin(settings.detect.nice, os.environ)
    try:
        asyncio.run(run_one(name, settings, parent, role))
    finally:
        tracing.close()


def run_child(name: str, parent: int) -> int:
    """A child under its supervisor, without the command line's costs; the exit status."""
    status = 0
    try:
        run(name, load(), parent)
    except LamppostError as error:
        log.get(name).critical("cannot run", kind=error.kind.value, cause=str(error))
        status = 1
    if name == detectors.TRADE.service:
        # Everything is told and closed. A thread of an inference runtime that hangs would keep
        # the process for ever, and its libraries take long to take down.
        sys.stderr.flush()
        os._exit(status)
    return status
