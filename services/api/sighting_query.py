"""Searching sightings: a walk from newest to oldest, in bounded steps, over what a person may see.

The walk takes time in windows that grow while little is found, so that the newest page of a city
and a rare hit of a month cost about the same; a request stops at a number of rows tested and of
camera time looked through, and the cursor goes on from there (docs/guide/analyst.md, "Limits").
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from fastapi import Query
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api import pagination, queries_coverage, queries_sightings, times
from services.api.access import Why
from services.api.context import ApiContext
from services.api.deps import Granted
from services.api.models import TimeText
from services.api.queries_sightings import BUCKET_US, LONGEST_US, Candidate, Position, Slice
from services.api.sighting_filters import Asked, within
from services.api.sighting_scope import MAX_AUDITED, Eye, Scope, eye, resolve
from shared.clock import DAY_US, HOUR_US
from shared.coverage import Coverage
from shared.db.sighting_data import sighting_of
from shared.errors import Kind, LamppostError
from shared.intervals import Interval
from shared.sightings import Sighting

DEFAULT_RANGE_US = DAY_US
MAX_RANGE_US = 31 * DAY_US
FIRST_LOOK_US = 16 * HOUR_US
"""Camera time of the first window: at night too it mostly holds a page, and what it holds beyond
one costs an index entry each, where another window costs a statement."""
GROWTH = 4
MAX_LOOK_US = 62 * DAY_US
"""Camera time that one request looks through."""
MAX_TESTED = 4_000
"""Rows that one request decodes and tests."""
CHUNK = 400
HITS, COUNTS = "sightings", "sighting-counts"
"""Whose cursor it is."""

Since = Annotated[
    TimeText | None,
    Query(description="From when, local time or RFC 3339; default: a day before `until`."),
]
Until = Annotated[TimeText | None, Query(description="Until when; default: now.")]


class Hit(NamedTuple):
    """A row that was found, decoded."""

    row: Candidate
    sighting: Sighting


class When(NamedTuple):
    """The time asked, and where the page before stopped."""

    span: Interval
    after: Position


def when_of(
    context: ApiContext,
    since: str | None,
    until: str | None,
    cursor: str | None = None,
    kind: str = HITS,
) -> When:
    """The time of a request. A cursor carries the time of its first page, so that "now" stays."""
    key = pagination.decode(kind, cursor, int, str, int, int)
    zone = context.zone
    if until is not None:
        end_us = times.instant(until, zone)
    else:
        end_us = int(key[3]) if key else context.now_us()
    if since is not None:
        start_us = times.instant(since, zone)
    else:
        start_us = int(key[2]) if key else max(0, end_us - DEFAULT_RANGE_US)
    if not times.FIRST_US <= start_us < end_us <= times.LAST_US:
        raise LamppostError(
            Kind.INVALID, "`until` is not after `since`.", fix="Name `since` before `until`."
        )
    if end_us - start_us > MAX_RANGE_US:
        raise LamppostError(
            Kind.INVALID,
            f"The range is longer than {MAX_RANGE_US // DAY_US} days.",
            fix="Ask for it in parts.",
        )
    span = (start_us, end_us)
    if key is None:
        return When(span, Position(end_us))
    after = Position(int(key[0]), str(key[1]))
    return When(span, min(after, Position(end_us)))


def cursor_of(position: Position | None, span: Interval, kind: str = HITS) -> str | None:
    """Where the next request goes on, None at the end."""
    if position is None:
        return None
    return pagination.encode(kind, position.start_us, position.id, *span)


class Search(NamedTuple):
    """One request's search, allowed and written down."""

    granted: Granted
    why: Why
    scope: Scope
    span: Interval

    @property
    def context(self) -> ApiContext:
        return self.granted.context


async def begin(
    granted: Granted, asked: Asked, why: Why, span: Interval, cursor: str | None = None
) -> Search:
    """Judge the search and commit its audit record: nothing is looked for before (invariant 8)."""
    async with granted.context.platform.database.read() as connection:
        scope, refused = await resolve(granted, connection, asked, why)
    detail = asked.detail()
    ids = scope.camera_ids
    if len(ids) > MAX_AUDITED:
        detail["cameras"] = len(ids)
    if cursor is not None:
        detail["cursor"] = cursor
    await granted.record(
        camera_ids=ids if len(ids) <= MAX_AUDITED else (),
        start_us=span[0],
        end_us=span[1],
        why=why,
        result="ok" if refused is None else "refused",
        detail=detail,
    )
    if refused is not None:
        raise refused
    return Search(granted, why, scope, span)


class Walk:
    """Candidates from newest to oldest, a window at a time."""

    def __init__(self, search: Search, view: Eye, after: Position) -> None:
        self._slice = slice_of(search, view)
        self._floor_us = search.span[0] - LONGEST_US
        cameras = max(1, len(search.scope.places))
        # One camera's rows come in order out of the index, so it needs no window.
        look_us = MAX_RANGE_US + LONGEST_US if cameras == 1 else FIRST_LOOK_US
        self._most_us = max(1, MAX_LOOK_US // cameras)
        self._width_us = max(1, look_us // cameras)
        self._until_us = after.start_us
        self._low_us = max(self._floor_us, after.start_us - self._width_us)
        self.position = after
        self.done = not search.scope.places
        self.tested = 0

    @property
    def spent(self) -> bool:
        """Whether this request has done its share."""
        looked_us = self._until_us - self.position.start_us
        return self.tested >= MAX_TESTED or looked_us >= self._most_us

    async def step(self, connection: AsyncConnection, limit: int) -> list[Candidate]:
        """The next rows, at most `limit`; may be none while there are more to come."""
        rows = await queries_sightings.candidates(
            connection, self._slice, self._low_us, self.position, limit
        )
        self.tested += len(rows)
        if len(rows) == limit:
            self.position = Position(rows[-1].start_us, rows[-1].id)
            return rows
        self.position = Position(self._low_us)
        self.done = self._low_us <= self._floor_us
        self._width_us = min(self._width_us * GROWTH, self._most_us)
        self._low_us = max(self._floor_us, self._low_us - self._width_us)
        return rows


def slice_of(search: Search, view: Eye) -> Slice:
    """The rows of a search."""
    return Slice(
        search.scope.camera_ids,
        search.span,
        search.scope.filters,
        view.open_after_us,
        view.ended_after_us,
        search.scope.every,
        view.filing,
    )


class Found(NamedTuple):
    """One page: hits newest first, where to go on (None: no more), and what was looked through."""

    hits: list[Hit]
    next: Position | None
    looked: Interval
    view: Eye


async def page(search: Search, connection: AsyncConnection, after: Position, limit: int) -> Found:
    """At most `limit` hits after the position."""
    view = await eye_of(search, connection)
    walk = Walk(search, view, after)
    exact = search.scope.filters.exact
    hits: list[Hit] = []
    while not walk.done and not walk.spent and len(hits) <= limit:
        room = limit + 1 - len(hits)
        rows = await walk.step(connection, CHUNK if exact or view.holds else room)
        hits += _tested(search, view, rows)
    if len(hits) > limit:
        hits = hits[:limit]
        row = hits[-1].row
        more: Position | None = Position(row.start_us, row.id)
    else:
        more = None if walk.done else walk.position
    return Found(hits, more, _looked(search.span, after, more), view)


async def eye_of(search: Search, connection: AsyncConnection) -> Eye:
    return await eye(
        search.context,
        connection,
        search.granted.principal.id,
        search.scope.camera_ids,
        search.span,
    )


def _tested(search: Search, view: Eye, rows: list[Candidate]) -> list[Hit]:
    """The candidates that are hits and may be seen."""
    filters = search.scope.filters
    found = []
    for row in rows:
        sighting = sighting_of(row)
        # Rows in the order of time are those of every camera, of one added meanwhile too.
        if row.camera_id not in search.scope.places:
            continue
        if within(sighting, filters, search.span) and not view.closed(row, sighting):
            found.append(Hit(row, sighting))
    return found


def _looked(span: Interval, after: Position, more: Position | None) -> Interval:
    """The part of the time asked between two positions: the parts of all pages make the whole."""
    end_us = min(max(after.start_us, span[0]), span[1])
    start_us = span[0] if more is None else min(max(more.start_us, span[0]), end_us)
    return start_us, end_us


async def covered(
    search: Search, connection: AsyncConnection, view: Eye, looked: Interval
) -> Coverage:
    """How much of what was looked through anybody looked at."""
    return await queries_coverage.covered(
        connection,
        search.scope.camera_ids,
        looked,
        search.context.now_us(),
        view.open_after_us,
        view.filing,
        every=search.scope.every,
    )


class Counted(NamedTuple):
    """Counts by quarter hour of the part looked through; `next` as of a page."""

    quarters: dict[int, int]
    next: Position | None
    looked: Interval
    view: Eye


async def count(search: Search, connection: AsyncConnection, after: Position) -> Counted:
    """Counts of the hits after the position, as far as one request goes."""
    view = await eye_of(search, connection)
    if search.scope.filters.exact or view.holds:
        return await _count_each(search, connection, view, after)
    floor_us = search.span[0] - LONGEST_US
    cameras = max(1, len(search.scope.places))
    low_us = max(floor_us, after.start_us - max(1, MAX_LOOK_US // cameras))
    quarters = await queries_sightings.counts(
        connection, slice_of(search, view), low_us, after.start_us
    )
    more = None if low_us <= floor_us else Position(low_us)
    return Counted(quarters, more, _looked(search.span, after, more), view)


async def _count_each(
    search: Search, connection: AsyncConnection, view: Eye, after: Position
) -> Counted:
    """The same where each row must be tested."""
    walk = Walk(search, view, after)
    quarters: dict[int, int] = {}
    while not walk.done and not walk.spent:
        for hit in _tested(search, view, await walk.step(connection, CHUNK)):
            begin_us = max(hit.row.start_us, search.span[0])
            key = begin_us // BUCKET_US * BUCKET_US
            quarters[key] = quarters.get(key, 0) + 1
    more = None if walk.done else walk.position
    return Counted(quarters, more, _looked(search.span, after, more), view)
