"""What the live table and the closing summary say: facts out of the database and `camera-status`.

Read only. The rows of the database are the truth; the status messages add what has no row yet (the
state of a camera now, the segment that is being written).
"""

from __future__ import annotations

import shutil
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.board import Board, Detection
from shared import intervals, standing
from shared.clock import DAY_US, SECOND_US
from shared.db import rows, tables
from shared.domain import RecordingState
from shared.messages import StatusChanged
from shared.platform import Platform
from shared.settings import Settings

MAX_CAMERAS = 10_000
STANDING_EVERY_US = 5 * SECOND_US
END_SLACK_US = 5 * SECOND_US
"""Playback's promise: what is older than this has a row once everything is filed."""


class CameraFacts(NamedTuple):
    """One line of the table. Times in microseconds; `day_bytes` at the present rate."""

    id: str
    name: str
    site_kind: str
    state: str
    reason: str
    recorded_us: int
    gap_us: int
    day_bytes: int
    oldest_us: int | None
    fps: float


class Facts(NamedTuple):
    """Everything the table shows."""

    at_us: int
    cameras: tuple[CameraFacts, ...]
    spool_items: int
    spool_bytes: int
    disk_total: int
    disk_free: int
    day_bytes: int
    days_left: float | None
    oldest_us: int | None
    holds: int
    held: int
    purged: int
    purged_bytes: int
    overdue: int
    sightings: int
    stopped: str
    detection: Detection = Detection()

    @property
    def recording(self) -> int:
        return sum(camera.state == RecordingState.RECORDING for camera in self.cameras)


class Collector:
    """Makes `Facts`. The first call remembers what was recorded before this program began."""

    def __init__(self, platform: Platform, settings: Settings, board: Board) -> None:
        self._platform = platform
        self._settings = settings
        self._board = board
        self._before: dict[str, int] | None = None
        self._standing: standing.Standing | None = None
        self._stale_us = round(3 * settings.ingest.status_interval_s * SECOND_US)

    async def _standing_now(self, now_us: int) -> standing.Standing:
        """Retention's figures, at most `STANDING_EVERY_US` old: they cost a pass over the held."""
        known = self._standing
        if known is None or not 0 <= now_us - known.at_us < STANDING_EVERY_US:
            known = self._standing = await standing.read(self._platform)
        return known

    async def collect(self) -> Facts:
        now = self._platform.clock.now_us()
        async with self._platform.database.read() as connection:
            cameras = await _cameras(connection)
            ledger = await _ledger(connection)
            gaps = await _gap_us(connection, now - DAY_US, now)
            oldest = await _oldest(connection)
            sightings = await _sightings(connection, 0)
        if self._before is None:
            self._before = {camera_id: recorded for camera_id, (recorded, _) in ledger.items()}
        facts = tuple(
            self._camera(now, camera_id, name, kind, enabled, ledger, gaps, oldest)
            for camera_id, name, kind, enabled in cameras
        )
        stands = await self._standing_now(now)
        total, free = _disk(self._settings)
        day_bytes = sum(item.day_bytes for item in facts)
        return Facts(
            at_us=now,
            cameras=facts,
            spool_items=sum(item.spool_items for item in self._board.recorders.values()),
            spool_bytes=sum(item.spool_bytes for item in self._board.recorders.values()),
            disk_total=total,
            disk_free=free,
            day_bytes=day_bytes,
            days_left=days_left(total, free, day_bytes, self._settings.spool.min_free_ratio),
            oldest_us=min((time for time in oldest.values()), default=None),
            holds=stands.holds_active,
            held=stands.held_segments,
            purged=stands.purged_segments,
            purged_bytes=stands.purged_bytes,
            overdue=stands.overdue_segments,
            sightings=sightings,
            stopped=f"{stands.stopped}: {stands.stopped_detail}" if stands.stopped else "",
            detection=self._board.detection(now),
        )

    def _camera(
        self,
        now_us: int,
        camera_id: str,
        name: str,
        kind: str,
        enabled: bool,
        ledger: dict[str, tuple[int, int]],
        gaps: dict[str, int],
        oldest: dict[str, int],
    ) -> CameraFacts:
        assert self._before is not None
        recorded, size = ledger.get(camera_id, (0, 0))
        status = self._board.cameras.get(camera_id)
        live = self._before.get(camera_id, 0) + self._board.recorded_us(camera_id)
        rate = size * DAY_US // recorded if recorded else 0
        if not rate and status is not None:
            rate = round(status.bitrate_bps / 8 * 86_400)
        state = "starting" if enabled else RecordingState.DISABLED.value
        if status is not None and now_us - status.at_us > self._stale_us:
            state, status = ("not heard of" if enabled else state), None
        return CameraFacts(
            camera_id,
            name,
            kind,
            status.state.value if status else state,
            _reason(status),
            max(recorded, live),
            gaps.get(camera_id, 0),
            rate if enabled else 0,
            oldest.get(camera_id),
            status.rate_fps if status else 0.0,
        )


def _reason(status: StatusChanged | None) -> str:
    if status is None or status.state is RecordingState.RECORDING or status.reason is None:
        return ""
    return status.reason.value


def days_left(total: int, free: int, day_bytes: int, min_free_ratio: float) -> float | None:
    """Days until recording would stop for lack of room; None while nothing is recorded."""
    if day_bytes <= 0:
        return None
    return max(0.0, (free - total * min_free_ratio) / day_bytes)


def _disk(settings: Settings) -> tuple[int, int]:
    usage = shutil.disk_usage(settings.state_dir)
    return usage.total, usage.free


class RunTotals(NamedTuple):
    """What one run left in the rows of its interval."""

    recorded_us: int
    gap_us: int
    unaccounted_us: int
    segments: int
    sightings: int
    purged: int


async def run_totals(platform: Platform, start_us: int, end_us: int) -> RunTotals:
    """Recorded, gap and unaccounted time of every enabled camera within [start, end)."""
    async with platform.database.read() as connection:
        cameras = (
            await connection.execute(
                sa.select(tables.camera.c.id, tables.camera.c.created_at_us)
                .where(tables.camera.c.deleted_at_us.is_(None))
                .limit(MAX_CAMERAS)
            )
        ).all()
        recorded_us = gap_us = unaccounted_us = segments = 0
        for camera_id, created_us in cameras:
            begin = max(start_us, created_us)
            spans = await _spans(connection, tables.segment, camera_id, begin, end_us)
            gaps = await _spans(connection, tables.gap, camera_id, begin, end_us)
            ledger = account(spans, gaps, begin, end_us)
            recorded_us += ledger[0]
            gap_us += ledger[1]
            unaccounted_us += ledger[2]
            segments += len(spans)
        sightings = await _sightings(connection, start_us)
        purged, _ = await _purged(connection, start_us)
    return RunTotals(recorded_us, gap_us, unaccounted_us, segments, sightings, purged)


def account(
    recorded: list[intervals.Interval],
    gaps: list[intervals.Interval],
    start_us: int,
    end_us: int,
) -> tuple[int, int, int]:
    """Each microsecond of [start, end) once: recorded, else a gap, else unaccounted.

    The last seconds before `end_us` may be on their way to a row: up to 5 s there are forgiven.
    """
    whole = [(start_us, end_us)]
    video = intervals.intersect(recorded, whole)
    silence = intervals.subtract(intervals.intersect(gaps, whole), video)
    known = intervals.union([*video, *silence])
    holes = intervals.subtract(whole, known)
    if holes and holes[-1][1] == end_us and holes[-1][1] - holes[-1][0] <= END_SLACK_US:
        holes.pop()
    return intervals.total(video), intervals.total(silence), intervals.total(holes)


async def _spans(
    connection: AsyncConnection, table: sa.Table, camera_id: str, start_us: int, end_us: int
) -> list[intervals.Interval]:
    """Intervals of a camera's rows that overlap [start, end)."""
    begin = table.c.get("effective_start_us", table.c.start_us)
    end = table.c.get("effective_end_us", table.c.end_us)
    query = sa.select(begin, end).where(
        table.c.camera_id == camera_id, table.c.end_us > start_us, begin < end_us
    )
    return [(row[0], row[1]) for row in await connection.execute(query)]


async def _cameras(connection: AsyncConnection) -> list[tuple[str, str, str, bool]]:
    query = (
        sa.select(tables.camera)
        .where(tables.camera.c.deleted_at_us.is_(None))
        .order_by(tables.camera.c.id)
        .limit(MAX_CAMERAS)
    )
    found = [rows.camera_of(row) for row in (await connection.execute(query)).mappings()]
    return [(item.id, item.name, item.site_kind.value, item.enabled) for item in found]


async def _ledger(connection: AsyncConnection) -> dict[str, tuple[int, int]]:
    """Recorded microseconds and bytes of each camera, since ever."""
    table = tables.ledger_day
    query = sa.select(
        table.c.camera_id, sa.func.sum(table.c.recorded_us), sa.func.sum(table.c.size_bytes)
    ).group_by(table.c.camera_id)
    return {row[0]: (int(row[1]), int(row[2])) for row in await connection.execute(query)}


async def _gap_us(connection: AsyncConnection, start_us: int, end_us: int) -> dict[str, int]:
    """Gap microseconds of each camera within [start, end), each counted once."""
    table = tables.gap
    query = sa.select(table.c.camera_id, table.c.start_us, table.c.end_us).where(
        table.c.end_us > start_us, table.c.start_us < end_us
    )
    spans: dict[str, list[intervals.Interval]] = {}
    for camera_id, start, end in await connection.execute(query):
        spans.setdefault(camera_id, []).append((max(start, start_us), min(end, end_us)))
    return {camera_id: intervals.total(found) for camera_id, found in spans.items()}


async def _oldest(connection: AsyncConnection) -> dict[str, int]:
    table = tables.segment
    first = (
        sa.select(table.c.start_us)
        .where(table.c.camera_id == tables.camera.c.id, table.c.state == "live")
        .order_by(table.c.end_us)
        .limit(1)
        .scalar_subquery()
    )
    query = sa.select(tables.camera.c.id, first).limit(MAX_CAMERAS)
    return {row[0]: row[1] for row in await connection.execute(query) if row[1] is not None}


async def _purged(connection: AsyncConnection, since_us: int) -> tuple[int, int]:
    """Segments and bytes of tombstones written since then."""
    table = tables.tombstone
    query = sa.select(
        sa.func.coalesce(sa.func.sum(table.c.segment_count), 0),
        sa.func.coalesce(sa.func.sum(table.c.size_bytes), 0),
    ).where(table.c.written_at_us >= since_us)
    row = (await connection.execute(query)).one()
    return int(row[0]), int(row[1])


async def _sightings(connection: AsyncConnection, since_us: int) -> int:
    query = sa.select(sa.func.count()).where(tables.sighting.c.committed_at_us >= since_us)
    return int((await connection.execute(query)).scalar_one())
