"""Which cameras have holes today, why and since when; which are not recorded now. Pure.

A hole is time of a gap row that neither a segment nor a recorder's spool has; and, of a camera that
is not recorded now, the time since then, whose row comes when it ends. The order of claims is the
ledger's (shared/ledger.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from services.api.queries_status import CameraRow, GapRow
from services.api.recorders import CameraState
from shared import intervals
from shared.clock import SECOND_US
from shared.domain import GapReason, RecordingState
from shared.intervals import Interval

LEAST_US = SECOND_US // 2
"""Less than this between two rows is rounding and no hole."""
FINE = frozenset({RecordingState.RECORDING, RecordingState.DISABLED, RecordingState.MAINTENANCE})
"""States that need nobody: what is planned is no fault."""
PLANNED = frozenset({GapReason.DISABLED.value, GapReason.MAINTENANCE.value})
UNHEARD = "recorder_down"
UNKNOWN = "unknown"


class NotRecorded(NamedTuple):
    """A camera that should be recorded and is not. `since_us` None: nobody ever spoke of it."""

    camera: CameraRow
    state: str
    reason: str
    detail: str
    since_us: int | None


class CameraHoles(NamedTuple):
    """One camera's holes of the day. `end_us` None: the last goes on."""

    camera: CameraRow
    total_us: int
    number: int
    reason: str
    start_us: int
    end_us: int | None


def away(cameras: Sequence[CameraRow], states: Mapping[str, CameraState]) -> dict[str, NotRecorded]:
    """The cameras that should be recorded and are not, by id, those away longest first."""
    found = []
    for camera in cameras:
        known = states.get(camera.id)
        if not camera.enabled:
            continue
        if known is None:
            found.append(NotRecorded(camera, UNKNOWN, "", "", None))
        elif known.stale:
            found.append(NotRecorded(camera, UNKNOWN, UNHEARD, "", known.status.at_us))
        elif known.status.state not in FINE:
            status = known.status
            reason = status.reason.value if status.reason else ""
            found.append(
                NotRecorded(camera, status.state.value, reason, status.detail, status.since_us)
            )
    found.sort(key=lambda item: (item.since_us or 0, item.camera.id))
    return {item.camera.id: item for item in found}


class Known(NamedTuple):
    """What rows say of the day, by camera."""

    gaps: Sequence[GapRow]
    recorded: Mapping[str, Sequence[Interval]]
    waiting: Mapping[str, Sequence[Interval]]


def of_day(
    cameras: Sequence[CameraRow], missing: Mapping[str, NotRecorded], known: Known, day: Interval
) -> list[CameraHoles]:
    """The holes of [midnight, now), worst first: those that go on, then the longest; last what
    somebody wanted."""
    gaps: dict[str, list[GapRow]] = {}
    for gap in known.gaps:
        gaps.setdefault(gap.camera_id, []).append(gap)
    found = []
    for camera in cameras:
        spans = list(gaps.get(camera.id, ()))
        gone = missing.get(camera.id)
        if gone is not None:
            last_us = max((gap.end_us for gap in spans), default=day[0])
            since_us = max(gone.since_us or camera.created_us, day[0], last_us)
            spans.append(GapRow(camera.id, since_us, day[1], gone.reason or gone.state))
        if not spans:
            continue
        had = [*known.recorded.get(camera.id, ()), *known.waiting.get(camera.id, ())]
        if (one := _of_camera(camera, spans, had, day, gone is not None)) is not None:
            found.append(one)
    return sorted(found, key=_worst_first)


def _worst_first(one: CameraHoles) -> tuple[bool, bool, int, str]:
    return one.reason in PLANNED, one.end_us is not None, -one.total_us, one.camera.id


def _of_camera(
    camera: CameraRow, gaps: Sequence[GapRow], had: Sequence[Interval], day: Interval, is_away: bool
) -> CameraHoles | None:
    left: list[Interval] = [(max(day[0], camera.created_us), day[1])]
    left = intervals.subtract(left, had)
    by_reason: dict[str, int] = {}
    mine: list[Interval] = []
    for gap in sorted(gaps, key=lambda item: (item.reason, item.start_us)):
        taken = intervals.intersect(left, [gap.span])
        left = intervals.subtract(left, taken)
        mine += taken
        by_reason[gap.reason] = by_reason.get(gap.reason, 0) + intervals.total(taken)
    holes = [span for span in intervals.union(mine) if span[1] - span[0] >= LEAST_US]
    if not holes:
        return None
    goes_on = is_away and holes[-1][1] >= day[1]
    return CameraHoles(
        camera,
        intervals.total(holes),
        len(holes),
        max(by_reason, key=lambda reason: (by_reason[reason], reason)),
        holes[0][0],
        None if goes_on else holes[-1][1],
    )
