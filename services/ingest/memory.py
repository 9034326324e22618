"""Which cameras this recorder last recorded, on its own volume: for a start while the bus is away.

Those that run record on without a coordinator; one that starts then would stand still for as long
as the bus is away, though all that it needs is here. So it records what it last had until it is
told otherwise. Another recorder may have taken a camera over meanwhile: then both record it, each
under its own epoch, and the index counts each instant once. What this recorder handed over, and
what it last had over a day ago, it does not take up: it knows too little of that (decision 0015).

Holds no secret: a camera's configuration only names its own. Blocking: called on a thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from shared import log
from shared.clock import DAY_US, SECOND_US, Clock
from shared.domain import Camera
from shared.spool import write_atomic

FRESH_US = DAY_US
"""As long as topic `camera-status` keeps words: older ones are of another life."""
RENEW_US = 600 * SECOND_US
"""So often it is written again that this is still so."""
MAX_BYTES = 16 * 1024 * 1024
FORMAT = 1


class _Kept(msgspec.Struct, frozen=True):
    format: int
    at_us: int
    cameras: list[Camera]


class CameraMemory:
    """One recorder's, in its folder of the spool. Used by one task."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._path = folder / "cameras"
        self._clock = clock
        self._kept: list[Camera] | None = None
        self._kept_us = 0
        self._log = log.get("ingest.assignment")

    def is_due(self, recording: Iterable[Camera]) -> bool:
        """Whether `keep` would write. Does not block."""
        age_us = self._clock.monotonic_us() - self._kept_us
        return self._kept is None or age_us >= RENEW_US or list(recording) != self._kept

    def keep(self, recording: Iterable[Camera]) -> None:
        """Remember that the group gave this recorder these cameras. A volume that takes nothing
        costs only the memory."""
        cameras = list(recording)
        self._kept, self._kept_us = cameras, self._clock.monotonic_us()
        kept = _Kept(FORMAT, self._clock.now_us(), cameras)
        try:
            write_atomic(self._path, msgspec.json.encode(kept))
        except OSError as error:
            self._log.warning("the cameras cannot be remembered", cause=str(error))

    def recall(self) -> list[Camera]:
        """The cameras that this recorder last had; none where it does not know, or not of today."""
        try:
            if self._path.stat().st_size > MAX_BYTES:
                return []
            kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError) as error:
            self._log.warning("remembered cameras cannot be read", cause=str(error))
            return []
        age_us = self._clock.now_us() - kept.at_us
        return kept.cameras if kept.format == FORMAT and 0 <= age_us < FRESH_US else []
