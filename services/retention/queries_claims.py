"""All SQL of claims: what is due, what is claimed, what is gone.

A claim of 500 segments is a handful of statements, and its rows are tuples: a day's purge reads
tens of thousands of them, twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from services.retention.plan import Due
from services.retention.queries import LIVE, PURGING
from shared import ids
from shared.db import tables
from shared.domain import Hold
from shared.retention import MIN_UNCERTAINTY_US, Facts

CHUNK = 500
_segment, _claim = tables.segment, tables.purge_claim


class PurgeRow(NamedTuple):
    """What a purge asks of a segment."""

    id: str
    camera_id: str
    start_us: int
    end_us: int
    expires_at_us: int
    clock_uncertainty_us: int
    size_bytes: int
    sha256: str
    key: str
    boxed: bool
    """Whether there may be boxes beside it: only of a segment that was decided, and that names
    none, there are none."""

    @property
    def objects(self) -> tuple[str, ...]:
        """The keys of what is stored of it."""
        return (self.key, ids.boxes_key(self.key)) if self.boxed else (self.key,)

    @property
    def facts(self) -> Facts:
        """For the retention rule."""
        return Facts(
            self.camera_id,
            self.start_us,
            self.end_us,
            self.expires_at_us,
            self.clock_uncertainty_us,
        )


_boxed = sa.or_(_segment.c.boxes_sha256.is_not(None), _segment.c.analysed_us.is_(None))
_purge_columns = [*(_segment.c[name] for name in PurgeRow._fields[:-1]), _boxed.label("boxed")]
_facts_columns = [_segment.c[name] for name in PurgeRow._fields[1:6]]  # as in Facts


# What is due


async def due_page(
    connection: AsyncConnection, now_us: int, after: tuple[int, str, str] | None, limit: int
) -> list[Due]:
    """Live segments past expiry in order of (expiry, camera, id), after that place."""
    order = (_segment.c.expires_at_us, _segment.c.camera_id, _segment.c.id)
    date_as_given = sa.type_coerce(_segment.c.recording_date, sa.String)
    query = (
        sa.select(_segment.c.id, date_as_given, _segment.c.size_bytes, *_facts_columns)
        .where(_segment.c.state == LIVE, _segment.c.expires_at_us <= now_us)
        .order_by(*order)
        .limit(limit)
    )
    if after is not None:
        query = query.where(
            _segment.c.expires_at_us >= after[0],
            sa.tuple_(*order) > sa.tuple_(*(sa.literal(part) for part in after)),
        )
    return [
        Due(segment_id, _date(day), size, Facts(*facts))
        for segment_id, day, size, *facts in await connection.execute(query)
    ]


@lru_cache(maxsize=64)
def _date(value: str | date) -> date:
    """A date as the driver gives it: text in SQLite, a date in PostgreSQL."""
    return value if isinstance(value, date) else date.fromisoformat(value)


# Claims


async def live_rows(
    connection: AsyncConnection, camera_id: str, segment_ids: Sequence[str]
) -> list[PurgeRow]:
    """Those of the segments that are still live."""
    query = sa.select(*_purge_columns).where(
        _among(connection, _segment.c.id, segment_ids),
        _segment.c.state == LIVE,
        _segment.c.camera_id == camera_id,
    )
    return await _purge_rows(connection, query)


async def insert_claim(
    connection: AsyncConnection, values: dict[str, Any], segment_ids: Sequence[str]
) -> None:
    """The point of no return: the segments are purging, under this claim."""
    await connection.execute(sa.insert(_claim).values(values))
    await connection.execute(
        sa.update(_segment)
        .where(_among(connection, _segment.c.id, segment_ids))
        .values(state=PURGING, claim_id=values["id"])
    )


async def open_claims(
    connection: AsyncConnection, worker: str, others_before_us: int
) -> Sequence[RowMapping]:
    """Unfinished claims of this worker, and those that another began before that time."""
    query = (
        sa.select(_claim)
        .where(sa.or_(_claim.c.worker == worker, _claim.c.claimed_at_us < others_before_us))
        .order_by(_claim.c.claimed_at_us, _claim.c.id)
        .limit(CHUNK)
    )
    return (await connection.execute(query)).mappings().all()


async def claimed_rows(connection: AsyncConnection, claim_id: str) -> list[PurgeRow]:
    """The segments of a claim."""
    query = sa.select(*_purge_columns).where(_segment.c.claim_id == claim_id)
    return await _purge_rows(connection, query)


async def _purge_rows(connection: AsyncConnection, query: sa.Select[Any]) -> list[PurgeRow]:
    return [PurgeRow(*row) for row in await connection.execute(query)]


def _among(
    connection: AsyncConnection, column: sa.ColumnElement[str], values: Sequence[str]
) -> sa.ColumnElement[bool]:
    """The column is one of these. SQLite takes them as one JSON text: five hundred marks cost more
    to write than to look up."""
    if connection.dialect.name != "sqlite":
        return column.in_(values)
    each = sa.func.json_each(msgspec.json.encode(list(values)).decode()).table_valued("value")
    return column.in_(sa.select(each.c.value))


async def has_tombstone(connection: AsyncConnection, claim_id: str) -> bool:
    """Whether the claim is finished."""
    query = sa.select(tables.tombstone.c.id).where(tables.tombstone.c.id == claim_id)
    return (await connection.execute(query)).first() is not None


async def is_known(connection: AsyncConnection, claim_id: str) -> bool:
    """Whether the claim is finished or open."""
    claim = tables.purge_claim.c.id
    query = sa.select(claim).where(claim == claim_id)
    return await has_tombstone(connection, claim_id) or await connection.scalar(query) is not None


async def finish(
    connection: AsyncConnection,
    claim_id: str,
    row: dict[str, Any] | None,
    *,
    fragments_too: bool = True,
) -> None:
    """The tombstone stands (None: nothing was left to tell of), the rows are gone; the fragment
    tables may be left to their day."""
    if row is not None:
        await connection.execute(sa.insert(tables.tombstone).values(row))
    fragments = tables.segment_fragments
    if fragments_too:
        ids = sa.select(_segment.c.id).where(_segment.c.claim_id == claim_id)
        await connection.execute(sa.delete(fragments).where(fragments.c.segment_id.in_(ids)))
    await connection.execute(sa.delete(_segment).where(_segment.c.claim_id == claim_id))
    await connection.execute(sa.delete(_claim).where(_claim.c.id == claim_id))


# Tags


async def touched(
    connection: AsyncConnection, hold: Hold, committed_after_us: int = 0
) -> list[PurgeRow]:
    """Live segments that the hold's predicate touches, each widened by its clock uncertainty."""
    slack = sa.case(
        (_segment.c.clock_uncertainty_us > MIN_UNCERTAINTY_US, _segment.c.clock_uncertainty_us),
        else_=MIN_UNCERTAINTY_US,
    )
    query = sa.select(*_purge_columns).where(
        _segment.c.camera_id.in_(hold.camera_ids),
        _segment.c.state == LIVE,
        _segment.c.committed_at_us >= committed_after_us,
        _segment.c.end_us > hold.start_us - slack,
        _segment.c.start_us < hold.end_us + slack,
    )
    return await _purge_rows(connection, query)
