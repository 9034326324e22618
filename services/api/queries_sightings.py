"""The SQL of searches of sightings: candidates newest first, counts, thumbnails.

What stands in columns is judged inside index `ix_sighting_search`, which holds all of them, so that
a row is read only once it is a candidate. Ranges of `start_us` begin a longest sighting before the
time asked, and `end_us` decides the rest. On PostgreSQL each query also names the recording dates
that its time can stand under, so that only their partitions are opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.access import Subject
from services.api.filing import ANY_ZONE, Filing, days_of
from services.api.queries import LONGEST_SEGMENT_US, in_scope
from services.api.sighting_filters import Filters
from shared.clock import SECOND_US
from shared.db import tables
from shared.db.indexes import ROUNDING, TIME, real
from shared.db.one_of import one_of, texts
from shared.domain import Purpose
from shared.intervals import Interval
from shared.sightings import MAX_SIGHTING_S

LONGEST_US = (MAX_SIGHTING_S + 60) * SECOND_US
"""No sighting is longer: a track ends after 10 minutes, at the next frame it is in."""
BUCKET_US = 900 * SECOND_US
"""Counts are grouped by quarter hours: every zone's offset is a multiple of it."""
_sighting, _camera, _zone = tables.sighting, tables.camera, tables.zone
_segment, _thumbnail = tables.segment, tables.thumbnail


class Place(NamedTuple):
    """What a search needs of a camera."""

    id: str
    name: str
    district: str
    site_kind: str
    purposes: tuple[Purpose, ...]
    latitude: float | None
    longitude: float | None


class _Config(msgspec.Struct):
    purposes: tuple[Purpose, ...] = tuple(Purpose)
    latitude: float | None = None
    longitude: float | None = None


_config = msgspec.json.Decoder(_Config)


async def places(
    connection: AsyncConnection, subject: Subject, camera_ids: Sequence[str]
) -> list[Place]:
    """The cameras named, or all in the person's scope; deleted ones too: their footage counts."""
    c = _camera.c
    query = sa.select(c.id, c.name, c.district, c.site_kind, c.config).order_by(c.id)
    query = query.where(c.id.in_(camera_ids) if camera_ids else in_scope(subject))
    found = []
    for camera_id, name, district, site_kind, config in (await connection.execute(query)).all():
        known = _config.decode(config)
        found.append(
            Place(
                camera_id,
                name,
                district,
                site_kind,
                known.purposes,
                known.latitude,
                known.longitude,
            )
        )
    return found


async def zones(
    connection: AsyncConnection, camera_ids: Sequence[str], kind: str, names: Sequence[str]
) -> Sequence[RowMapping]:
    """Zones or lines of the cameras that have one of these ids or names (letter case apart)."""
    c = _zone.c
    lowered = [name.lower() for name in names]
    query = sa.select(_zone).where(
        c.kind == kind,
        c.camera_id.in_(camera_ids),
        sa.or_(c.id.in_(names), c.name.in_(names), sa.func.lower(c.name).in_(lowered)),
    )
    return (await connection.execute(query)).mappings().all()


class Slice(NamedTuple):
    """Which rows: cameras, the time asked, and what may be seen of it."""

    camera_ids: tuple[str, ...]
    span: Interval
    filters: Filters
    open_after_us: int | None
    """Hide what expired by then; None: each row is judged by itself (an officer's holds)."""
    ended_after_us: int
    """Nothing that ended until then is open (0: no such limit)."""
    every: bool = False
    """Whether these are all the cameras there are."""
    filing: Filing = ANY_ZONE


class Position(NamedTuple):
    """Newest first: everything after this row, which begins earlier or has a smaller id."""

    start_us: int
    id: str = ""


class Candidate(NamedTuple):
    """A row whose columns fit."""

    id: str
    camera_id: str
    start_us: int
    end_us: int
    expires_at_us: int
    ended: bool
    data: bytes


def on_days(table: sa.Table) -> sa.ColumnElement[bool]:
    """Whether a row stands on the dates of `days_of`: for PostgreSQL alone, since on SQLite no
    index that decides a query holds the date."""
    first = sa.bindparam("first_day", type_=sa.Date)
    return table.c.recording_date.between(first, sa.bindparam("last_day", type_=sa.Date))


def _base(dialect: str, wanted: Slice) -> list[sa.ColumnElement[bool]]:
    """What every search asks of columns, with the parameters of `_values`."""
    c = _sighting.c
    begin = _begin(dialect, wanted)
    found = [
        c.end_us > sa.bindparam("ended_us", type_=sa.BigInteger),
        c.expires_at_us > sa.bindparam("open_us", type_=sa.BigInteger),
        begin >= sa.bindparam("low_us", type_=sa.BigInteger),
    ]
    if dialect == "postgresql":
        found.append(on_days(_sighting))
    if not by_time(dialect, wanted):
        found.append(one_of(dialect, c.camera_id, "cameras", len(wanted.camera_ids)))
    return found


def _values(
    connection: AsyncConnection, wanted: Slice, low_us: int, high_us: int
) -> dict[str, Any]:
    dialect = connection.dialect.name
    values = {
        "ended_us": max(wanted.span[0], wanted.ended_after_us),
        "open_us": -1 if wanted.open_after_us is None else wanted.open_after_us,
        "low_us": low_us,
        **days_of(connection, low_us, high_us, wanted.filing),
    }
    if not by_time(dialect, wanted):
        values["cameras"] = texts(dialect, wanted.camera_ids)
    return values


def by_time(dialect: str, wanted: Slice) -> bool:
    """Whether rows are read in the order of time, whatever their camera: nearly all are hits, and
    PostgreSQL has an index of that order."""
    filters = wanted.filters
    return dialect == "postgresql" and wanted.every and not (filters.of_columns or filters.exact)


def _narrowing(dialect: str, wanted: Slice) -> list[sa.ColumnElement[bool]]:
    """What the filters ask of columns."""
    c, filters, (since_us, until_us) = _sighting.c, wanted.filters, wanted.span
    found: list[sa.ColumnElement[bool]] = []
    for column, values in (
        (c.class_name, filters.classes),
        (c.speed, filters.speeds),
        (c.colour_upper, filters.upper),
        (c.colour_lower, filters.lower),
        (c.colour_vehicle, filters.vehicle),
    ):
        if values:
            found.append(column.in_(values))
    if filters.colours:
        parts = (c.colour_upper, c.colour_lower, c.colour_vehicle)
        found.append(sa.or_(*(part.in_(filters.colours) for part in parts)))
    if filters.min_confidence:
        found.append(c.confidence >= filters.min_confidence)
    if least_us := filters.min_dwell_us:
        # Whoever is in a zone or polygon so long is in the picture so long within the time too.
        found += [
            c.end_us - c.start_us >= least_us,
            c.end_us >= since_us + least_us,
            c.start_us <= until_us - least_us,
        ]
    for min_x, min_y, max_x, max_y in filters.boxes():
        found += [c.max_x >= min_x, c.min_x <= max_x, c.max_y >= min_y, c.min_y <= max_y]
        if dialect == "postgresql":
            found += [_real("max_x") >= min_x - ROUNDING, _real("min_x") <= max_x + ROUNDING]
            found += [_real("max_y") >= min_y - ROUNDING, _real("min_y") <= max_y + ROUNDING]
    return found


def _real(column: str) -> Any:
    """A bound as the index has it."""
    return sa.literal_column(real(f"sighting.{column}"), sa.REAL)


Conditions = Sequence[sa.ColumnElement[bool]]


def _begin(dialect: str, wanted: Slice) -> Any:
    """When a sighting begins, as the index that is meant has it."""
    if by_time(dialect, wanted):
        return sa.literal_column(TIME.replace("start_us", "sighting.start_us"), sa.BigInteger)
    return _sighting.c.start_us


def _candidate_query(begin: Any, conditions: Conditions, *, cut: bool) -> sa.Select[Any]:
    """On PostgreSQL, whose index decides all that is compared with a value (shared/db/indexes.py),
    so that a row is read once it is a candidate. `cut`: the index alone tells first how far back
    the page goes, since the rows of several cameras come out of it camera by camera."""
    query = _ordered(sa.select(*_columns()), begin, conditions)
    if not cut:
        return query
    c = _sighting.c
    # Strictly before the position, of whose instant the index cannot tell which rows come after it.
    first = (
        sa.select(c.start_us)
        .where(*conditions, c.start_us < sa.bindparam("after_us", type_=sa.BigInteger))
        .order_by(c.start_us.desc())
        .limit(sa.bindparam("most", type_=sa.Integer))
        .subquery("first")
    )
    last_us = sa.select(sa.func.min(first.c.start_us)).scalar_subquery()
    low_us = sa.bindparam("low_us", type_=sa.BigInteger)
    return query.where(c.start_us >= sa.func.coalesce(last_us, low_us))


def _sqlite_candidate_query(conditions: Conditions) -> sa.Select[Any]:
    """The index alone decides which rows are the newest; then each of those is read, once."""
    c, row = _sighting.c, sa.literal_column("sighting.rowid", sa.Integer)
    query = sa.select(row.label("row"), c.start_us, c.id)
    first = _ordered(query, c.start_us, conditions).subquery("first")
    return (
        sa.select(*_columns())
        .select_from(first.join(_sighting, row == first.c.row))
        .order_by(first.c.start_us.desc(), first.c.id.desc())
    )


def _columns() -> Sequence[sa.ColumnElement[Any]]:
    return [_sighting.c[name] for name in Candidate._fields]


def _ordered(query: sa.Select[Any], begin: Any, conditions: Conditions) -> sa.Select[Any]:
    c = _sighting.c
    after_us = sa.bindparam("after_us", type_=sa.BigInteger)
    return (
        query.where(
            *conditions,
            begin <= after_us,
            sa.or_(c.start_us < after_us, c.id < sa.bindparam("after_id", type_=sa.Text)),
        )
        .order_by(begin.desc(), c.id.desc())
        .limit(sa.bindparam("most", type_=sa.Integer))
    )


_MADE: dict[tuple[str, bool, bool, bool], sa.Select[Any]] = {}
"""Without filters of columns: made once each. Making one costs more than running it."""


def _query_of(dialect: str, wanted: Slice) -> sa.Select[Any]:
    single = len(wanted.camera_ids) == 1
    kind = (dialect, by_time(dialect, wanted), single, wanted.filters.exact)
    narrowing = _narrowing(dialect, wanted)
    if not narrowing and kind in _MADE:
        return _MADE[kind]
    conditions = [*_base(dialect, wanted), *narrowing]
    if dialect == "postgresql":
        in_order = single or by_time(dialect, wanted) or wanted.filters.exact
        made = _candidate_query(_begin(dialect, wanted), conditions, cut=not in_order)
    else:
        made = _sqlite_candidate_query(conditions)
    if not narrowing:
        _MADE[kind] = made
    return made


async def candidates(
    connection: AsyncConnection, wanted: Slice, low_us: int, after: Position, limit: int
) -> list[Candidate]:
    """Rows that begin at or after `low_us` and come after the position, newest first."""
    query = _query_of(connection.dialect.name, wanted)
    values = _values(connection, wanted, low_us, after.start_us)
    values |= {"after_us": after.start_us, "after_id": after.id, "most": limit}
    return [Candidate(*row) for row in (await connection.execute(query, values)).all()]


async def counts(
    connection: AsyncConnection, wanted: Slice, low_us: int, high_us: int
) -> dict[int, int]:
    """How many begin in each quarter hour of [low, high), by columns alone; what began before the
    time asked counts at its begin. Keys are multiples of BUCKET_US."""
    c, since_us = _sighting.c, wanted.span[0]
    begin = sa.case((c.start_us < since_us, sa.literal(since_us)), else_=c.start_us)
    bucket = (begin // sa.literal_column(str(BUCKET_US))).label("bucket")
    dialect = connection.dialect.name
    query = (
        sa.select(bucket, sa.func.count())
        .where(
            *_base(dialect, wanted), _begin(dialect, wanted) < high_us, *_narrowing(dialect, wanted)
        )
        .group_by(bucket)
    )
    found = await connection.execute(query, _values(connection, wanted, low_us, high_us))
    return {int(key) * BUCKET_US: int(n) for key, n in found.all()}


async def one(connection: AsyncConnection, sighting_id: str) -> Candidate | None:
    c = _sighting.c
    query = sa.select(
        c.id, c.camera_id, c.start_us, c.end_us, c.expires_at_us, c.ended, c.data
    ).where(c.id == sighting_id)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Candidate(*row)


async def thumbnail(connection: AsyncConnection, sighting_id: str) -> tuple[int, bytes] | None:
    """Capture time and JPEG."""
    query = sa.select(_thumbnail.c.captured_us, _thumbnail.c.jpeg).where(
        _thumbnail.c.sighting_id == sighting_id
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else (row[0], row[1])


async def seen_segments(
    connection: AsyncConnection, camera_id: str, span: Interval
) -> Sequence[RowMapping]:
    """Segments that touch the span, with their boxes objects' facts, in order of time."""
    c = _segment.c
    query = (
        sa.select(_segment)
        .where(
            c.camera_id == camera_id,
            c.state == "live",
            c.end_us > span[0],
            c.end_us < span[1] + LONGEST_SEGMENT_US,
            c.start_us < span[1],
        )
        .order_by(c.end_us)
    )
    days = days_of(connection, span[0], span[1] + LONGEST_SEGMENT_US)
    if days:
        query = query.where(on_days(_segment))
    return (await connection.execute(query, days)).mappings().all()
