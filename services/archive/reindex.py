"""Zones and lines as they are now, applied to the paths of sightings already stored.

A zone drawn today finds what passed yesterday. Only rows marked with other zones are read, in order
of time, a page at a time; each page is one small transaction under the camera's lock. So it may be
ended and begun again at any moment, and beside detection: a sighting that is updated meanwhile was
marked by its update. Expired rows are left alone. `lamppost reindex` runs it for a person, the
archive by itself whenever a camera's zones change (docs/architecture.md, "archive").
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from services.archive import queries_index as queries
from services.archive.queries_index import NO_ZONES, OldRow, Zones
from shared import audit, log, runtime
from shared.audit import Actor
from shared.bus import Consumer, Record
from shared.bus.letters import Letters
from shared.db.sighting_data import pack_sighting, sighting_of
from shared.errors import Kind, LamppostError
from shared.intervals import Interval
from shared.messages import CAMERAS, CameraChanged, decode
from shared.platform import Platform
from shared.runtime import Stop
from shared.settings import Settings
from shared.sightings import marked

GROUP = "archive-zones"
PAGE = 500
EVER: Interval = (0, 1 << 62)
_log = log.get("archive.reindex")


class Done(NamedTuple):
    """What a run did."""

    looked: int = 0
    """Sightings that were marked with other zones."""
    changed: int = 0
    """Of those, stored anew; an update did the others."""

    def plus(self, other: Done) -> Done:
        return Done(self.looked + other.looked, self.changed + other.changed)


class Plan(NamedTuple):
    """What a person asked for."""

    cameras: tuple[str, ...]
    span: Interval
    sightings: int
    """How many are marked with other zones now."""


async def plan(platform: Platform, cameras: Sequence[str], span: Interval = EVER) -> Plan:
    """What is to be done for these cameras (none: all); NOT_FOUND names one that never was."""
    now_us = platform.clock.now_us()
    async with platform.database.read() as connection:
        found = await queries.cameras(connection, cameras)
        if unknown := sorted(set(cameras) - set(found)):
            raise LamppostError(
                Kind.NOT_FOUND,
                f"There is no camera {unknown[0]}.",
                fix="`lamppost camera list` names them.",
            )
        drawn = await queries.zones(connection, found)
        total = 0
        for camera_id in found:
            version = drawn.get(camera_id, NO_ZONES).version
            total += await queries.count_old(connection, camera_id, version, span, now_us)
    return Plan(tuple(found), span, total)


async def carry_out(
    platform: Platform, asked: Plan, actor: Actor, step: Callable[[Done], None] | None = None
) -> Done:
    """Audit it, then do it camera by camera."""
    begun = audit.Entry(
        at_us=platform.clock.now_us(),
        actor=actor,
        action="sighting.reindex",
        camera_ids=asked.cameras,
        start_us=asked.span[0] if asked.span != EVER else None,
        end_us=asked.span[1] if asked.span != EVER else None,
        detail={"sightings": asked.sightings},
    )
    async with platform.database.write() as connection:
        await audit.append(connection, begun)
    done = Done()
    for camera_id in asked.cameras:
        done = done.plus(await reindex(platform, camera_id, asked.span, step))
    return done


async def reindex(
    platform: Platform,
    camera_id: str,
    span: Interval = EVER,
    step: Callable[[Done], None] | None = None,
) -> Done:
    """Mark the camera's sightings that begin in the span; `step` is told of each page. Zones that
    change meanwhile are applied from the beginning."""
    done, zones = Done(), None
    after: tuple[int, str] | None = None
    while True:
        now_us = platform.clock.now_us()
        async with platform.database.read() as connection:
            current = (await queries.zones(connection, [camera_id])).get(camera_id, NO_ZONES)
            if zones is None or current.version != zones.version:
                zones, after = current, None
            page = await queries.old_page(
                connection, camera_id, zones.version, span, now_us, after, PAGE
            )
        if not page.rows:
            return done
        rows = await asyncio.to_thread(_marked, page.rows, zones)
        changed = await _store(platform, camera_id, zones, rows)
        if changed is None:
            continue  # Zones changed since: the page is read again.
        one = Done(len(page.rows), changed)
        done = done.plus(one)
        if step is not None:
            step(one)
        if page.after is None:
            return done
        after = page.after


def _marked(rows: Sequence[OldRow], zones: Zones) -> list[tuple[OldRow, bytes]]:
    return [(row, pack_sighting(marked(sighting_of(row), zones.zones))) for row in rows]


async def _store(
    platform: Platform, camera_id: str, zones: Zones, rows: Sequence[tuple[OldRow, bytes]]
) -> int | None:
    """How many were stored; None when the zones are no longer these."""
    async with platform.database.write([camera_id]) as connection:
        current = (await queries.zones(connection, [camera_id])).get(camera_id, NO_ZONES)
        if current.version != zones.version:
            return None
        return await queries.mark(connection, zones.version, rows)


class ZoneFollower:
    """Reindexes a camera whenever topic `cameras` tells of it; the offset is committed after, so
    that what a crash cut short is done again. A camera whose rows are all current costs one look.
    """

    def __init__(self, platform: Platform, settings: Settings) -> None:
        self._platform = platform
        self._settings = settings
        self._letters = Letters(platform.bus, platform.clock, GROUP)
        self._consumer: Consumer | None = None

    async def run(self, stop: Stop) -> None:
        try:
            await runtime.loop(
                "archive.reindex", self.run_once, stop, self._platform.clock, idle_s=2.0
            )
        finally:
            await self.leave()

    async def run_once(self) -> bool:
        """The next camera that changed."""
        try:
            if self._consumer is None:
                self._consumer = await self._platform.bus.consumer(
                    [CAMERAS.name], group=GROUP, member=self._settings.instance
                )
            records = await self._consumer.poll(1, timeout_s=0)
            for record in records:
                await self._follow(record)
            await self._letters.settle(records)
            await self._consumer.commit(records)
            return bool(records)
        except LamppostError:
            await self.leave()
            raise

    async def leave(self) -> None:
        """Leave the group; the next round joins it again."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await consumer.close()

    async def _follow(self, record: Record) -> None:
        try:
            camera_id = decode(record.value, CameraChanged).camera.id
        except LamppostError as error:
            self._letters.put(record, error)
            return
        done = await reindex(self._platform, camera_id)
        if done.looked:
            _log.info("zones applied", camera=camera_id, sightings=done.looked)
