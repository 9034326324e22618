"""The SQL of searches of sightings: candidates newest first, counts, thumbnails.

What stands in columns is judged inside index `ix_sighting_search`, which holds all of them, so that
a row is read only once it is a candidate. Ranges of `start_us` begin a longest sighting before the
time asked, and `end_us` decides the rest. On PostgreSQL each query also names the recording dates
that its time can stand under, so that only their partitions are opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from services.api.access import Subject
from services.api.newest import Newest
from services.api.newest import query as newest_query
from services.api.queries import LONGEST_SEGMENT_US, in_scope
from services.api.sighting_filters import Filters
from shared.clock import SECOND_US
from shared.db import tables
from shared.db.partitions import days_within
from shared.domain import Purpose
from shared.intervals import Interval
from shared.retention import Policy
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


class Moment(NamedTuple):
    """What readability is judged by: the newest policy (None: none yet), whether there is any hold,
    and when the newest segment was committed."""

    policy: Policy | None
    held: bool
    newest_commit_us: int | None


@cache
def _moment_query(dialect: str) -> sa.Select[Any]:
    p = tables.policy.c
    newest = newest_query(dialect).scalar_subquery()
    held = sa.exists(sa.select(tables.hold.c.id)).label("held")
    one_row = sa.select(sa.literal(1).label("one")).subquery()
    return (
        sa.select(held, newest, *(p[name] for name in Policy._fields))
        .select_from(one_row.join(tables.policy, sa.true(), isouter=True))
        .order_by(p.version.desc())
        .limit(1)
    )


async def moment(connection: AsyncConnection, newest: Newest) -> Moment:
    """In one statement, since every search asks for it."""
    dialect = connection.dialect.name
    values = newest.values(dialect)
    row = (await connection.execute(_moment_query(dialect), values)).one()
    policy = None if row[2] is None else Policy(*row[2:])
    return Moment(policy, bool(row[0]), newest.told(values, row[1]))


class Slice(NamedTuple):
    """Which rows: cameras, the time asked, and what may be seen of it."""

    camera_ids: tuple[str, ...]
    span: Interval
    filters: Filters
    open_after_us: int | None
    """Hide what expired by then; None: each row is judged by itself (an officer's holds)."""
    ended_after_us: int
    """Nothing that ended until then is open (0: no such limit)."""


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


class _Texts(FunctionElement[Any]):
    """The texts of a JSON list, as rows with a column `value`."""

    inherit_cache = True


@compiles(_Texts)
def _texts(element: _Texts, compiler: Any, **kw: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **kw)})"


@compiles(_Texts, "postgresql")
def _texts_postgresql(element: _Texts, compiler: Any, **kw: Any) -> str:
    return f"jsonb_array_elements_text(CAST({compiler.process(element.clauses, **kw)} AS JSONB))"


def one_of(column: Any, cameras: Any) -> sa.ColumnElement[bool]:
    """Whether the column is one of a JSON list of ids. As `in_`, but one parameter: hundreds of
    them cost more to write down than the rows to find."""
    ids = _Texts(cameras).table_valued("value")
    found: sa.ColumnElement[bool] = column.in_(sa.select(ids.c.value))
    return found


def ids_json(cameras: Sequence[str]) -> str:
    """The parameter of `one_of`."""
    return msgspec.json.encode(cameras).decode()


def on_days(table: sa.Table) -> sa.ColumnElement[bool]:
    """Whether a row stands on the dates of `days_of`: for PostgreSQL alone, since on SQLite no
    index that decides a query holds the date."""
    first = sa.bindparam("first_day", type_=sa.Date)
    return table.c.recording_date.between(first, sa.bindparam("last_day", type_=sa.Date))


def days_of(connection: AsyncConnection, low_us: int, high_us: int) -> dict[str, Any]:
    """The parameters of `on_days`; none on SQLite."""
    if connection.dialect.name != "postgresql":
        return {}
    first, last = days_within(low_us, high_us)
    return {"first_day": first, "last_day": last}


def _base() -> list[sa.ColumnElement[bool]]:
    """What every search asks of columns, with parameters (`_values`), so that it is made once."""
    c = _sighting.c
    return [
        one_of(c.camera_id, sa.bindparam("cameras", type_=sa.Text)),
        c.end_us > sa.bindparam("ended_us", type_=sa.BigInteger),
        c.expires_at_us > sa.bindparam("open_us", type_=sa.BigInteger),
        c.start_us >= sa.bindparam("low_us", type_=sa.BigInteger),
    ]


def _values(wanted: Slice, low_us: int) -> dict[str, Any]:
    return {
        "cameras": ids_json(wanted.camera_ids),
        "ended_us": max(wanted.span[0], wanted.ended_after_us),
        "open_us": -1 if wanted.open_after_us is None else wanted.open_after_us,
        "low_us": low_us,
    }


def _narrowing(wanted: Slice) -> list[sa.ColumnElement[bool]]:
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
    return found


def _candidate_query(narrowing: Sequence[sa.ColumnElement[bool]] = ()) -> sa.Select[Any]:
    """On PostgreSQL, whose planner decides by itself when to read the rows."""
    return _ordered(sa.select(*_columns()), [on_days(_sighting), *narrowing])


def _sqlite_candidate_query(narrowing: Sequence[sa.ColumnElement[bool]] = ()) -> sa.Select[Any]:
    """The index alone decides which rows are the newest; then each of those is read, once."""
    c, row = _sighting.c, sa.literal_column("sighting.rowid", sa.Integer)
    first = _ordered(sa.select(row.label("row"), c.start_us, c.id), narrowing).subquery("first")
    return (
        sa.select(*_columns())
        .select_from(first.join(_sighting, row == first.c.row))
        .order_by(first.c.start_us.desc(), first.c.id.desc())
    )


def _columns() -> Sequence[sa.ColumnElement[Any]]:
    return [_sighting.c[name] for name in Candidate._fields]


def _ordered(query: sa.Select[Any], narrowing: Sequence[sa.ColumnElement[bool]]) -> sa.Select[Any]:
    c = _sighting.c
    after_us = sa.bindparam("after_us", type_=sa.BigInteger)
    return (
        query.where(
            *_base(),
            c.start_us <= after_us,
            sa.or_(c.start_us < after_us, c.id < sa.bindparam("after_id", type_=sa.Text)),
            *narrowing,
        )
        .order_by(c.start_us.desc(), c.id.desc())
        .limit(sa.bindparam("most", type_=sa.Integer))
    )


_MAKERS = {"sqlite": _sqlite_candidate_query, "postgresql": _candidate_query}
_CANDIDATES = {dialect: make() for dialect, make in _MAKERS.items()}
"""Without filters of columns: made once."""


async def candidates(
    connection: AsyncConnection, wanted: Slice, low_us: int, after: Position, limit: int
) -> list[Candidate]:
    """Rows that begin at or after `low_us` and come after the position, newest first."""
    dialect = connection.dialect.name
    narrowing = _narrowing(wanted)
    query = _MAKERS[dialect](narrowing) if narrowing else _CANDIDATES[dialect]
    values = _values(wanted, low_us)
    values |= {"after_us": after.start_us, "after_id": after.id, "most": limit}
    values |= days_of(connection, low_us, after.start_us)
    return [Candidate(*row) for row in (await connection.execute(query, values)).all()]


async def counts(
    connection: AsyncConnection, wanted: Slice, low_us: int, high_us: int
) -> dict[int, int]:
    """How many begin in each quarter hour of [low, high), by columns alone; what began before the
    time asked counts at its begin. Keys are multiples of BUCKET_US."""
    c, since_us = _sighting.c, wanted.span[0]
    begin = sa.case((c.start_us < since_us, sa.literal(since_us)), else_=c.start_us)
    bucket = (begin // sa.literal_column(str(BUCKET_US))).label("bucket")
    query = (
        sa.select(bucket, sa.func.count())
        .where(*_base(), c.start_us < high_us, *_narrowing(wanted))
        .group_by(bucket)
    )
    days = days_of(connection, low_us, high_us)
    if days:
        query = query.where(on_days(_sighting))
    found = await connection.execute(query, _values(wanted, low_us) | days)
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
