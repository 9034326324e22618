"""Counts unaccounted camera-seconds of the last 24 hours, and says so (invariant 6).

A second without a row is nobody's: no reader fills it in, so somebody must be told. One camera is
looked at in each step, in turn, so that a step's cost does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.api import ledger_routes, queries
from services.api.context import ApiContext
from services.api.status_desk import Lost
from shared import ledger, log, metrics
from shared.clock import DAY_US, SECOND_US
from shared.domain import Camera
from shared.errors import LamppostError
from shared.ledger import Ledger
from shared.runtime import Stop

ROUND_S = 300.0
"""Every camera is looked at about once in this time."""
MAX_CAMERAS = 20_000
ALARM_US = SECOND_US
"""Less than a second between two rows is rounding, not a loss."""
REASONS = 3
"""Reasons of a camera's gaps that its gauge names; the others are added up."""
OTHER, UNACCOUNTED = "other", "unaccounted"


class Accountant:
    """Goes round the cameras; `run_once` looks at the next one."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._waiting: list[Camera] = []
        self._found: dict[str, int] = {}
        self._shown: dict[str, set[str]] = {}
        """Of each camera the reasons that its gauge has."""
        self._pause_s = 60.0
        self._log = log.get("api.accounting")

    async def run(self, stop: Stop) -> None:
        """Look at one camera after another until the stop; an error costs one step."""
        while not await stop.sleep(self._context.clock, self._pause_s):
            try:
                await self.run_once()
            except LamppostError as error:
                self._log.warning("retrying", cause=str(error))

    async def run_once(self) -> int | None:
        """Unaccounted microseconds of the next camera, None when there is no camera."""
        if not self._waiting:
            await self._begin_round()
        if not self._waiting:
            return None
        camera = self._waiting.pop()
        found = await self._account(camera)
        lost_us = unaccounted_us(found)
        self._show(camera.id, missing_s(found))
        before_us = self._found.get(camera.id, 0)
        self._found[camera.id] = lost_us
        self._context.status.lost[camera.id] = Lost.of(found, self._context.now_us())
        metrics.UNACCOUNTED_SECONDS.set(sum(self._found.values()) / SECOND_US)
        if lost_us > before_us:
            self._log.error("unaccounted seconds", camera=camera.id, seconds=lost_us / SECOND_US)
        return lost_us

    async def _account(self, camera: Camera) -> Ledger:
        """Of the 24 hours until now."""
        context = self._context
        now_us = context.now_us()
        async with context.platform.database.read() as connection:
            facts = await ledger_routes.facts_of_day(
                context, connection, camera, now_us - DAY_US, now_us
            )
        return ledger.account(
            now_us - DAY_US,
            now_us,
            facts,
            now_us=now_us,
            pending_us=ledger_routes.pending_us(context),
        )

    def _show(self, camera_id: str, missing: Mapping[str, float]) -> None:
        for reason in self._shown.get(camera_id, set()) - missing.keys():
            metrics.CAMERA_MISSING.remove(camera_id, reason)
        for reason, seconds in missing.items():
            metrics.CAMERA_MISSING.labels(camera_id, reason).set(seconds)
        self._shown[camera_id] = set(missing)

    async def _begin_round(self) -> None:
        async with self._context.platform.database.read() as connection:
            self._waiting = await queries.cameras(
                connection, None, queries.CameraFilter(), None, MAX_CAMERAS
            )
        present = {camera.id for camera in self._waiting}
        self._found = {name: us for name, us in self._found.items() if name in present}
        for camera_id in self._shown.keys() - present:
            self._show(camera_id, {})
            del self._shown[camera_id]
        self._pause_s = ROUND_S / max(1, len(self._waiting))


def unaccounted_us(found: Ledger) -> int:
    """What nobody accounts for, in stretches of a second or more."""
    return sum(
        entry.end_us - entry.start_us
        for entry in found.entries
        if entry.kind is ledger.Kind.UNACCOUNTED and entry.end_us - entry.start_us >= ALARM_US
    )


def missing_s(found: Ledger) -> dict[str, float]:
    """Seconds without footage by reason: the longest by name, the rest together."""
    gaps = sorted(found.gaps_us().items(), key=lambda gap: -gap[1])
    by_reason = dict(gaps[:REASONS])
    if rest_us := sum(us for _, us in gaps[REASONS:]):
        by_reason[OTHER] = rest_us
    if lost_us := unaccounted_us(found):
        by_reason[UNACCOUNTED] = lost_us
    return {reason: us / SECOND_US for reason, us in by_reason.items()}
