"""`lamppost doctor`: what is wrong with this machine, and what to do about it."""

from __future__ import annotations

import asyncio
import importlib
import os
import platform as machine
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from services.statelock import StateLock
from shared.clock import SECOND_US, SystemClock
from shared.errors import LamppostError
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.blobs.s3_probe import Capabilities
    from shared.db.postgres_state import State

Verdict = Literal["ok", "warning", "wrong"]
MIN_OPEN_FILES = 4_096
MIN_POSTGRES = 150_000
"""PostgreSQL 15, as the server says its version."""
MIN_FREE_BYTES = 5_000_000_000
WHEELS = ("av", "simplejpeg", "numpy", "msgspec", "aiosqlite", "argon2", "uvicorn", "PIL")


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    verdict: Verdict
    detail: str
    fix: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Look at everything; never raises, because a check that fails is a finding."""
    checks: Sequence[tuple[str, Callable[[Settings], Finding]]] = (
        ("python", python),
        ("packages", wheels),
        ("ffmpeg libraries", media),
        ("sqlite", sqlite_library),
        ("state folder", state_folder),
        ("database", database),
        ("object store", object_store),
        ("disk", disk),
        ("memory", memory),
        ("open files", open_files),
        ("clock", clock),
        ("time zone", timezone),
        ("port", port),
        ("detection model", model),
    )
    found = []
    for name, look in checks:
        try:
            found.append(look(settings))
        except Exception as error:
            found.append(Finding(name, "warning", f"could not be looked at: {error!r}"))
    return found


def python(_settings: Settings) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 14):
        return Finding("python", "ok", f"{version}, {machine.system()} {machine.machine()}")
    return Finding("python", "wrong", version, "Use Python 3.11, 3.12 or 3.13.")


def wheels(_settings: Settings) -> Finding:
    missing = []
    for name in WHEELS:
        try:
            importlib.import_module(name)
        except Exception as error:
            missing.append(f"{name} ({error})")
    if missing:
        return Finding("packages", "wrong", f"not usable: {', '.join(missing)}", "Run make run.")
    return Finding("packages", "ok", f"{len(WHEELS)} compiled packages load")


def media(_settings: Settings) -> Finding:
    import av

    names = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    missing = [name for name in ("h264", "hevc") if name not in av.codecs_available]
    detail = f"PyAV {av.__version__}, libavformat {names.get('libavformat', '?')}"
    if missing:
        return Finding("ffmpeg libraries", "wrong", f"{detail}; no decoder {missing}", "make clean")
    return Finding("ffmpeg libraries", "ok", detail)


def sqlite_library(_settings: Settings) -> Finding:
    version = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info < (3, 37):
        return Finding("sqlite", "wrong", version, "Use a Python with SQLite 3.37 or newer.")
    return Finding("sqlite", "ok", version)


def state_folder(settings: Settings) -> Finding:
    folder = settings.state_dir
    if not folder.exists():
        parent = next(path for path in (folder, *folder.resolve().parents) if path.exists())
        if not os.access(parent, os.W_OK):
            return Finding("state folder", "wrong", f"{parent} is not writable", "Choose another.")
        return Finding("state folder", "ok", f"{folder} is made at the first start")
    if not os.access(folder, os.W_OK):
        return Finding("state folder", "wrong", f"{folder} is not writable", "Change its owner.")
    kind = _filesystem(folder)
    if kind in ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"):
        return Finding(
            "state folder",
            "wrong",
            f"{folder} is on {kind}",
            "Put it on a local disk: SQLite's locks do not hold over a network.",
        )
    if kind in ("tmpfs", "ramfs"):
        return Finding("state folder", "warning", f"{folder} is in memory and ends with it")
    return Finding("state folder", "ok", f"{folder}{f' on {kind}' if kind else ''}")


def _filesystem(folder: Path) -> str:
    """The type of the file system below a folder; empty where the system does not say."""
    best, kind = "", ""
    try:
        lines = Path("/proc/self/mounts").read_text("utf-8").splitlines()
    except OSError:
        return ""
    path = str(folder.resolve())
    for line in lines:
        _, mount, found, *_ = line.split()
        inside = path == mount or path.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, found
    return kind


def database(settings: Settings) -> Finding:
    """Whether a PostgreSQL is reached and fit, how far its clock is off, and what it holds."""
    if settings.stores.database != "postgresql":
        return Finding("database", "ok", "SQLite in the state folder")
    try:
        state, apart_s = asyncio.run(_looked(settings))
    except LamppostError as error:
        return Finding("database", "wrong", error.message, error.fix)
    return judged(state, apart_s, settings.retention.max_clock_error_s)


async def _looked(settings: Settings) -> tuple[State, float]:
    from shared.db import postgres, postgres_state

    here = SystemClock()
    opened = postgres.open_database(settings, here)
    try:
        state = await postgres_state.look(opened)
        return state, (state.now_us - here.now_us()) / SECOND_US
    finally:
        await opened.close()


def judged(state: State, apart_s: float, most_s: float) -> Finding:
    """The finding about a PostgreSQL whose clock is `apart_s` before this machine's."""
    from shared.db import revisions

    what, version = "database", f"PostgreSQL {state.version_num // 10_000}"
    if state.version_num < MIN_POSTGRES:
        return Finding(what, "wrong", version, "Use PostgreSQL 15 or newer.")
    detail = f"{version}, schema {state.revision or 'not made yet'}"
    if abs(apart_s) > most_s:
        fix = "Synchronise both clocks: deletion waits until they agree."
        return Finding(what, "wrong", f"{detail}; its clock is {apart_s:+.0f} s off", fix)
    if not state.revision:
        return Finding(what, "ok", f"{detail}: the first start makes it")
    if state.revision not in revisions.known():
        fix = "Update this program: the database was migrated by a newer one."
        return Finding(what, "warning", f"{detail}, which this program does not know", fix)
    if state.revision != revisions.head():
        fix = "The next start migrates it."
        return Finding(what, "warning", f"{detail}, of an older program", fix)
    if state.days_ahead < 1:
        fix = "Start the archive, which makes them; rows of a day without one wait for it."
        return Finding(what, "warning", f"{detail}; no partitions for tomorrow", fix)
    return Finding(what, "ok", f"{detail}, partitions for {state.days_ahead} days to come")


def object_store(settings: Settings) -> Finding:
    """What an S3 store was found to be able to do, and how far its clock is off."""
    what = "object store"
    if settings.stores.blobs != "s3":
        return Finding(what, "ok", f"files in {settings.path(settings.stores.blobs_dir)}")
    try:
        found, apart_s = asyncio.run(_probed(settings))
    except LamppostError as error:
        return Finding(what, "wrong", error.message, error.fix)
    lacks = f"; lacks {', '.join(found.lacks)}" if found.lacks else ""
    detail = f"{found.server or 'S3'}{lacks}; lifecycle: {found.lifecycle}"
    if settings.s3.vault_bucket and found.vault != "ready":
        fix = "Use a store with object lock, or leave s3.vault_bucket empty."
        return Finding(what, "wrong", f"{detail}; no evidence vault: {found.vault}", fix)
    if abs(apart_s) > settings.retention.max_clock_error_s:
        fix = "Synchronise both clocks: deletion waits until they agree."
        return Finding(what, "wrong", f"{detail}; its clock is {apart_s:+.0f} s off", fix)
    return Finding(what, "ok", detail)


async def _probed(settings: Settings) -> tuple[Capabilities, float]:
    from shared.blobs.s3 import S3Blobs

    here = SystemClock()
    blobs = S3Blobs(settings, here)
    try:
        found = await blobs.ready()
        return found, (await blobs.time_us() - here.now_us()) / SECOND_US
    finally:
        await blobs.close()


def disk(settings: Settings) -> Finding:
    folder = settings.state_dir
    place = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    usage = shutil.disk_usage(place)
    ratio = usage.free / usage.total
    detail = f"{usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB free ({ratio:.0%})"
    if ratio <= settings.spool.min_free_ratio:
        return Finding("disk", "wrong", detail, "Recording stops here: make room.")
    if usage.free < MIN_FREE_BYTES:
        return Finding("disk", "warning", detail, "The demo records about 75 GB a day.")
    return Finding("disk", "ok", detail)


def memory(_settings: Settings) -> Finding:
    import psutil

    available = psutil.virtual_memory().available
    detail = f"{available / 1e9:.1f} GB available, {os.cpu_count()} cores"
    if available < 1_000_000_000:
        return Finding("memory", "warning", detail, "Fifteen cameras want about 1 GB.")
    return Finding("memory", "ok", detail)


def open_files(_settings: Settings) -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MIN_OPEN_FILES:
        fix = f"ulimit -n {MIN_OPEN_FILES}"
        return Finding("open files", "warning", f"{soft} of {hard}", fix)
    return Finding("open files", "ok", str(soft))


def clock(_settings: Settings) -> Finding:
    """Deletion trusts the clock, so an undisciplined one is worth a word."""
    if shutil.which("timedatectl"):
        answer = _output("timedatectl", "show", "--property=NTPSynchronized", "--value")
        if answer == "yes":
            return Finding("clock", "ok", "synchronised")
        if answer == "no":
            return Finding(
                "clock", "warning", "not synchronised", "Start systemd-timesyncd or chrony."
            )
    if shutil.which("chronyc") and "Normal" in _output("chronyc", "tracking"):
        return Finding("clock", "ok", "synchronised by chrony")
    return Finding(
        "clock", "warning", "the machine does not say whether its clock is synchronised",
        "In a container that is normal; see to it on the host.",
    )  # fmt: skip


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def timezone(settings: Settings) -> Finding:
    from shared import civil

    civil.zone(settings.site.timezone)
    return Finding("time zone", "ok", f"recording dates are of {settings.site.timezone}")


def port(settings: Settings) -> Finding:
    address = f"{settings.api.host}:{settings.api.port}"
    # Everything in one process, or the api alone (services/one.py).
    for name in ("lock", f"run/{settings.instance}-api.lock"):
        if owner := _holder(settings.state_dir / name):
            return Finding("port", "ok", f"{address}; Lamppost is running (process {owner})")
    family = socket.AF_INET6 if ":" in settings.api.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.api.host, settings.api.port))
        except OSError as error:
            fix = "Choose another: LAMPPOST_API__PORT=8601."
            return Finding("port", "wrong", f"{address}: {error.strerror}", fix)
    return Finding("port", "ok", f"{address} is free")


def _holder(path: Path) -> str:
    """The process that has this lock, empty where none has."""
    if not path.exists():
        return ""
    lock = StateLock(path, "It")
    try:
        lock.acquire()
    except LamppostError as error:
        return str(error.details.get("process", "?"))
    lock.release()
    return ""


def model(settings: Settings) -> Finding:
    """Without one recording runs, and nothing is detected."""
    from services.models_setup import store

    detect, what = settings.detect, "detection model"
    if detect.workers == 0:
        return Finding(what, "ok", "detection is off (detect.workers is 0)")
    try:
        found = store(settings).find(detect.model, detect.model_sha256)
    except LamppostError as error:
        return Finding(what, "warning", error.message, error.fix)
    licence = found.card.licence if found.card else "no card"
    return Finding(what, "ok", f"{found.name} ({licence}), its hash is right")
