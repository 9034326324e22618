"""Where frames lie: a second store in memory, shared by the processes of one installation.

Recorders are child processes, so frames must cross processes; they may be lost, must never pile up,
and must not wait for a disk. So topic `frames` has its own small SQLite file on the memory file
system, without syncs, cut to a ring at each publish. See docs/decisions/0002-frames-in-memory.md.

A lock beside the durable log says who uses it: shared while a bus is open. Whoever gets it alone
removes what a killed run left: pictures of people outlive no run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from pathlib import Path

from shared.errors import Kind, LamppostError

RING_BYTES = 24 * 1024 * 1024
"""Most bytes of frames kept: 12 s of 24 cameras at 2 frames a second of 40 KB."""
MEMORY = Path("/dev/shm")
NEEDED_BYTES = 48 * 1024 * 1024
"""Free memory file system that the ring, its index and its write-ahead log may take."""


class FrameFolder:
    """The folder of the frame store while a bus is open. `acquire` and `release` block shortly."""

    def __init__(self, bus_path: Path, memory: Path = MEMORY) -> None:
        self._beside = bus_path.with_name(bus_path.name + ".frames")
        self.lock_path = bus_path.with_name(bus_path.name + ".frames.lock")
        self._memory = memory
        self._fd: int | None = None

    def acquire(self) -> Path:
        """The path of the frame store's file; its folder exists and is private to this user."""
        try:
            self.lock_path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.lock_path, os.O_RDWR | os.O_CREAT, 0o600)
            if _try_alone(self._fd):
                self._start_afresh()
            fcntl.flock(self._fd, fcntl.LOCK_SH)
            return self._chosen() / "frames.db"
        except OSError as error:
            self.release()
            raise LamppostError(
                Kind.UNAVAILABLE, f"The frame store cannot be made: {error}."
            ) from error

    def release(self) -> None:
        """Let go; the last to do so removes the frames."""
        if self._fd is None:
            return
        try:
            if _try_alone(self._fd):
                self._remove()
        finally:
            os.close(self._fd)
            self._fd = None

    def _start_afresh(self) -> None:
        self._remove()
        assert self._fd is not None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(self._choose()).encode(), 0)

    def _choose(self) -> Path:
        """Memory where there is room and nobody else can look in; else beside the log."""
        digest = hashlib.sha256(str(self.lock_path.resolve()).encode()).hexdigest()[:16]
        folder = self._memory / f"lamppost-{os.geteuid()}-{digest}"
        try:
            if shutil.disk_usage(self._memory).free < NEEDED_BYTES:
                return self._beside
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
            return folder
        except OSError:
            # Somebody else's folder of this name, or no such file system on this machine.
            return self._beside

    def _chosen(self) -> Path:
        """The folder that the first user wrote into the lock file, made if it is gone."""
        assert self._fd is not None
        text = os.pread(self._fd, 4096, 0).decode()
        folder = Path(text) if text else self._beside
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise LamppostError(
                Kind.FORBIDDEN,
                f"The frame folder {folder} is open to others.",
                fix="Stop everything, remove it, and start again.",
            )
        return folder

    def _remove(self) -> None:
        assert self._fd is not None
        text = os.pread(self._fd, 4096, 0).decode()
        for folder in {Path(text) if text else self._beside, self._beside}:
            if folder.name.startswith("lamppost-") or folder == self._beside:
                shutil.rmtree(folder, ignore_errors=True)


def _try_alone(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
