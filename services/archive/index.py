"""`archive --index`: sightings from the bus into rows, each as its last update says.

A sighting has a deterministic id and is sent whole at each update, so that writing it again, or
late, changes nothing (docs/invariants.md, 9). It expires with its footage, by capture time.
Boxes beside the segments and the closing of silent sightings come with detection.
"""

from __future__ import annotations

from services.archive import queries
from services.archive.commit import default_policy
from shared import log, metrics, runtime
from shared.bus import Consumer, Record
from shared.db import policies
from shared.db.rows import sighting_row
from shared.errors import Kind, LamppostError
from shared.messages import SIGHTINGS, SightingUpdated, decode
from shared.platform import Platform
from shared.runtime import Stop
from shared.settings import Settings
from shared.sightings import Sighting

GROUP = "archive-index"
MAX_RECORDS = 500


class SightingIndexer:
    """See the module."""

    def __init__(self, platform: Platform, settings: Settings) -> None:
        self._platform = platform
        self._settings = settings
        self._consumer: Consumer | None = None
        self._log = log.get("archive.index")

    async def run(self, stop: Stop) -> None:
        try:
            await runtime.loop(
                "archive.index", self.run_once, stop, self._platform.clock, idle_s=0.5
            )
        finally:
            await self._leave()

    async def run_once(self) -> bool:
        """One batch: poll, upsert, then commit the offsets."""
        if self._consumer is None:
            self._consumer = await self._platform.bus.consumer(
                [SIGHTINGS.name], group=GROUP, member=self._settings.instance
            )
        try:
            records = await self._consumer.poll(MAX_RECORDS, timeout_s=0.5)
            if not records:
                return False
            await self._write(records)
            await self._consumer.commit(records)
            return True
        except LamppostError:
            # What was polled is not committed: a new consumer reads it again.
            await self._leave()
            raise

    async def _write(self, records: list[Record]) -> None:
        updates: dict[str, SightingUpdated] = {}
        for record in records:
            try:
                update = decode(record.value, SightingUpdated)
                _check(update.sighting)
                updates[update.sighting.id] = update
            except LamppostError as error:
                metrics.BUS_POISON.labels(SIGHTINGS.name).inc()
                self._log.warning("sighting set aside", offset=record.offset, cause=str(error))
        now_us = self._platform.clock.now_us()
        async with self._platform.database.write() as connection:
            policy = await policies.newest(connection) or default_policy(self._settings)
            rows = [
                sighting_row(update.sighting, policy, now_us, ended=update.ended)
                for update in updates.values()
            ]
            # Footage that is gone has no sightings, however late they come (edge case 15).
            await queries.upsert_sightings(
                connection, [row for row in rows if row["expires_at_us"] > now_us]
            )

    async def _leave(self) -> None:
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await consumer.close()


def _check(sighting: Sighting) -> None:
    if sighting.end_us <= sighting.start_us or not 0 < len(sighting.id) <= 64:
        raise LamppostError(Kind.CORRUPT, "The sighting has no usable id or times.")
    if not sighting.path:
        raise LamppostError(Kind.CORRUPT, "The sighting has no path.")
