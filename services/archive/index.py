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
from collections.abc import Collection, Iterable, Sequence
from datetime import date
from operator import itemgetter
from typing import NamedTuple

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
MAX_KNOWN = 20_000
"""Sightings remembered; forgetting costs one look at the table."""
NEVER: Rank = (-1, False, -1)
NO_PICTURE = -1
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_JPEG = b"\xff\xd8\xff"


class Heard(NamedTuple):
    """A message: how new it is, of what, when its picture was taken (or NO_PICTURE), what it says
    and how it came."""

    rank: Rank
    """Of two updates of a sighting the greater one counts; the table compares rows alike."""
    id: str
    taken_us: int
    event: SightingUpdated
    record: Record


class News(NamedTuple):
    """What a batch brings: of each sighting the newest update and picture that are newer than what
    is stored."""

    updates: list[SightingUpdated]
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
        self._known: dict[str, Rank] = {}
        self._shown: dict[str, int] = {}
        self._dates: dict[str, date] = {}
        """Of what is known: the date under which it stands, whatever zone the site has by now."""
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
        heard = self._heard(await self._consumed.unread(records))
        near = days_near(one.event.sighting.start_us for one in heard)
        await self._look_up(heard, near)
        news = self._news(heard)
        if not news.updates and not news.pictures:
            return
        now_us = self._platform.clock.now_us()
        cameras = sorted({event.sighting.camera_id for event in news.updates})
        begun = (event.sighting.start_us for event in news.updates)
        await self._platform.database.ensure_days(days_near(begun))
        async with self._platform.database.write(cameras) as connection:
            policy = await policies.newest(connection) or default_policy(self._settings)
            if self._rows is None or policy.version != self._policy_version:
                self._rows, self._policy_version = SightingRows(policy), policy.version
            drawn = await queries.zones(connection, cameras)
            rows = []
            for event in news.updates:
                sighting = event.sighting
                zones = drawn.get(sighting.camera_id, NO_ZONES)
                if sighting.zones_version != zones.version:
                    sighting = marked(sighting, zones.zones)
                row = self._rows.values(
                    sighting, now_us, ended=event.ended, sent_at_us=event.sent_at_us
                )
                # Footage that is gone has no sightings, however late they come (edge case 15).
                if row[queries.EXPIRES] > now_us:
                    rows.append(queries.under(row, self._dates.get(sighting.id, row[queries.DATE])))
            rows.sort(key=itemgetter(0))  # each page of the key's index is met once
            written = await queries.upsert_sightings(connection, rows)
            days = {row[0]: row[queries.DATE] for row in rows}
            days |= await queries.days(connection, news.pictures.keys() - days.keys(), near)
            pictures = [(key, days[key], *one) for key, one in news.pictures.items() if key in days]
            await queries.upsert_thumbnails(connection, pictures)
            # What is set aside is in no mark: it must be met again until its letter is sent.
            done = [one for one in records if one[:3] not in self._bad]
            marks = await self._consumed.mark(connection, done)
            # While the disk commits. A batch that fails there is counted again when it comes again.
            asyncio.get_running_loop().call_soon(_count, written, news.updates, now_us)
        # Committed: from here on these are old.
        self._consumed.wrote(marks)
        self._known.update((row[0], queries.rank_of(row)) for row in rows)
        self._dates.update((row[0], row[queries.DATE]) for row in rows)
        self._shown.update((key, taken_us) for key, _, taken_us, _ in pictures)
        if tracing.is_on():
            self._trace(heard, {row[0] for row in rows}, now_us)

    def _trace(self, heard: Sequence[Heard], written: Collection[str], began_us: int) -> None:
        """The updates of traced frames that are in the table now."""
        for one in heard:
            if one.id in written:
                span = tracing.follow(one.record.headers, "index", began_us, sighting=one.id)
                span.end(self._platform.clock.now_us())

    async def _look_up(self, heard: Sequence[Heard], near: Collection[date]) -> None:
        """How new the table's rows and pictures are, of those not remembered. What is remembered
        was committed, and a row never goes back, so that a repeated update costs no look at all."""
        known, shown, dates = self._known, self._shown, self._dates
        if len(known) > MAX_KNOWN:
            known.clear()
            dates.clear()
        if len(shown) > MAX_KNOWN:
            shown.clear()
        unknown = {
            key
            for _, key, taken_us, _, _ in heard
            if key not in known or (taken_us != NO_PICTURE and key not in shown)
        }
        if unknown:
            async with self._platform.database.read() as connection:
                stored = await queries.stored(connection, unknown, near)
            for key, rank, taken, day in stored:
                known[key] = rank
                dates[key] = day
                if taken is not None:
                    shown[key] = taken

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
            rank = (one.end_us, event.ended, event.sent_at_us)
            taken_us = NO_PICTURE if event.thumbnail is None else one.best.at_us
            found.append(Heard(rank, one.id, taken_us, event, record))
        return found

    def _news(self, heard: Iterable[Heard]) -> News:
        """What is newer than the table, from the newest of the batch on, so that a newer picture
        that is none costs no older one its place."""
        updates: dict[str, SightingUpdated] = {}
        pictures: dict[str, tuple[int, bytes]] = {}
        known, shown = self._known, self._shown
        fresh = [
            one
            for one in heard
            if one[0] > known.get(one[1], NEVER) or one[2] > shown.get(one[1], NO_PICTURE)
        ]
        fresh.sort(key=itemgetter(0), reverse=True)
        for rank, key, taken_us, event, record in fresh:
            if key not in updates and rank > known.get(key, NEVER):
                updates[key] = event
            if event.thumbnail is None or taken_us <= shown.get(key, NO_PICTURE):
                continue
            if key in pictures and taken_us <= pictures[key][0]:
                continue
            try:
                pictures[key] = check_thumbnail(taken_us, event.thumbnail)
            except LamppostError as error:
                self._set_aside(record, error)
        return News(list(updates.values()), pictures)

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
