"""One sitting of `lamppost run all`: the lock, the supervisor, the display, the closing summary."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from services import table
from services.demo import Demo
from services.logfile import LogFile
from services.models_setup import Provider
from services.one import on_signals
from services.statelock import StateLock
from services.summary import Collector
from services.supervisor import RunSummary, Supervisor, address, check_port
from shared import log, tracing
from shared.db import rows, tables
from shared.domain import Camera, Role
from shared.platform import Platform, open_platform
from shared.runtime import Stop
from shared.settings import Settings

BESIDE_END_S = 0.3
CLOSE_S = 0.5
"""The last of the five seconds in which a Ctrl-C ends everything (services/supervisor.py)."""


def state_lock(settings: Settings) -> StateLock:
    """The lock of a state folder: one `run all` at a time."""
    return StateLock(settings.state_dir / "lock", f"The state folder {settings.state_dir}")


def check_free(settings: Settings) -> None:
    """Fail before a long download when the folder or the port is taken."""
    lock = state_lock(settings)
    lock.acquire()
    lock.release()
    check_port(settings)


def run(
    settings: Settings, *, for_s: float | None, as_json: bool, demo: Demo | None = None
) -> None:
    """Run until told to stop, or for so long."""
    lock = state_lock(settings)
    lock.acquire()
    settings = with_port(settings)
    check_port(settings)
    tracing.configure(settings.tracing, "all", settings.instance)
    shows_table = sys.stdout.isatty() and not as_json
    quiet = shows_table or demo is not None
    logs = LogFile(
        settings.state_dir / "logs" / "lamppost.log", mirror=None if quiet else sys.stderr
    )
    log.configure(settings.log, stream=logs)
    try:
        summary = asyncio.run(_sit(settings, logs, for_s, as_json, demo))
    except BaseException:
        log.get("supervisor").critical("ended by an error", exc_info=True)
        raise
    finally:
        tracing.close()
        log.configure(settings.log)
        logs.close()
        lock.release()
    if summary is None:
        return
    if as_json:
        print(json.dumps(summary._asdict()), flush=True)
    else:
        text = ", ".join(f"{name} {value}" for name, value in summary._asdict().items())
        print(f"lamppost: ended. {text}", flush=True)


def with_port(settings: Settings) -> Settings:
    """Port 0 becomes a free one now, so that its address can be said before the api listens."""
    if settings.api.port != 0:
        return settings
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return settings.model_copy(update={"api": settings.api.model_copy(update={"port": port})})


async def _sit(
    settings: Settings, logs: LogFile, for_s: float | None, as_json: bool, demo: Demo | None
) -> RunSummary | None:
    stop = Stop()
    platform = await open_platform(settings)
    supervisor = Supervisor(settings, platform, logs)
    undo = on_signals(stop, supervisor.kill)
    try:
        supervisor.begin(stop)
        await supervisor.prepare()
        if demo is not None:
            await seed(platform, settings, demo.cameras)
        signs = await _signs(platform, settings, demo)
        collector = Collector(platform, settings, supervisor.board)
        display = table.Display(
            collector,
            signs,
            sys.stderr if as_json else sys.stdout,
            platform.clock,
            settings.spool.min_free_ratio,
        )
        beside = {asyncio.create_task(display.run(stop))}
        if demo is not None:
            # Only now that something records: no download may come before it.
            beside.add(asyncio.create_task(Provider(settings, platform.clock).run(stop)))
        ending = asyncio.create_task(_end_after(stop, supervisor, for_s))
        end_us = 0
        try:
            await supervisor.run(stop)
        finally:
            stop.set()
            end_us = await ending
            await asyncio.wait(beside, timeout=BESIDE_END_S)
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        return await supervisor.totals(end_us) if for_s is not None or as_json else None
    finally:
        stop.set()
        await supervisor.abandon()
        undo()
        # A purge under way may be deleting: what it has begun is finished at the next start.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await platform.close()


async def _end_after(stop: Stop, supervisor: Supervisor, for_s: float | None) -> int:
    """Set the stop when the time is over; when the stop was set, either way."""
    clock = supervisor.platform.clock
    if for_s is None:
        await stop.wait()
    elif not await stop.sleep(clock, for_s):
        supervisor.be_patient()
        stop.set()
    return clock.now_us()


async def _signs(platform: Platform, settings: Settings, demo: Demo | None) -> table.Signs:
    """Addresses and the one-time link of a first start."""
    from services.api.sessions import ensure_setup_link

    url = address(settings)
    roles = list(Role) if demo is not None else [Role.SYSADMIN]
    link = await ensure_setup_link(platform, roles=roles, base_url=url)
    if link is None:
        sign_in = [f"Sign in at {url}/ with your account (new ones: lamppost user add)."]
    else:
        what = "every role, because this is a demo" if demo is not None else "sysadmin"
        sign_in = [f"First sign-in, one time only ({what}):", f"  {link}"]
    return table.Signs(
        url=url,
        sign_in=sign_in,
        notes=demo.notes if demo is not None else (),
        timezone=settings.site.timezone,
        log_file=str(_relative(settings.state_dir / "logs" / "lamppost.log")),
    )


def _relative(path: Path) -> Path:
    """Shorter to read where it lies below the present folder."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path


async def seed(platform: Platform, settings: Settings, cameras: tuple[Camera, ...]) -> int:
    """Add the demo's cameras, or bring them up to date; how many were written.

    A camera that a person disabled or deleted keeps what the person decided.
    """
    from services.api.camera_store import add_cameras, change_camera

    async with platform.database.read() as connection:
        found = (await connection.execute(tables.camera.select())).mappings().all()
    present = {row["id"]: rows.camera_of(row) for row in found}
    new = [camera for camera in cameras if camera.id not in present]
    if new:
        await add_cameras(platform, settings, new)
    written = len(new)
    for camera in cameras:
        old = present.get(camera.id)
        if old is not None and _outdated(old, camera):
            await change_camera(platform, settings, camera.id, _as_the_demo(camera))
            written += 1
    return written


def _as_the_demo(wanted: Camera) -> Callable[[Camera], Camera]:
    return lambda camera: msgspec.structs.replace(
        camera, source=wanted.source, sample_fps=wanted.sample_fps
    )


def _outdated(present: Camera, wanted: Camera) -> bool:
    """Whether the demo replays other footage now, or samples it otherwise; a camera with a real
    source is left alone."""
    return (
        present.deleted_at_us is None
        and (present.source, present.sample_fps) != (wanted.source, wanted.sample_fps)
        and present.source.url.startswith("file:")
    )
