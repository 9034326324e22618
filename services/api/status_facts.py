"""Gathers a status: one snapshot of the database, what recorders and detectors said last, and what
the desk keeps. Writes nothing. See services/api/status_routes.py."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from services.api import queries_coverage, status_holes, status_lost, times
from services.api import queries_status as stored
from services.api.context import ApiContext
from services.api.deps import Granted
from services.api.queries_status import CameraRow, Newest, Stuck, WaitingRow
from services.api.recorders import CameraState
from services.api.status_holes import CameraHoles, Known, NotRecorded
from services.api.status_judge import concerns
from services.api.status_models import (
    AnalystsOut,
    Away,
    CamerasOut,
    ClockOut,
    DeletionOut,
    EventsOut,
    Holes,
    Lost,
    ProcessOut,
    RoomOut,
    SpoolOut,
    StatusOut,
)
from shared import civil, presence
from shared.blobs import Usage
from shared.clock import HOUR_US, SECOND_US
from shared.coverage import Coverage
from shared.domain import RecordingState
from shared.errors import LamppostError
from shared.intervals import Interval
from shared.messages import RecorderStatus
from shared.presence import Process
from shared.standing import Standing
from shared.version import version

MAX_LISTED = 1_000
CHECK_AT_ONCE = 24
"""Where there are no more cameras than this, the question itself looks at those that the accountant
has not come to yet. More would cost a second, and he is round in five minutes."""
CLOCK_WRONG_US = 2 * SECOND_US
USAGE_TIMEOUT_S = 2.0


class Facts(NamedTuple):
    """What one status is made of."""

    now_us: int
    midnight_us: int
    cameras: Sequence[CameraRow]
    states: Mapping[str, CameraState]
    away: Mapping[str, NotRecorded]
    holes: Sequence[CameraHoles]
    waiting: Sequence[WaitingRow]
    newest: Newest
    hour: Coverage
    outbox: Stuck
    deliveries: Mapping[str, int]
    doubt: Sequence[str]
    standing: Standing
    letters: int | None
    store: Usage | None
    there: Sequence[Process]


async def gather(granted: Granted) -> StatusOut:
    """The status as this person may know it."""
    context = granted.context
    facts = await _facts(granted)
    subject = granted.principal.subject
    unlimited = subject.districts is None and subject.camera_ids is None
    found = StatusOut(
        at=times.text(facts.now_us, context.zone),
        site=context.settings.site.name,
        version=version(),
        timezone=context.settings.site.timezone,
        well=True,
        concerns=[],
        cameras=_cameras(context, facts),
        spools=_spools(context, facts) if unlimited else [],
        analysts=_analysts(context, facts),
        deletion=_deletion(context, facts),
        events=_events(context, facts),
        processes=_processes(context, facts.there) if unlimited else [],
        clock=_clock(facts),
        room=_room(context, facts),
    )
    found.concerns = concerns(found)
    found.well = not found.concerns
    return found


async def _facts(granted: Granted) -> Facts:
    context = granted.context
    platform, now_us = context.platform, context.now_us()
    midnight_us = civil.midnight_us(civil.local_date(now_us, context.zone), context.zone)
    day: Interval = (midnight_us, max(now_us, midnight_us + 1))
    standing, letters, store = await asyncio.gather(
        context.status.standing.read(), context.status.letters.read(), _usage(context)
    )
    async with platform.database.read() as connection:
        cameras = await stored.cameras(connection, granted.principal.subject)
        ids = [camera.id for camera in cameras]
        if len(ids) <= CHECK_AT_ONCE:
            await status_lost.catch_up(context, connection, ids)
        gaps = await stored.gaps(connection, ids, day)
        inside = await stored.recorded_inside(connection, ids, day) if gaps else {}
        waiting = await stored.waiting(connection, ids)
        newest = await stored.newest(connection, ids, now_us)
        hour = await queries_coverage.covered(
            connection, ids, (now_us - HOUR_US, now_us), now_us, None
        )
        outbox = await stored.outbox(connection)
        deliveries = await stored.deliveries(connection)
        doubt = await context.doubt(connection)
        there = await presence.read(platform, connection)
    states = context.recorders.states()
    away = status_holes.away(cameras, states)
    spooled: dict[str, list[Interval]] = {}
    for row in waiting:
        spooled.setdefault(row.camera_id, []).append((row.start_us, row.end_us))
    return Facts(
        now_us=now_us,
        midnight_us=midnight_us,
        cameras=cameras,
        states={name: state for name, state in states.items() if name in set(ids)},
        away=away,
        holes=status_holes.of_day(cameras, away, Known(gaps, inside, spooled), day),
        waiting=waiting,
        newest=newest,
        hour=hour,
        outbox=outbox,
        deliveries=deliveries,
        doubt=doubt.reasons,
        standing=standing,
        letters=letters,
        store=store,
        there=there,
    )


async def _usage(context: ApiContext) -> Usage | None:
    try:
        async with asyncio.timeout(USAGE_TIMEOUT_S):
            return await context.platform.blobs.usage()
    except (LamppostError, TimeoutError):
        return None


def _cameras(context: ApiContext, facts: Facts) -> CamerasOut:
    zone, now_us = context.zone, facts.now_us
    lost = context.status.lost
    mine = {item.id for item in facts.cameras}
    checked = {name: one for name, one in lost.items() if name in mine}
    unaccounted = sorted(
        ((name, one) for name, one in checked.items() if one.us), key=lambda item: -item[1].us
    )
    recording = RecordingState.RECORDING
    return CamerasOut(
        total=len(facts.cameras),
        enabled=sum(camera.enabled for camera in facts.cameras),
        recording=sum(
            not state.stale and state.status.state is recording for state in facts.states.values()
        ),
        away=[
            Away(
                camera_id=item.camera.id,
                name=item.camera.name,
                state=item.state,
                reason=item.reason,
                detail=item.detail,
                since=times.maybe_text(item.since_us, zone),
                seconds=(now_us - (item.since_us or item.camera.created_us)) / SECOND_US,
            )
            for item in list(facts.away.values())[:MAX_LISTED]
        ],
        away_count=len(facts.away),
        holes=[
            Holes(
                camera_id=item.camera.id,
                name=item.camera.name,
                seconds=item.total_us / SECOND_US,
                count=item.number,
                reason=item.reason,
                since=times.text(item.start_us, zone),
                until=times.maybe_text(item.end_us, zone),
            )
            for item in facts.holes[:MAX_LISTED]
        ],
        holes_count=len(facts.holes),
        holes_seconds=sum(item.total_us for item in facts.holes) / SECOND_US,
        unaccounted=[
            Lost(camera_id=name, seconds=one.us / SECOND_US, since=times.text(one.since_us, zone))
            for name, one in unaccounted[:MAX_LISTED]
        ],
        unaccounted_seconds=sum(one.us for _, one in unaccounted) / SECOND_US,
        unaccounted_cameras_checked=len(checked),
    )


def _spools(context: ApiContext, facts: Facts) -> list[SpoolOut]:
    """Recorders heard of, and those that are not but whose spool has something."""
    heard = {item.recorder: item for item in context.recorders.recorders()}
    spans: dict[str, list[WaitingRow]] = {}
    for row in facts.waiting:
        spans.setdefault(row.recorder, []).append(row)
    return sorted(
        (
            _spool(facts, name, heard.get(name), spans.get(name, ()))
            for name in heard.keys() | spans.keys()
        ),
        key=lambda item: (item.heard, -(item.oldest_s or 0.0), item.recorder),
    )[:MAX_LISTED]


def _spool(
    facts: Facts, name: str, said: RecorderStatus | None, rows: Sequence[WaitingRow]
) -> SpoolOut:
    spans = [(row.start_us, row.end_us) for row in rows]
    if said is not None:  # its own word is newer than the row that the archive makes of it
        spans = [(span.start_us, span.end_us) for span in said.waiting]
    bits = sum(
        state.status.bitrate_bps
        for state in facts.states.values()
        if state.status.recorder == name and not state.stale
    )
    oldest_us = min((start for start, _ in spans), default=None)
    return SpoolOut(
        recorder=name,
        heard=said is not None,
        said_s=_age_s(facts.now_us, said.at_us if said else max(row.at_us for row in rows)) or 0.0,
        cameras=len(said.cameras) if said else len({row.camera_id for row in rows}),
        items=said.spool_items if said else None,
        size_bytes=said.spool_bytes if said else None,
        free_bytes=said.free_bytes if said else None,
        lasts_s=said.free_bytes * 8 / bits if said and bits > 0 else None,
        waiting_s=sum(end - start for start, end in spans) / SECOND_US,
        oldest_s=None if oldest_us is None else max(0.0, (facts.now_us - oldest_us) / SECOND_US),
        stopped=said.stopped if said else False,
    )


def _age_s(now_us: int, at_us: int | None) -> float | None:
    return None if at_us is None else max(0.0, (now_us - at_us) / SECOND_US)


def _analysts(context: ApiContext, facts: Facts) -> AnalystsOut:
    hour = facts.hour
    decided = hour.analysed_us + hour.gated_us + hour.dropped_us + hour.unknown_us
    detectors = context.recorders.detectors()
    return AnalystsOut(
        newest_segment=times.maybe_text(facts.newest.segment_end_us, context.zone),
        segment_age_s=_age_s(facts.now_us, facts.newest.segment_end_us),
        newest_sighting=times.maybe_text(facts.newest.sighting_us, context.zone),
        sighting_age_s=_age_s(facts.now_us, facts.newest.sighting_us),
        hour_looked_share=(hour.analysed_us + hour.gated_us) / decided if decided else None,
        hour_dropped_share=hour.dropped_us / decided if decided else None,
        hour_unknown_share=hour.unknown_us / decided if decided else None,
        hour_pending_s=hour.pending_us / SECOND_US,
        detectors=len(detectors),
        detector_lag_s=max((item.lag_s for item in detectors if item.model), default=None),
        detector_detail=next((item.detail for item in detectors if item.detail), ""),
    )


def _deletion(context: ApiContext, facts: Facts) -> DeletionOut:
    stands = facts.standing
    return DeletionOut(
        last_run=times.maybe_text(stands.last_run_us, context.zone),
        last_run_age_s=_age_s(facts.now_us, stands.last_run_us),
        due_segments=stands.due_segments,
        overdue_segments=stands.overdue_segments,
        purged_segments=stands.purged_segments,
        held_segments=stands.held_segments,
        stopped=stands.stopped,
        stopped_detail=stands.stopped_detail,
        holds_in_force=stands.holds_active,
        holds_ending_soon=len(stands.holds_ending_soon),
    )


def _events(context: ApiContext, facts: Facts) -> EventsOut:
    return EventsOut(
        outbox_waiting=facts.outbox.waiting,
        outbox_age_s=_age_s(facts.now_us, facts.outbox.oldest_us),
        outbox_set_aside=facts.outbox.set_aside,
        dead_letters=facts.letters,
        webhooks_waiting=facts.deliveries.get("waiting", 0),
        webhooks_set_aside=facts.deliveries.get("dead", 0),
        newest_audit=times.maybe_text(facts.newest.audit_us, context.zone),
    )


def _processes(context: ApiContext, there: Sequence[Process]) -> list[ProcessOut]:
    """Those that have the database, by their rows; recorders and detect workers, by the bus; and
    the api that answers, which is there whatever its row says."""
    found = [
        ProcessOut(
            name=item.name,
            service=item.service,
            version=item.version,
            started=times.text(item.started_us, context.zone),
        )
        for item in there
    ]
    me = context.settings.instance
    if not any(item.name == me and item.service in ("api", "all") for item in found):
        found.append(ProcessOut(name=me, service="api", version=version()))
    found += [
        ProcessOut(
            name=item.recorder,
            service="ingest",
            version=item.version,
            detail=f"{len(item.cameras)} cameras",
        )
        for item in context.recorders.recorders()
    ]
    found += [
        ProcessOut(
            name=item.worker,
            service="detect",
            version=item.version,
            detail=f"{item.model} ({item.precision})" if item.model else "no model",
        )
        for item in context.recorders.detectors()
    ]
    return sorted(found, key=lambda item: (item.service, item.name))[:MAX_LISTED]


def _clock(facts: Facts) -> ClockOut:
    offsets = {
        name: state.status.clock_offset_us
        for name, state in facts.states.items()
        if not state.stale and state.status.clock_offset_us is not None
    }
    worst = max(offsets, key=lambda name: abs(offsets[name]), default=None)
    return ClockOut(
        doubt=list(facts.doubt),
        camera_id=worst,
        camera_offset_s=None if worst is None else offsets[worst] / SECOND_US,
        cameras_wrong=sum(abs(offset) > CLOCK_WRONG_US for offset in offsets.values()),
    )


def _room(context: ApiContext, facts: Facts) -> RoomOut:
    disk = shutil.disk_usage(context.settings.state_dir)
    return RoomOut(
        store_free_bytes=facts.store.free_bytes if facts.store else None,
        store_total_bytes=facts.store.total_bytes if facts.store else None,
        disk_free_bytes=disk.free,
        disk_total_bytes=disk.total,
    )
