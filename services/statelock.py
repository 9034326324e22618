"""One program per state folder: a lock that ends with its process, however it ends.

Recorders have one each, so that a restarted supervisor waits for the recorder of its killed
predecessor instead of writing beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from pathlib import Path
from typing import IO

from shared.clock import SECOND_US, Clock
from shared.errors import Kind, LamppostError

POLL_S = 0.05


class StateLock:
    """An exclusive lock on a file; held until `release` or the end of the process."""

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        self._what = what
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take it, or CONFLICT with the process that has it."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = self._path.open("a+", encoding="ascii")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read(20).strip() or "unknown"
            file.close()
            raise LamppostError(
                Kind.CONFLICT,
                f"{self._what} is in use by another Lamppost (process {owner}).",
                fix="Stop that one, or name another folder: LAMPPOST_STATE_DIR.",
                details={"process": owner},
            ) from error
        # Who has it is a courtesy: on a full disk the lock itself holds as well.
        with contextlib.suppress(OSError):
            os.ftruncate(file.fileno(), 0)
            os.pwrite(file.fileno(), str(os.getpid()).encode(), 0)
        self._file = file

    def acquire_within(self, clock: Clock, seconds: float) -> None:
        """Take it, waiting for another process to end first; blocks the calling thread."""
        deadline = clock.monotonic_us() + round(seconds * SECOND_US)
        while True:
            try:
                return self.acquire()
            except LamppostError:
                if clock.monotonic_us() >= deadline:
                    raise
                clock.wait(threading.Event(), POLL_S)

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
