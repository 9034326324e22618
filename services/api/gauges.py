"""Gauges that only the api can set, because it knows all cameras: which are not recorded, since
when and why, also where no recorder is left to say so. And how full the volume of the state is.

What recorders said last (recorders.py) is laid beside the cameras there are. See
docs/runbooks/README.md.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from services.api import queries
from services.api.context import ApiContext
from services.api.recorders import CameraState
from shared import log, metrics
from shared.clock import SECOND_US
from shared.domain import GapReason, RecordingState
from shared.errors import LamppostError
from shared.runtime import Stop

LOOK_S = 10.0
MAX_CAMERAS = 20_000
UNKNOWN = "unknown"
STATES = (*(state.value for state in RecordingState), UNKNOWN)


class Hole(NamedTuple):
    """A camera that should be recorded and is not."""

    reason: str
    since_us: int


class Gauges:
    """Sets them every `LOOK_S`; `run_once` does so once."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._cameras: dict[str, bool] = {}
        self._holes: dict[str, Hole] = {}
        self._log = log.get("api.gauges")

    async def run(self, stop: Stop) -> None:
        """Until the stop. A database that is away costs only what changed there since."""
        while not stop.is_set:
            await self.run_once()
            await stop.sleep(self._context.clock, LOOK_S)

    async def run_once(self) -> None:
        """Look at everything once."""
        try:
            async with self._context.platform.database.read() as connection:
                self._cameras = await queries.camera_switches(connection, MAX_CAMERAS)
        except LamppostError as error:
            self._log.warning("cameras as they were", cause=str(error))
        self._show(self._context.recorders.states())
        try:
            await asyncio.to_thread(_measure, self._context.settings.state_dir)
        except OSError as error:
            self._log.warning("the state's volume cannot be measured", cause=str(error))

    def _show(self, states: Mapping[str, CameraState]) -> None:
        now_us = self._context.now_us()
        count = Counter(
            _state_of(states.get(camera_id), enabled=enabled)
            for camera_id, enabled in self._cameras.items()
        )
        for state in STATES:
            metrics.CAMERAS.labels(state).set(count[state])
        holes = {}
        for camera_id, enabled in self._cameras.items():
            hole = hole_of(states.get(camera_id), now_us) if enabled else None
            if hole is not None:
                # Trying again is no new hole, though the state is a new one.
                before = self._holes.get(camera_id, hole)
                holes[camera_id] = hole._replace(since_us=min(hole.since_us, before.since_us))
        for camera_id, before in self._holes.items():
            if camera_id not in holes or holes[camera_id].reason != before.reason:
                metrics.CAMERA_HOLE_SINCE.remove(camera_id, before.reason)
        for camera_id, hole in holes.items():
            gauge = metrics.CAMERA_HOLE_SINCE.labels(camera_id, hole.reason)
            gauge.set(hole.since_us / SECOND_US)
        self._holes = holes


def _state_of(state: CameraState | None, *, enabled: bool) -> str:
    if not enabled:
        return RecordingState.DISABLED.value
    return UNKNOWN if state is None or state.stale else state.status.state.value


def hole_of(state: CameraState | None, now_us: int) -> Hole | None:
    """Why an enabled camera is not recorded; None while it is. Who is silent is down, since the
    last word, whatever it was."""
    if state is None:
        return Hole(GapReason.RECORDER_DOWN.value, now_us)
    status = state.status
    if state.stale:
        return Hole(GapReason.RECORDER_DOWN.value, status.at_us)
    if status.state is RecordingState.RECORDING:
        return None
    reason = status.reason
    if reason is None:
        connecting = status.state is RecordingState.CONNECTING
        reason = GapReason.CONNECTING if connecting else GapReason.RECORDER_STOPPED
    return Hole(reason.value, status.since_us)


def _measure(folder: Path) -> None:
    room = os.statvfs(folder)
    total = max(1, room.f_blocks * room.f_frsize)
    free = room.f_bavail * room.f_frsize
    metrics.DISK_BYTES.labels("state").set(total)
    metrics.DISK_FREE_BYTES.labels("state").set(free)
    metrics.DISK_FREE_RATIO.labels("state").set(free / total)
