"""All SQL of the sightings' index: upserts that never go back, thumbnails, closing, zones.

Batches of sightings are the busiest writes of all, so on SQLite their statement is compiled once,
and run with plain tuples, past SQLAlchemy's own work on each value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import date
from functools import cache, lru_cache
from typing import Any, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import dialects, tables
from shared.db.one_of import any_of
from shared.db.rows import SIGHTING_COLUMNS
from shared.intervals import Interval
from shared.sightings import Zone, zones_version

_sighting, _thumbnail, _zone = tables.sighting, tables.thumbnail, tables.zone
CHUNK = 500
MAX_SILENT = 2_000
THUMBNAIL_COLUMNS = ("sighting_id", "recording_date", "captured_us", "jpeg")
EXPIRES = SIGHTING_COLUMNS.index("expires_at_us")
DATE = SIGHTING_COLUMNS.index("recording_date")
_KEPT = ("id", "camera_id", "start_us", "recording_date")
"""What no update of a sighting changes."""


class Zones(NamedTuple):
    """A camera's zones and lines as the table has them now."""

    zones: tuple[Zone, ...]
    version: int


NO_ZONES = Zones((), 0)
Rank: TypeAlias = tuple[int, bool, int]
"""How new an update is: what it saw last, whether that is all, when it was sent."""


# Sightings


def _upsert_sighting(dialect: str) -> Any:
    """Of two updates the one that saw more of it wins, then the one that says it is over, then the
    one that was sent later: in whatever order they come, the same row is left."""
    insert = dialects.insert(dialect, _sighting)
    new, old = insert.excluded, _sighting.c
    return insert.on_conflict_do_update(
        index_elements=["id", "recording_date"],
        set_={name: new[name] for name in SIGHTING_COLUMNS if name not in _KEPT},
        where=sa.tuple_(new.end_us, new.ended, new.sent_at_us)
        > sa.tuple_(old.end_us, old.ended, old.sent_at_us),
    )


def _upsert_thumbnail(dialect: str) -> Any:
    """The newest picture is the best: a detector replaces it only by a better one."""
    insert = dialects.insert(dialect, _thumbnail)
    return insert.on_conflict_do_update(
        index_elements=["sighting_id", "recording_date"],
        set_={name: insert.excluded[name] for name in THUMBNAIL_COLUMNS[2:]},
        where=insert.excluded.captured_us > _thumbnail.c.captured_us,
    )


@cache
def _sqlite(make: Callable[[str], Any], columns: tuple[str, ...]) -> str:
    """The statement as SQLite's driver takes it, its marks in the order of the columns."""
    compiled = make("sqlite").compile(dialect=sqlite.dialect(), column_keys=columns)
    assert compiled.positiontup == list(columns)
    return str(compiled)


@cache
def _postgresql(make: Callable[[str], Any], columns: tuple[str, ...]) -> Any:
    """The statement with an array for each column: one visit, and a count of what it changed."""
    insert = make("postgresql")
    kinds = [_kind(insert.table.c[name].type) for name in columns]
    arrays = [
        sa.bindparam(name, type_=dialects.array(kind))
        for name, kind in zip(columns, kinds, strict=True)
    ]
    named = [sa.column(name, kind) for name, kind in zip(columns, kinds, strict=True)]
    rows = sa.func.unnest(*arrays).table_valued(*named).render_derived()
    return insert.from_select(columns, sa.select(*rows.c))


def _kind(of: Any) -> Any:
    """A column's type as an array's: text has no length and no order there."""
    return sa.Text() if isinstance(of, sa.String) else of


async def _upsert(
    connection: AsyncConnection,
    make: Callable[[str], Any],
    columns: tuple[str, ...],
    found: Sequence[tuple[Any, ...]],
) -> int:
    """Write rows of these columns; how many changed anything."""
    dialect = connection.dialect.name
    if dialect == "sqlite":
        result = await connection.exec_driver_sql(_sqlite(make, columns), list(found))
    else:
        values = dict(zip(columns, map(list, zip(*found, strict=True)), strict=True))
        result = await connection.execute(_postgresql(make, columns), values)
    return result.rowcount


async def upsert_sightings(connection: AsyncConnection, found: Sequence[tuple[Any, ...]]) -> int:
    """Rows of `SIGHTING_COLUMNS`; how many were new or newer than what was there."""
    if not found:
        return 0
    if connection.dialect.name == "sqlite":
        found = [(*row[:DATE], _text(row[DATE]), *row[DATE + 1 :]) for row in found]
    return await _upsert(connection, _upsert_sighting, SIGHTING_COLUMNS, found)


@lru_cache(maxsize=64)
def _text(day: date) -> str:
    """A date as SQLAlchemy writes it for SQLite."""
    return day.isoformat()


async def upsert_thumbnails(
    connection: AsyncConnection, found: Sequence[tuple[str, date, int, bytes]]
) -> None:
    """Pictures of sightings that have a row: id, the row's date, capture time, JPEG."""
    if not found:
        return
    rows: Sequence[tuple[Any, ...]] = found
    if connection.dialect.name == "sqlite":
        rows = [(row[0], _text(row[1]), *row[2:]) for row in found]
    await _upsert(connection, _upsert_thumbnail, THUMBNAIL_COLUMNS, rows)


def under(row: tuple[Any, ...], day: date) -> tuple[Any, ...]:
    """A row of `SIGHTING_COLUMNS` under another date."""
    return row if row[DATE] == day else (*row[:DATE], day, *row[DATE + 1 :])


async def days(
    connection: AsyncConnection, sighting_ids: Collection[str], near: Collection[date]
) -> dict[str, date]:
    """The dates under which these sightings stand, of those that have a row on one of `near`."""
    if not sighting_ids:
        return {}
    query = sa.select(_sighting.c.id, _sighting.c.recording_date).where(
        any_of(connection.dialect.name, _sighting.c.id, sighting_ids),
        _on(connection, _sighting.c.recording_date, near),
    )
    return {row[0]: row[1] for row in (await connection.execute(query)).all()}


def _on(
    connection: AsyncConnection, column: sa.Column[date], near: Collection[date]
) -> sa.ColumnElement[bool]:
    """Whether the row stands on one of these dates: PostgreSQL then looks into their partitions
    alone. SQLite has none, and the key is enough."""
    if connection.dialect.name == "sqlite":
        return sa.true()
    return _any(column, near, sa.Date())


def _any(column: sa.Column[Any], values: Collection[Any], kind: Any) -> sa.ColumnElement[bool]:
    """As `in_`, but one parameter: an array."""
    given = sa.bindparam(None, list(values), type_=dialects.array(kind))
    found: sa.ColumnElement[bool] = column == sa.any_(given)
    return found


async def silent(
    connection: AsyncConnection, before_us: int, after_us: int
) -> Sequence[tuple[str, str]]:
    """Ids and cameras of open sightings whose last update was written before the one or, by a clock
    that was wrong, after the other."""
    written = _sighting.c.committed_at_us
    query = (
        sa.select(_sighting.c.id, _sighting.c.camera_id)
        .where(sa.not_(_sighting.c.ended), sa.or_(written < before_us, written > after_us))
        .order_by(_sighting.c.end_us)
        .limit(MAX_SILENT)
    )
    return [(row[0], row[1]) for row in await connection.execute(query)]


async def close(connection: AsyncConnection, sighting_ids: Sequence[str]) -> None:
    """They are over."""
    for first in range(0, len(sighting_ids), CHUNK):
        chunk = sighting_ids[first : first + CHUNK]
        await connection.execute(
            sa.update(_sighting).where(_sighting.c.id.in_(chunk)).values(ended=True)
        )


# Zones, and what they are applied to


async def zones(connection: AsyncConnection, cameras: Collection[str]) -> dict[str, Zones]:
    """Those of the cameras that have any."""
    found: dict[str, list[Zone]] = {}
    if (await connection.exec_driver_sql("SELECT 1 FROM zone LIMIT 1")).first() is None:
        return {}  # where nothing is drawn, each batch is spared the rest
    wanted = sorted(cameras)
    for first in range(0, len(wanted), CHUNK):
        query = (
            sa.select(_zone)
            .where(_zone.c.camera_id.in_(wanted[first : first + CHUNK]))
            .order_by(_zone.c.camera_id, _zone.c.created_at_us, _zone.c.id)
        )
        for row in (await connection.execute(query)).mappings():
            found.setdefault(row["camera_id"], []).append(
                Zone(
                    id=row["id"],
                    kind=row["kind"],
                    name=row["name"],
                    points=tuple((x, y) for x, y in row["points"]),
                    directions=row["directions"],
                    version=row["version"],
                )
            )
    return {
        camera_id: Zones(tuple(drawn), zones_version(tuple(drawn)))
        for camera_id, drawn in found.items()
    }


async def cameras(connection: AsyncConnection, wanted: Collection[str]) -> list[str]:
    """Which of these cameras are or were there; without any, all of them."""
    query = sa.select(tables.camera.c.id).order_by(tables.camera.c.id)
    if wanted:
        query = query.where(tables.camera.c.id.in_(sorted(wanted)))
    return list((await connection.execute(query)).scalars())


class OldRow(NamedTuple):
    """What marking a stored sighting anew needs of its row, and tells by whether it has changed."""

    id: str
    camera_id: str
    start_us: int
    end_us: int
    sent_at_us: int
    committed_at_us: int
    data: bytes


class Page(NamedTuple):
    """Sightings of a camera in order of start, and where the next page begins; None: no more."""

    rows: Sequence[OldRow]
    after: tuple[int, str] | None


def _old(camera_id: str, version: int, span: Interval, now_us: int) -> sa.ColumnElement[bool]:
    """Unexpired sightings that begin in the span and are marked with other zones."""
    return sa.and_(
        _sighting.c.camera_id == camera_id,
        _sighting.c.start_us >= span[0],
        _sighting.c.start_us < span[1],
        _sighting.c.expires_at_us > now_us,
        _sighting.c.zones_version != version,
    )


async def count_old(
    connection: AsyncConnection, camera_id: str, version: int, span: Interval, now_us: int
) -> int:
    """How many sightings of the camera are to be marked anew."""
    query = (
        sa.select(sa.func.count())
        .select_from(_sighting)
        .where(_old(camera_id, version, span, now_us))
    )
    return int(await connection.scalar(query) or 0)


async def old_page(
    connection: AsyncConnection,
    camera_id: str,
    version: int,
    span: Interval,
    now_us: int,
    after: tuple[int, str] | None,
    limit: int,
) -> Page:
    """The next of them after a place."""
    order = (_sighting.c.start_us, _sighting.c.id)
    if after is not None:
        span = (max(span[0], after[0]), span[1])
    query = (
        sa.select(*(_sighting.c[name] for name in OldRow._fields))
        .where(_old(camera_id, version, span, now_us))
        .order_by(*order)
        .limit(limit)
    )
    if after is not None:
        query = query.where(sa.tuple_(*order) > sa.tuple_(*map(sa.literal, after)))
    found = [OldRow(*row) for row in (await connection.execute(query)).all()]
    return Page(found, (found[-1].start_us, found[-1].id) if len(found) == limit else None)


async def mark(
    connection: AsyncConnection, version: int, found: Sequence[tuple[OldRow, bytes]]
) -> int:
    """Store rows with their zones applied, but for those that an update has changed since they were
    read: the update applied the zones itself. How many were stored."""
    if not found:
        return 0
    same = sa.and_(
        _sighting.c.id == sa.bindparam("row_id"),
        _sighting.c.end_us == sa.bindparam("row_end"),
        _sighting.c.sent_at_us == sa.bindparam("row_sent"),
        _sighting.c.committed_at_us == sa.bindparam("row_committed"),
    )
    update = sa.update(_sighting).where(same)
    update = update.values(data=sa.bindparam("marked"), zones_version=version)
    rows = [
        {
            "row_id": row.id,
            "row_end": row.end_us,
            "row_sent": row.sent_at_us,
            "row_committed": row.committed_at_us,
            "marked": data,
        }
        for row, data in found
    ]
    if connection.dialect.name == "sqlite":
        return int((await connection.execute(update, rows)).rowcount)
    # Elsewhere a driver does not say how many rows it changed by many executions.
    return sum([int((await connection.execute(update, row)).rowcount) for row in rows])
