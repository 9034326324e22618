"""What the installation's own books say: recorded seconds, gaps, and what still waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared import intervals
from shared.clock import SECOND_US
from shared.db import tables
from shared.platform import open_platform
from shared.settings import Settings

T = TypeVar("T")


def _read(settings: Settings, look: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    async def run() -> T:
        platform = await open_platform(settings)
        try:
            async with platform.database.read() as connection:
                return await look(connection)
        finally:
            await platform.close()

    return asyncio.run(run())


def recorded_us(settings: Settings) -> dict[str, tuple[int, int]]:
    """When each camera's first stored second was, and its last."""
    row = tables.segment.c
    ends = sa.func.min(row.start_us), sa.func.max(row.end_us)
    query = sa.select(row.camera_id, *ends).group_by(row.camera_id)

    async def look(connection: AsyncConnection) -> dict[str, tuple[int, int]]:
        rows = (await connection.execute(query)).all()
        return {camera: (int(first), int(last)) for camera, first, last in rows}

    return _read(settings, look)


def waiting_events(settings: Settings) -> int:
    """Of the outbox."""
    query = sa.select(sa.func.count()).select_from(tables.outbox)

    async def look(connection: AsyncConnection) -> int:
        return int((await connection.execute(query)).scalar_one())

    return _read(settings, look)


def lost(settings: Settings, since_us: int) -> dict[str, float]:
    """Seconds of each camera since then that a gap names and no recorder has.

    A gap that one recorder filed while another recorded is none: the ledger counts each second
    once. What neither names would be unaccounted, which `lamppost check` finds.
    """
    queries = [
        sa.select(row.camera_id, row.start_us, row.end_us).where(row.end_us > since_us)
        for row in (tables.gap.c, tables.segment.c)
    ]

    async def look(connection: AsyncConnection) -> list[dict[str, list[intervals.Interval]]]:
        found = []
        for query in queries:
            spans: dict[str, list[intervals.Interval]] = {}
            for camera, start_us, end_us in (await connection.execute(query)).all():
                spans.setdefault(camera, []).append((max(start_us, since_us), end_us))
            found.append(spans)
        return found

    gaps, stored = _read(settings, look)
    return {
        camera: intervals.total(intervals.subtract(spans, stored.get(camera, []))) / SECOND_US
        for camera, spans in gaps.items()
    }
