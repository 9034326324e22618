"""`archive --index`: sightings from the bus into rows, each as its newest update says.

A sighting has a deterministic id and is sent whole at each update, so that writing it again, late
or out of order changes nothing (docs/invariants.md, 9): of two updates the one that saw more wins.
What the last transaction wrote is known by its mark when it comes again (consumed.py).
It expires with its footage, by capture time. Its zones are those of the table at the moment of the
write, whatever the detector knew. One that nobody updates for a minute is closed; should its
detector come back after all, its next update opens it again. docs/architecture.md, "archive".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import date
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from services.archive import queries_index as queries
from services.archive import share
from services.archive.commit import default_policy
from services.archive.consumed import Consumed
from services.archive.queries_index import NO_ZONES, Rank
from services.archive.share import MAX_RECORDS
from shared import ids, metrics, runtime, tracing
from shared.bus import Consumer, Record
from shared.bus.letters import Letters
from shared.clock import SECOND_US
from shared.db import policies
from shared.db.partitions import days_near
from shared.db.rows import SightingRows
from shared.errors import Kind, LamppostError
from shared.messages import SIGHTINGS, SightingUpdated, decode
from shared.platform import Platform
from shared.runtime import Stop
from shared.settings import Settings
from shared.sightings import GROUPS, LONGEST_ROW_S, marked

GROUP = "archive-index"
SILENT_US = 60 * SECOND_US
LOOK_US = 5 * SECOND_US
MAX_THUMBNAIL = 64 * 1024
MAX_SPAN_US = LONGEST_ROW_S * SECOND_US
LATEST_US = 1 << 53
"""In 2255. No column holds an arbitrary number."""
NO_PICTURE = (-1, b"")
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_JPEG = b"\xff\xd8\xff"


class Heard(NamedTuple):
    """A message: how new it is, what it says and how it came."""

    rank: Rank
    """Of two updates of a sighting the greater one counts; the table compares rows alike."""
    event: SightingUpdated
    record: Record


class News(NamedTuple):
    """The newest of a batch: of each sighting the update, and the picture with its time."""

    updates: dict[str, SightingUpdated]
    pictures: dict[str, tuple[int, bytes]]


class SightingIndexer:
    """See the module."""

    def __init__(self, platform: Platform, settings: Settings) -> None:
        self._platform = platform
        self._settings = settings
        self.wait_s = 0.5
        """How long one round waits for messages."""
        self._consumer: Consumer | None = None
        self._joined_us = self._looked_us = 0
        self._rows: SightingRows | None = None
        self._policy_version = -1
        self._has_moved = True
        """Whether rows may stand under dates of another zone than the policy's."""
        self._letters = Letters(platform.bus, platform.clock, GROUP)
        self._bad: set[tuple[str, int, int]] = set()
        self._consumed = Consumed(platform.database, GROUP)

    async def run(self, stop: Stop) -> None:
        try:
            await runtime.loop(
                "archive.index", self.run_once, stop, self._platform.clock, idle_s=0.5
            )
        finally:
            await self.leave()

    async def run_once(self) -> bool:
        """One batch: poll, upsert, then commit the offsets. Once all is read, close the silent."""
        try:
            consumer = self._consumer or await self._join()
            records = await consumer.poll(MAX_RECORDS, self.wait_s)
            self._consumed.keep_only(consumer.assignment)
            if records:
                await self.write(records)
                await self._letters.settle(records)
                await consumer.commit(records)
            if share.is_short(records):
                await self._close_silent(consumer)
            return bool(records)
        except LamppostError:
            # What was polled is not committed: a new consumer reads it again.
            await self.leave()
            raise

    async def leave(self) -> None:
        """Leave the group; the next round joins it again."""
        self._consumed.keep_only(())
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await consumer.close()

    async def _join(self) -> Consumer:
        self._consumer = await self._platform.bus.consumer(
            [SIGHTINGS.name], group=GROUP, member=self._settings.instance
        )
        self._joined_us = self._looked_us = self._platform.clock.monotonic_us()
        return self._consumer

    # One batch

    async def write(self, records: Sequence[Record]) -> None:
        """The rows of one batch and its mark, in one transaction; without news in none."""
        self._bad.clear()
        news = self._news(heard := self._heard(await self._consumed.unread(records)))
        if not news.updates:
            return
        now_us = self._platform.clock.now_us()
        cameras = sorted({event.sighting.camera_id for event in news.updates.values()})
        near = days_near(event.sighting.start_us for event in news.updates.values())
        await self._platform.database.ensure_days(near)
        async with self._platform.database.write(cameras) as connection:
            rows = await self._made(connection, news, cameras, near, now_us)
            written = await queries.upsert_sightings(connection, rows)
            days = {row[0]: row[queries.DATE] for row in rows}
            pictures = [(key, days[key], *one) for key, one in news.pictures.items() if key in days]
            await queries.upsert_thumbnails(connection, pictures)
            # What is set aside is in no mark: it must be met again until its letter is sent.
            done = [one for one in records if one[:3] not in self._bad]
            marks = await self._consumed.mark(connection, done)
            # While the disk commits. A batch that fails there is counted again when it comes again.
            told = news.updates.values() if written else ()
            asyncio.get_running_loop().call_soon(_count, written, told, now_us)
        self._consumed.wrote(marks)
        if tracing.is_on():
            self._trace(heard, {row[0] for row in rows}, now_us)

    async def _made(
        self,
        connection: AsyncConnection,
        news: News,
        cameras: Sequence[str],
        near: Collection[date],
        now_us: int,
    ) -> list[tuple[Any, ...]]:
        """The rows of the updates, under today's policy and zones."""
        make = await self._under_policy(connection)
        drawn = await queries.zones(connection, cameras)
        dates = await queries.days(connection, news.updates, near) if self._has_moved else {}
        rows = []
        for event in news.updates.values():
            sighting = event.sighting
            zones = drawn.get(sighting.camera_id, NO_ZONES)
            if sighting.zones_version != zones.version:
                sighting = marked(sighting, zones.zones)
            row = make(sighting, now_us, ended=event.ended, sent_at_us=event.sent_at_us)
            # Footage that is gone has no sightings, however late they come (edge case 15).
            if row[queries.EXPIRES] > now_us:
                rows.append(queries.under(row, dates.get(sighting.id, row[queries.DATE])))
        rows.sort(key=itemgetter(0))  # each page of the key's index is met once
        return rows

    async def _under_policy(self, connection: AsyncConnection) -> Callable[..., tuple[Any, ...]]:
        """Makes rows under the policy in force. A row stays under the date that it was given first,
        which its key holds: where the site's zone was ever another, dates are looked up."""
        policy = await policies.newest(connection)
        if self._rows is None or (policy is not None and policy.version != self._policy_version):
            self._rows = SightingRows(policy or default_policy(self._settings))
            self._has_moved = policy is None or len(await policies.zones(connection)) > 1
            self._policy_version = -1 if policy is None else policy.version
        return self._rows.values

    def _trace(self, heard: Sequence[Heard], written: Collection[str], began_us: int) -> None:
        """The updates of traced frames that are in the table now."""
        for one in heard:
            if one.event.sighting.id in written:
                span = tracing.follow(
                    one.record.headers, "index", began_us, sighting=one.event.sighting.id
                )
                span.end(self._platform.clock.now_us())

    def _heard(self, records: Iterable[Record]) -> list[Heard]:
        """What can be a row; each message is decoded once. Nonsense is set aside, whatever stands
        around it."""
        found = []
        for record in records:
            try:
                event = decode(record.value, SightingUpdated)
                check(event)
            except LamppostError as error:
                self._set_aside(record, error)
                continue
            one = event.sighting
            found.append(Heard((one.end_us, event.ended, event.sent_at_us), event, record))
        return found

    def _news(self, heard: Iterable[Heard]) -> News:
        """From the newest on, so that a newer picture that is none costs no older one its place.
        What the table has already, or newer, changes nothing there."""
        updates: dict[str, SightingUpdated] = {}
        pictures: dict[str, tuple[int, bytes]] = {}
        for _, event, record in sorted(heard, key=itemgetter(0), reverse=True):
            one = event.sighting
            updates.setdefault(one.id, event)
            taken_us = one.best.at_us
            if event.thumbnail is None or taken_us <= pictures.get(one.id, NO_PICTURE)[0]:
                continue
            try:
                pictures[one.id] = check_thumbnail(taken_us, event.thumbnail)
            except LamppostError as error:
                self._set_aside(record, error)
        return News(updates, pictures)

    def _set_aside(self, record: Record, error: LamppostError) -> None:
        self._bad.add(record[:3])
        self._letters.put(record, error)

    # Silence

    async def _close_silent(self, consumer: Consumer) -> None:
        """Close what had no update for a minute. Only after a minute in the group, and with all
        read that is there: after an outage of bus or archive the updates are still to come."""
        clock = self._platform.clock
        at_us = clock.monotonic_us()
        if at_us - self._joined_us < SILENT_US or at_us - self._looked_us < LOOK_US:
            return
        self._looked_us = at_us
        is_mine = await share.mine(self._platform.bus, consumer, SIGHTINGS.name)
        span = (clock.now_us() - SILENT_US, clock.now_us() + SILENT_US)
        async with self._platform.database.read() as connection:
            found = await queries.silent(connection, *span)
        cameras = {camera_id for _, camera_id in found if is_mine(camera_id)}
        if not cameras:
            return
        async with self._platform.database.write(sorted(cameras)) as connection:
            found = await queries.silent(connection, *span)
            mine = [sighting_id for sighting_id, camera_id in found if camera_id in cameras]
            await queries.close(connection, mine)
        metrics.SIGHTINGS_CLOSED.inc(len(mine))


def _count(written: int, updates: Iterable[SightingUpdated], now_us: int) -> None:
    metrics.SIGHTINGS_INDEXED.inc(written)
    for event in updates:
        age_us = max(0, now_us - event.sighting.end_us)
        metrics.SIGHTING_AGE_SECONDS.observe(age_us / SECOND_US)


def check(event: SightingUpdated) -> None:
    """CORRUPT unless the sighting can be a row."""
    sighting = event.sighting
    if not 0 <= event.sent_at_us <= LATEST_US:
        raise LamppostError(Kind.CORRUPT, "The sighting was sent at no usable time.")
    if not _ID.fullmatch(sighting.id) or not ids.CAMERA_ID.match(sighting.camera_id):
        raise LamppostError(Kind.CORRUPT, "The sighting has no usable id or camera.")
    start_us, end_us = sighting.start_us, sighting.end_us
    if not 0 <= start_us < end_us <= min(start_us + MAX_SPAN_US, LATEST_US):
        raise LamppostError(Kind.CORRUPT, "The sighting has no usable times.")
    if not sighting.path or sighting.class_name not in GROUPS:
        raise LamppostError(Kind.CORRUPT, "The sighting has no path, or is of no class.")


def check_thumbnail(taken_us: int, jpeg: bytes) -> tuple[int, bytes]:
    """Both of them; CORRUPT unless it may be a small JPEG."""
    if not 0 <= taken_us <= LATEST_US or not jpeg.startswith(_JPEG):
        raise LamppostError(Kind.CORRUPT, "The thumbnail is no JPEG, or of no time.")
    if len(jpeg) > MAX_THUMBNAIL:
        raise LamppostError(Kind.CORRUPT, f"The thumbnail has over {MAX_THUMBNAIL} bytes.")
    return taken_us, jpeg
