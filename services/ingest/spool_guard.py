"""Whether the spool has room: asked before each fragment, answered from a look once a second.

Full means stop and say so; nothing that was filed is ever deleted for room (invariant 5).
Recording begins again by itself with a little more room than it stopped at, so that it does not
flap. See docs/architecture.md, "ingest" and "archive".
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from shared import log, metrics
from shared.clock import SECOND_US, Clock
from shared.domain import GapReason
from shared.settings import Spool
from shared.spool import RecorderSpool

SLACK_RATIO = 0.005
RESUME_SHARE = 0.95
USAGE_INTERVAL_US = 5 * SECOND_US


class Room(NamedTuple):
    """Bytes of the volume."""

    free: int
    total: int


def room_of(path: Path) -> Room:
    """What the volume of `path` has for an ordinary user."""
    stat = os.statvfs(path)
    return Room(stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize)


class SpoolGuard:
    """Shared by the recorder threads of one process."""

    def __init__(
        self,
        settings: Spool,
        spool: RecorderSpool,
        clock: Clock,
        room: Callable[[Path], Room] = room_of,
    ) -> None:
        self._settings = settings
        self._spool = spool
        self._clock = clock
        self._room = room
        self._lock = threading.Lock()
        self._reason: GapReason | None = None
        self._refused = False
        self._looked_us: int | None = None
        self._usage_us: int | None = None
        self._usage = 0
        self._log = log.get("ingest.spool")

    def why_not(self) -> GapReason | None:
        """None when there is room, else why not: `spool_full` or `disk_low`."""
        now = self._clock.monotonic_us()
        with self._lock:
            if self._looked_us is None or now - self._looked_us >= SECOND_US:
                self._looked_us = now
                self._turn(self._look(now))
            return self._reason

    def wrote(self, size: int) -> None:
        """A fragment of so many bytes was written."""
        metrics.RECORDED_BYTES.inc(size)
        if self._settings.max_bytes is not None:
            with self._lock:
                self._usage += size

    def refused(self) -> None:
        """The volume refused a write."""
        with self._lock:
            self._refused = True
            self._looked_us = self._clock.monotonic_us()
            self._turn(GapReason.SPOOL_FULL)

    def _turn(self, reason: GapReason | None) -> None:
        """Take in an answer; a person is told when recording stops or may go on."""
        if reason is not self._reason:
            if reason is None:
                self._log.info("room in the spool again")
            else:
                fix = "Free disk space; recording goes on by itself."
                self._log.error("no room in the spool", reason=reason.value, fix=fix)
        self._reason = reason

    def _look(self, now: int) -> GapReason | None:
        stopped = self._reason is not None
        free, total = self._room(self._spool.dir)
        least = total * self._settings.min_free_ratio
        if self._refused:
            if free < least + total * SLACK_RATIO or free < 16 * 1024 * 1024:
                return GapReason.SPOOL_FULL
            self._refused = False
        if free < least + (total * SLACK_RATIO if stopped else 0):
            return GapReason.DISK_LOW
        most = self._settings.max_bytes
        if most is not None:
            if self._usage_us is None or now - self._usage_us >= USAGE_INTERVAL_US or stopped:
                self._usage_us = now
                self._usage = folder_bytes(self._spool.new) + folder_bytes(self._spool.tmp)
            if self._usage >= (most * RESUME_SHARE if stopped else most):
                return GapReason.SPOOL_FULL
        return None


def folder_bytes(folder: Path) -> int:
    """Bytes of the files directly inside."""
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                total += entry.stat().st_size
            except FileNotFoundError:
                continue
    return total
