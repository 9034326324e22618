"""Routes of segments: a search over what was recorded, so it names a purpose and is audited first.

Footage past its expiry is no hit, whatever the purge has done; an officer of a hold that covers it
still finds it (shared/retention.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from services.api import etags, pagination, problems, queries, times
from services.api.access import Action
from services.api.context import ApiContext
from services.api.deps import Granted, Requires, WhyQuery
from services.api.models import CameraId, Page, Reply, Text100
from shared import retention
from shared.clock import DAY_US
from shared.db import holds as stored_holds
from shared.db import policies
from shared.db.rows import facts_of
from shared.errors import Kind, LamppostError
from shared.retention import Access, Policy

MAX_CAMERAS = 20
MAX_RANGE_US = 31 * DAY_US
router = APIRouter(tags=["segments"], responses=problems.RESPONSES)


class SegmentOut(Reply):
    """A recording of about a minute: one MP4 file of the archive."""

    id: str
    camera_id: str
    start: str
    end: str
    expires_at: str
    held: bool
    codec: str
    width: int
    height: int
    size_bytes: int
    sha256: str
    recorder: str
    clock_source: str
    clock_uncertainty_s: float
    clock_offset_s: float
    repaired: bool
    software: str


async def policy_of(context: ApiContext, connection: AsyncConnection) -> Policy:
    """The policy in force; before retention's first start, what the settings will make it."""
    return await policies.newest(connection) or default_policy(context)


def default_policy(context: ApiContext) -> Policy:
    """What the settings will make it."""
    settings = context.settings
    return Policy(0, settings.retention.days, settings.retention.basis, settings.site.timezone)


async def readable(
    context: ApiContext, connection: AsyncConnection, rows: Sequence[RowMapping], viewer_id: str
) -> list[tuple[RowMapping, Access, int]]:
    """The rows that the viewer may see now, how, and the expiry that counts."""
    if not rows:
        return []
    now_us = await context.expiry_now_us(connection)
    policy = await policy_of(context, connection)
    slack_us = max(row["clock_uncertainty_us"] for row in rows) + retention.MIN_UNCERTAINTY_US
    holds = await stored_holds.load(
        connection,
        cameras={row["camera_id"] for row in rows},
        start_us=min(row["start_us"] for row in rows) - slack_us,
        end_us=max(row["end_us"] for row in rows) + slack_us,
    )
    found: list[tuple[RowMapping, Access, int]] = []
    for row in rows:
        facts = facts_of(row)
        expiry_us = retention.effective_expiry_us(facts.expires_at_us, facts.end_us, policy)
        facts = facts._replace(expires_at_us=expiry_us)
        access = retention.access(facts, holds, now_us, viewer_id)
        if access is not Access.CLOSED:
            found.append((row, access, expiry_us))
    return found


def _out(context: ApiContext, row: RowMapping, access: Access, expires_us: int) -> SegmentOut:
    zone = context.zone
    return SegmentOut(
        id=row["id"],
        camera_id=row["camera_id"],
        start=times.text(row["start_us"], zone),
        end=times.text(row["end_us"], zone),
        expires_at=times.text(expires_us, zone),
        held=access is Access.HOLD_ONLY,
        codec=row["codec"],
        width=row["width"],
        height=row["height"],
        size_bytes=row["size_bytes"],
        sha256=row["sha256"],
        recorder=row["recorder"],
        clock_source=row["clock_source"],
        clock_uncertainty_s=row["clock_uncertainty_us"] / 1_000_000,
        clock_offset_s=row["clock_offset_us"] / 1_000_000,
        repaired=row["repaired"],
        software=row["software"],
    )


@router.get("/v1/segments", summary="Search segments")
async def list_segments(
    granted: Annotated[Granted, Depends(Requires(Action.SEGMENT_SEARCH))],
    why: WhyQuery,
    camera: Annotated[
        list[CameraId],
        Query(min_length=1, max_length=MAX_CAMERAS, description="One or more camera ids."),
    ],
    start: Annotated[str, Query(max_length=40, examples=["2026-11-25T14:00"])],
    end: Annotated[str, Query(max_length=40, examples=["2026-11-25T15:00"])],
    limit: pagination.Limit = pagination.LIMIT_DEFAULT,
    cursor: pagination.Cursor = None,
) -> Page[SegmentOut]:
    """Readable segments of the cameras that overlap [start, end), in order of their end. A page may
    hold fewer than `limit`, or none, and still have a `next`: expired ones are left out."""
    context = granted.context
    start_us, end_us = times.interval(start, end, context.zone, max_us=MAX_RANGE_US)
    key = pagination.decode("segments", cursor, int, str)
    camera_ids = tuple(dict.fromkeys(camera))
    for camera_id in camera_ids:
        await granted.camera(camera_id, why)
    await granted.record(camera_ids=camera_ids, start_us=start_us, end_us=end_us, why=why)
    after = (int(key[0]), str(key[1])) if key else None
    async with context.platform.database.read() as connection:
        rows = await queries.segments(connection, camera_ids, start_us, end_us, after, limit + 1)
        shown = await readable(context, connection, rows[:limit], granted.principal.id)
    more = None
    if len(rows) > limit:
        more = pagination.encode("segments", rows[limit - 1]["end_us"], rows[limit - 1]["id"])
    return Page(items=[_out(context, *item) for item in shown], next=more)


@router.get("/v1/segments/{segment_id}", summary="Get a segment", response_model=SegmentOut)
async def get_segment(
    segment_id: Text100,
    granted: Annotated[Granted, Depends(Requires(Action.SEGMENT_READ))],
    why: WhyQuery,
    request: Request,
) -> Response:
    """One segment's facts; GONE from its expiry on."""
    context = granted.context
    async with context.platform.database.read() as connection:
        row = await queries.segment(connection, segment_id)
    if row is None:
        raise LamppostError(Kind.NOT_FOUND, "There is no such segment.")
    await granted.camera(row["camera_id"], why)
    await granted.record(
        resource=f"segment/{segment_id}",
        camera_ids=(row["camera_id"],),
        start_us=row["start_us"],
        end_us=row["end_us"],
        why=why,
    )
    async with context.platform.database.read() as connection:
        shown = await readable(context, connection, [row], granted.principal.id)
    if not shown:
        raise LamppostError(Kind.GONE, "The segment is past its expiry.")
    return etags.reply(request, _out(context, *shown[0]))
