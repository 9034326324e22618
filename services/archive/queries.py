"""All SQL of the archive. Writes run in the caller's transaction, under the cameras' locks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.archive.filing import MAX_SEGMENT_US, Accepted, Span, clusters, effective
from shared import intervals, retention
from shared.db import dialects, rows, tables
from shared.domain import Gap
from shared.intervals import Interval
from shared.retention import Policy
from shared.tombstones import unpack_segments

_segment, _gap, _ledger = tables.segment, tables.gap, tables.ledger_day
SEGMENT, GAP = _segment, _gap
ROUNDS = 8
CHUNK = 500
_SPAN = (
    _segment.c.id,
    _segment.c.camera_id,
    _segment.c.start_us,
    _segment.c.end_us,
    _segment.c.epoch,
)


async def newest_commit_us(connection: AsyncConnection) -> int | None:
    """When the newest row was committed; the wall clock must not stand before it."""
    found = await connection.scalar(sa.select(sa.func.max(_segment.c.committed_at_us)))
    return int(found) if found is not None else None


async def existing(connection: AsyncConnection, table: sa.Table, ids: Iterable[str]) -> set[str]:
    """Which of the ids have a row: a retry writes nothing twice."""
    query = sa.select(table.c.id).where(table.c.id.in_(list(ids)))
    return set((await connection.execute(query)).scalars())


async def spans_between(
    connection: AsyncConnection, camera_id: str, start_us: int, end_us: int
) -> list[tuple[Span, Interval]]:
    """Rows of the camera that overlap the interval, and what counts of each by now; those being
    purged count no more."""
    query = sa.select(*_SPAN, _segment.c.effective_start_us, _segment.c.effective_end_us).where(
        _segment.c.camera_id == camera_id,
        _segment.c.end_us > start_us,
        _segment.c.end_us < end_us + MAX_SEGMENT_US,
        _segment.c.start_us < end_us,
        _segment.c.state == "live",
    )
    return [(Span(*row[:-2]), (row[-2], row[-1])) for row in await connection.execute(query)]


class Around(NamedTuple):
    """Rows of one camera that overlap new spans, directly or through others."""

    rows: dict[str, tuple[Span, Interval]]
    near: frozenset[str]
    """Those of which everything is known that what counts of them can depend on."""


async def around(connection: AsyncConnection, camera_id: str, new: Sequence[Span]) -> Around:
    """The rows as far as `ROUNDS` steps of overlapping away. Without an overlap, one query for each
    run of adjoining spans.

    What counts of a row depends on better ones that overlap it, and on theirs in turn: as many
    steps as there are assignments at one time. Those within half of the steps are judged right.
    """
    found: dict[str, tuple[Span, Interval]] = {}
    near: frozenset[str] | None = None
    parts = intervals.union(span.interval for span in new)
    for step in range(ROUNDS):
        before = len(found)
        for start_us, end_us in parts:
            for span, counts in await spans_between(connection, camera_id, start_us, end_us):
                found[span.id] = span, counts
        if len(found) == before:
            break
        if step == ROUNDS // 2 - 1:
            near = frozenset(found)
        parts = intervals.union([*parts, *(span.interval for span, _ in found.values())])
    return Around(found, frozenset(found) if near is None else near)


async def counted(
    connection: AsyncConnection, new: Sequence[Span]
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """The effective intervals of new rows, and those that change of the rows around them."""
    ids = {span.id for span in new}
    fresh: dict[str, Interval] = {}
    changed: dict[str, Interval] = {}
    for camera_id in sorted({span.camera_id for span in new}):
        own = [span for span in new if span.camera_id == camera_id]
        known = await around(connection, camera_id, own)
        for cluster in clusters([*own, *(span for span, _ in known.rows.values())]):
            for key, interval in effective(cluster).items():
                if key in ids:
                    fresh[key] = interval
                elif key in known.near and known.rows[key][1] != interval:
                    changed[key] = interval
    return fresh, changed


async def insert_segments(
    connection: AsyncConnection,
    accepted: Sequence[Accepted],
    counting: Mapping[str, Interval],
    now_us: int,
) -> None:
    """The rows, their fragment tables, and the ledger's counts."""
    await connection.execute(
        sa.insert(_segment),
        [_segment_row(one, counting[one.segment.id], now_us) for one in accepted],
    )
    await connection.execute(
        sa.insert(tables.segment_fragments),
        [
            {
                "segment_id": one.segment.id,
                "recording_date": one.recording_date,
                "data": rows.pack_fragments(one.segment.fragments),
            }
            for one in accepted
        ],
    )
    await _count(connection, accepted)


def _segment_row(one: Accepted, counted: Interval, now_us: int) -> dict[str, Any]:
    return {
        **rows.segment_row(one.segment),
        "effective_start_us": counted[0],
        "effective_end_us": counted[1],
        "recording_date": one.recording_date,
        "expires_at_us": one.expires_at_us,
        "policy_version": one.policy_version,
        "state": "live",
        "key": one.key,
        "committed_at_us": now_us,
    }


async def _count(connection: AsyncConnection, accepted: Sequence[Accepted]) -> None:
    days: dict[tuple[str, Any], list[int]] = defaultdict(lambda: [0, 0, 0])
    for one in accepted:
        day = days[one.segment.camera_id, one.recording_date]
        day[0] += 1
        day[1] += one.segment.size_bytes
        day[2] += one.segment.end_us - one.segment.start_us
    insert = dialects.insert(connection.dialect.name, _ledger)
    statement = insert.on_conflict_do_update(
        index_elements=["camera_id", "recording_date"],
        set_={
            name: _ledger.c[name] + insert.excluded[name]
            for name in ("segments", "size_bytes", "recorded_us")
        },
    )
    await connection.execute(
        statement,
        [
            {
                "camera_id": camera_id,
                "recording_date": day,
                "segments": count,
                "size_bytes": size,
                "recorded_us": length,
            }
            for (camera_id, day), (count, size, length) in sorted(days.items())
        ],
    )


async def set_effective(connection: AsyncConnection, counted: Mapping[str, Interval]) -> None:
    """What counts of rows that another recorder's segment now overlaps."""
    if not counted:
        return
    await connection.execute(
        sa.update(_segment)
        .where(_segment.c.id == sa.bindparam("row_id"))
        .values(effective_start_us=sa.bindparam("s"), effective_end_us=sa.bindparam("e")),
        [{"row_id": key, "s": start, "e": end} for key, (start, end) in counted.items()],
    )


async def insert_gaps(
    connection: AsyncConnection, gaps: Sequence[Gap], policy: Policy, now_us: int
) -> None:
    """Gap rows; their ids must be new."""
    await connection.execute(
        sa.insert(_gap),
        [
            {
                "id": gap.id,
                "camera_id": gap.camera_id,
                "start_us": gap.start_us,
                "end_us": gap.end_us,
                "recording_date": retention.recording_date(gap.end_us, policy.zone),
                "reason": gap.reason.value,
                "detail": gap.detail[:500],
                "recorder": gap.recorder[:100],
                "epoch": gap.epoch,
                "committed_at_us": now_us,
            }
            for gap in gaps
        ],
    )


async def known_keys(connection: AsyncConnection, keys: Collection[str]) -> set[str]:
    """Which objects have a row, whatever its state."""
    found: set[str] = set()
    wanted = sorted(keys)
    for first in range(0, len(wanted), CHUNK):
        query = sa.select(_segment.c.key).where(_segment.c.key.in_(wanted[first : first + CHUNK]))
        found.update((await connection.execute(query)).scalars())
    return found


async def key_of(connection: AsyncConnection, segment_id: str) -> str:
    """The object of a segment that has a row; empty where it has none."""
    query = sa.select(_segment.c.key).where(_segment.c.id == segment_id)
    return str(await connection.scalar(query) or "")


async def is_purged(
    connection: AsyncConnection, camera_id: str, day: date, segment_id: str
) -> bool:
    """Whether a tombstone says that the segment's purge is done."""
    stone = tables.tombstone
    query = sa.select(stone.c.segments).where(
        stone.c.camera_id == camera_id, stone.c.recording_date == day
    )
    packed = (await connection.execute(query)).scalars()
    return any(one.id == segment_id for data in packed for one in unpack_segments(data))


async def deletion_stopped(connection: AsyncConnection) -> bool:
    """Whether the breaker is open."""
    table = tables.breaker
    query = sa.select(table.c.id).where(table.c.cleared_at_us.is_(None)).limit(1)
    return await connection.scalar(query) is not None


async def camera_exists(connection: AsyncConnection, camera_id: str) -> bool:
    """Whether there is or was such a camera: footage of a deleted one is still footage."""
    query = sa.select(tables.camera.c.id).where(tables.camera.c.id == camera_id)
    return await connection.scalar(query) is not None
