"""Every camera-second is told of once (invariant 6), by the same ledger that the api shows.

A camera is accounted for up to where its recorders say (spool `state/`); down-time after that
becomes a gap when they start again. What waits in the spool is on its way and no finding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import msgspec
from sqlalchemy import RowMapping

from services.check import queries
from services.check.context import Context
from shared import civil, intervals, ledger, retention, tombstones
from shared.clock import SECOND_US
from shared.intervals import Interval
from shared.ledger import Kind
from shared.retention import Facts

LEAST_US = SECOND_US
"""Shorter stretches are rounding between clocks, not a second of a camera."""
SLACK_US = 600 * SECOND_US
"""So far one camera's account may lie behind the newest of all: its open segment, and a retry."""


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """The times of a spool item, whatever else it says."""

    start_us: int
    end_us: int


async def seconds(context: Context) -> None:
    """Each camera, each local day from its creation, or from what has not expired, until now."""
    waiting, accounted = await asyncio.to_thread(_spooled, context.spool)
    newest = max(accounted.values(), default=0)
    async with context.platform.database.read() as connection:
        cameras = await queries.cameras(connection)
    zone = context.newest.zone
    first = civil.local_date(context.now_us, zone) - timedelta(days=context.newest.retention_days)
    for camera in cameras:
        until = max(accounted.get(camera["id"], 0), newest - SLACK_US)
        until = min(until, context.now_us, camera["deleted_at_us"] or context.now_us)
        start = max(civil.midnight_us(first, zone), camera["created_at_us"])
        day = civil.local_date(start, zone)
        while start < until:
            end = min(civil.day_bounds_us(day, zone)[1], until)
            await _day(context, camera["id"], (start, end), waiting.get(camera["id"], []))
            day += timedelta(days=1)
            start = end


async def _day(
    context: Context, camera_id: str, day: Interval, waiting: Sequence[Interval]
) -> None:
    zone = context.newest.zone
    async with context.platform.database.read() as connection:
        recorded, gaps = await queries.camera_day(connection, camera_id, *day)
        pending = await queries.waiting(connection, camera_id, *day)
        packed = await queries.tombstones_of(
            connection,
            camera_id,
            civil.local_date(day[0], zone),
            civil.local_date(day[1], zone) + timedelta(days=1),
        )
    _once(context, camera_id, recorded)
    purged = [
        (segment.start_us, segment.end_us)
        for data in packed
        for segment in tombstones.unpack_segments(data)
    ]
    told = ledger.account(
        *day,
        ledger.Facts(
            recorded=[(row["effective_start_us"], row["effective_end_us"]) for row in recorded],
            expired=purged,
            gaps=[((row["start_us"], row["end_us"]), row["reason"]) for row in gaps],
            waiting=pending,
        ),
        now_us=context.now_us,
    )
    for entry in told.entries:
        left = intervals.subtract([(entry.start_us, entry.end_us)], waiting)
        for start, end in left if entry.kind is Kind.UNACCOUNTED else ():
            if end - start >= LEAST_US and not _had_expired(context, camera_id, start, end):
                context.notes.add(
                    6,
                    f"{(end - start) / SECOND_US:.1f} s from {civil.rfc3339(start)} are neither "
                    "recorded nor a gap with a reason.",
                    "Look at the recorder's log of that time; nobody fills it in.",
                    camera=camera_id,
                )


def _had_expired(context: Context, camera_id: str, start: int, end: int) -> bool:
    facts = Facts(camera_id, start, end, retention.expires_at_us(end, context.newest), 0)
    return facts.expires_at_us <= context.now_us


def _once(context: Context, camera_id: str, recorded: Sequence[RowMapping]) -> None:
    """No second counts twice."""
    end = 0
    for row in recorded:
        if row["effective_end_us"] <= row["effective_start_us"]:
            continue
        if row["effective_start_us"] < end:
            context.notes.add(
                6, f"{end - row['effective_start_us']} us are counted in two segments.",
                "Correct the effective interval of the one with the lower epoch.",
                camera=camera_id, segment=row["id"],
            )  # fmt: skip
        end = max(end, row["effective_end_us"])


def _spooled(root: Path) -> tuple[dict[str, list[Interval]], dict[str, int]]:
    """What waits in every spool by camera, and up to when each camera is accounted for."""
    waiting: dict[str, list[Interval]] = {}
    accounted: dict[str, int] = {}
    for recorder in sorted(root.iterdir()) if root.is_dir() else ():
        for path in (recorder / "state").glob("*.json"):
            try:
                until = msgspec.json.decode(path.read_bytes(), type=dict[str, object])["until_us"]
            except (OSError, msgspec.MsgspecError, KeyError):
                continue
            if isinstance(until, int):
                accounted[path.stem] = max(accounted.get(path.stem, 0), until)
        for camera_id, interval in _windows(recorder):
            waiting[camera_id] = intervals.union([*waiting.get(camera_id, []), interval])
    return waiting, accounted


def _windows(recorder: Path) -> Iterator[tuple[str, Interval]]:
    for path in sorted((recorder / "new").glob("*.json")):
        camera_id = path.name[21:].split(".")[0][:-37]
        try:
            found = msgspec.json.decode(path.read_bytes(), type=Window)
        except (OSError, msgspec.MsgspecError):
            continue
        yield camera_id, (found.start_us, found.end_us)
    for path in (recorder / "tmp").glob("*.mp4"):
        start = path.name[:20]
        if start.isascii() and start.isdecimal():
            yield path.stem[21:-37], (int(start), int(start) + SLACK_US)
