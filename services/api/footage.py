"""Footage out of wherever it is now: the archive, or the spool of the recorder that still has it.

Builds timelines, judges each segment's readability at this moment, and reads byte ranges. A segment
moves from spool to archive at any time, so each read falls back to the other place
(docs/architecture.md, "Playback and live"; docs/retention.md, "The rule").
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from services.api import media_queries, timeline
from services.api.media_queries import SegmentRow
from services.api.newest import Newest
from services.api.recorder_client import RecorderClient
from services.api.timeline import EXPIRED, UNACCOUNTED, Hole, Piece, Recorded, Timeline
from shared import doubt, retention
from shared.clock import SECOND_US, Clock
from shared.db import Database, policies
from shared.domain import Gap, Hold
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.retention import Access, Facts, Policy
from shared.settings import Settings

SETTLING_US = 2 * SECOND_US
"""The newest seconds are in no file yet, and no row will have them on a second look."""
IN_DOUBT = "in_doubt"
"""It may have expired, and the clocks disagree about it."""


class Watch:
    """What the clocks said at the start, and how far off the object store's was when last asked."""

    def __init__(self, clock: Clock, database: Database, max_error_s: float) -> None:
        self._clock = clock
        self._database = database
        self._max_error_us = round(max_error_s * SECOND_US)
        self._started = clock.now_us(), clock.monotonic_us()
        self._store: tuple[int, int] | None = None

    def store_said(self, store_us: int) -> None:
        """The object store's own time, just read."""
        self._store = store_us, self._clock.monotonic_us()

    async def judge(
        self,
        newest_commit_us: int | None,
        connection: AsyncConnection,
        database_us: int | None = None,
    ) -> doubt.Doubt:
        """Whether the time is doubted now; the database is asked for its time unless it was."""
        if database_us is None:
            database_us = await self._database.now_us(connection)
        monotonic = self._clock.monotonic_us()
        store = None if self._store is None else self._store[0] + monotonic - self._store[1]
        readings = doubt.Readings(
            wall_us=self._clock.now_us(),
            monotonic_us=monotonic,
            started_wall_us=self._started[0],
            started_monotonic_us=self._started[1],
            database_us=database_us,
            newest_commit_us=newest_commit_us,
            store_us=store,
        )
        return doubt.judge(readings, self._max_error_us)


class Judge:
    """Readability at one moment, for one viewer: the policy, the holds and the time it knows."""

    def __init__(
        self,
        policy: Policy,
        holds: Sequence[Hold],
        now_us: int,
        doubted: doubt.Doubt,
        viewer_id: str,
    ) -> None:
        self._policy = policy
        self._holds = holds
        self._now_us = now_us
        self._doubted = doubted
        self._viewer_id = viewer_id

    def closed(self, facts: Facts) -> str:
        """Why the viewer may not see it now; empty: may. `facts` carry the stored expiry."""
        expires = retention.effective_expiry_us(facts.expires_at_us, facts.end_us, self._policy)
        facts = facts._replace(expires_at_us=expires)
        latest = max(self._now_us, self._doubted.latest_us)
        if self._closed_at(facts, latest):
            return EXPIRED if self._closed_at(facts, self._now_us) else IN_DOUBT
        return ""

    def _closed_at(self, facts: Facts, at_us: int) -> bool:
        found = retention.access(facts, self._holds, at_us, self._viewer_id)
        return found is Access.CLOSED

    def facts_of(self, recorded: Recorded) -> Facts:
        """Facts of a segment that has no row yet."""
        segment = recorded.segment
        return Facts(
            segment.camera_id,
            segment.start_us,
            segment.end_us,
            retention.expires_at_us(segment.end_us, self._policy),
            segment.clock_uncertainty_us,
        )

    def has_expired(self, end_us: int) -> bool:
        """Whether footage that ended then would be past its expiry."""
        latest = max(self._now_us, self._doubted.latest_us)
        return retention.expires_at_us(end_us, self._policy) <= latest

    def apply(self, row: SegmentRow) -> Recorded:
        """The segment of a row, marked when it is closed; a claimed one is past its expiry."""
        closed = EXPIRED if row.purging else self.closed(row.facts)
        return row.recorded._replace(closed=closed)


class _Known(NamedTuple):
    """The rows of a range, judged for a viewer."""

    recorded: list[Recorded]
    gaps: Sequence[Gap]
    judge: Judge


class Footage:
    """Reads what was recorded, for one viewer at a time."""

    def __init__(self, platform: Platform, settings: Settings, recorders: RecorderClient) -> None:
        self._platform = platform
        self._settings = settings
        self._recorders = recorders
        self.watch = Watch(platform.clock, platform.database, settings.retention.max_clock_error_s)
        self.newest = Newest(platform.clock)

    async def timeline(
        self, camera_id: str, start_us: int, end_us: int, viewer_id: str
    ) -> Timeline:
        """What the viewer can be shown of [start, end) now, and why not the rest.

        The recorders are asked only where the rows leave something unaccounted.
        """
        now = self._platform.clock.now_us()
        known = await self._known(camera_id, start_us, end_us, viewer_id)
        line = timeline.build(known.recorded, known.gaps, start_us, end_us, now)
        if _unaccounted(line, now) or end_us > now:
            spooled = await self._recorders.segments(camera_id, start_us, end_us)
            line = self._with(known, spooled, line, now)
            if _unaccounted(line, now - SETTLING_US):
                # What a recorder held may have been archived between the two questions.
                known = await self._known(camera_id, start_us, end_us, viewer_id)
                line = self._with(known, spooled, line, now)
        return line._replace(holes=tuple(_named(hole, known.judge) for hole in line.holes))

    def _with(
        self, known: _Known, spooled: Sequence[Recorded], line: Timeline, now_us: int
    ) -> Timeline:
        """The timeline of the range of `line`, of what is known and what recorders hold."""
        held = [each._replace(closed=self._closed(known.judge, each)) for each in spooled]
        found = [*known.recorded, *held]
        return timeline.build(found, known.gaps, line.start_us, line.end_us, now_us)

    async def _known(self, camera_id: str, start_us: int, end_us: int, viewer_id: str) -> _Known:
        """What the rows say now."""
        async with self._platform.database.read() as connection:
            found = await media_queries.segments(connection, camera_id, start_us, end_us)
            gaps = await media_queries.gaps(connection, camera_id, start_us, end_us)
            judge = await self._judge(connection, camera_id, start_us, end_us, viewer_id)
        return _Known([judge.apply(row) for row in found], gaps, judge)

    async def expires_within(self, pieces: Sequence[Piece], within_us: int) -> bool:
        """Whether any of the footage may fall due in the next `within_us`."""
        now = self._platform.clock.now_us()
        async with self._platform.database.read() as connection:
            policy = await policies.newest(connection) or self._default_policy()
            ids = [piece.source.segment.id for piece in pieces]
            first = await media_queries.first_expiry_us(connection, ids)
        known = [retention.expires_at_us(piece.source.segment.end_us, policy) for piece in pieces]
        return min([*known, first] if first is not None else known) <= now + within_us

    async def find(
        self, camera_id: str, segment_id: str, start_us: int, end_us: int, viewer_id: str
    ) -> Recorded:
        """One segment of the camera, wherever it is, marked when the viewer may not see it now.

        NOT_FOUND when there is none of that id on this camera that touches [start, end).
        """
        found = await self._row(camera_id, segment_id, start_us, end_us, viewer_id)
        if found is None:
            spooled = await self._recorders.segments(camera_id, start_us, end_us)
            for each in spooled:
                if each.segment.id == segment_id:
                    async with self._platform.database.read() as connection:
                        judge = await self._judge(
                            connection, camera_id, start_us, end_us, viewer_id
                        )
                    return each._replace(closed=self._closed(judge, each))
            # It may have been archived between the two questions.
            found = await self._row(camera_id, segment_id, start_us, end_us, viewer_id)
        if found is None:
            raise LamppostError(
                Kind.NOT_FOUND, "There is no such segment here.", fix="Read the playlist again."
            )
        return found

    async def _row(
        self, camera_id: str, segment_id: str, start_us: int, end_us: int, viewer_id: str
    ) -> Recorded | None:
        async with self._platform.database.read() as connection:
            row = await media_queries.segment(connection, segment_id)
            if row is None:
                return None
            segment = row.recorded.segment
            overlaps = segment.start_us < end_us and start_us < segment.end_us
            if segment.camera_id != camera_id or not overlaps:
                return None
            judge = await self._judge(connection, camera_id, start_us, end_us, viewer_id)
        return judge.apply(row)

    async def _judge(
        self,
        connection: AsyncConnection,
        camera_id: str,
        start_us: int,
        end_us: int,
        viewer_id: str,
    ) -> Judge:
        policy = await policies.newest(connection) or self._default_policy()
        holds = await media_queries.holds(connection, camera_id, start_us, end_us)
        doubted = await self.watch.judge(await self.newest.read(connection), connection)
        return Judge(policy, holds, self._platform.clock.now_us(), doubted, viewer_id)

    def _default_policy(self) -> Policy:
        own = self._settings.retention
        return Policy(0, own.days, own.basis, self._settings.site.timezone)

    @staticmethod
    def _closed(judge: Judge, recorded: Recorded) -> str:
        return judge.closed(judge.facts_of(recorded))

    async def open(self, recorded: Recorded, offset: int, size: int) -> AsyncIterator[bytes]:
        """The bytes of a range, from the first place that has them; NOT_FOUND when none has.

        The first piece is there when this returns, so that a failure can still be answered.
        """
        places: list[AsyncIterator[bytes]] = []
        if recorded.key:
            places.append(self._platform.blobs.stream(recorded.key, offset, size))
        if recorded.url:
            places.append(self._recorders.stream(recorded.url, recorded.segment.id, offset, size))
        for place in places:
            if (found := await _begun(place)) is not None:
                return found
        async with self._platform.database.read() as connection:
            row = await media_queries.segment(connection, recorded.segment.id)
        if row is not None and row.recorded.key != recorded.key:
            place = self._platform.blobs.stream(row.recorded.key, offset, size)
            if (found := await _begun(place)) is not None:
                return found
        raise LamppostError(
            Kind.NOT_FOUND, "The footage is no longer there.", fix="Open a new session."
        )

    async def read(self, recorded: Recorded, offset: int, size: int) -> bytes:
        """The same, whole; the caller bounds `size`."""
        return b"".join([piece async for piece in await self.open(recorded, offset, size)])

    async def read_store_clock(self) -> None:
        """Ask the object store for its time; one that does not answer is not doubt by itself."""
        try:
            async with asyncio.timeout(2.0):
                self.watch.store_said(await self._platform.blobs.time_us())
        except (LamppostError, TimeoutError):
            return


def _unaccounted(line: Timeline, before_us: int) -> bool:
    """Whether nothing is known of seconds that began before then."""
    return any(hole.reason == UNACCOUNTED and hole.start_us < before_us for hole in line.holes)


async def _begun(place: AsyncIterator[bytes]) -> AsyncIterator[bytes] | None:
    """The stream with its first piece in hand, or None when nothing is there."""
    try:
        first = await anext(place)
    except StopAsyncIteration:
        return None
    except LamppostError as error:
        if error.kind in (Kind.NOT_FOUND, Kind.RANGE_NOT_SATISFIABLE):
            return None
        raise
    return _chained(first, place)


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for piece in rest:
            yield piece
    finally:
        # A reader that stops early must not leave a file or a connection open behind it.
        close = getattr(rest, "aclose", None)
        if close is not None:
            await close()


def _named(hole: Hole, judge: Judge) -> Hole:
    """A second without a row that would be past its expiry is called expired: its rows are gone."""
    if hole.reason == UNACCOUNTED and judge.has_expired(hole.end_us):
        return hole._replace(reason=EXPIRED)
    return hole
