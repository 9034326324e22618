"""A damaged log: noticed, moved aside by the next who opens it alone, and made anew.

A bus that cannot be read would keep every recorder from its cameras. What is lost with it is told
in docs/decisions/0004-lost-bus.md: no footage, no row, no event that still stands in an outbox.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from pathlib import Path

from shared.messages import CAMERAS

VITAL = ("meta", "partition_end", "committed", "grp", "member", "owner")
"""Small tables that every member reads; with the cameras, what recording depends on."""


def read_vital(c: sqlite3.Connection) -> None:
    """Read through what recording depends on: an error of SQLite says that it is damaged. Costs
    time with the number of cameras, not with the size of the log."""
    for table in VITAL:
        for _ in c.execute(f"SELECT * FROM {table}"):
            pass
    for _ in c.execute("SELECT * FROM record WHERE topic = ?", (CAMERAS.name,)):
        pass


def mark(path: Path) -> None:
    """Remember that the log was found damaged while it was in use."""
    with contextlib.suppress(OSError):
        _marker(path).touch()


def is_marked(path: Path) -> bool:
    return _marker(path).exists()


def file_id(path: Path) -> int | None:
    """Tells the file from one that is made anew in its place; None when there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def set_aside(path: Path, found: int | None, lock_path: Path, now_us: int) -> Path | None:
    """Move the log that was `found` damaged, and its companions, to another name, which is
    returned; None when another process has it open, or was faster. `lock_path` is the lock that
    every open bus holds shared (shared/bus/frames.py)."""
    fd = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    else:
        if file_id(path) != found:
            return None
        target = path.with_name(f"{path.name}.damaged-{now_us}")
        # The log last: a crash in between leaves a log without its companions, or with them.
        for ending in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + ending).replace(target.with_name(target.name + ending))
        _marker(path).unlink(missing_ok=True)
        return target
    finally:
        os.close(fd)


def _marker(path: Path) -> Path:
    return path.with_name(path.name + ".is-damaged")
