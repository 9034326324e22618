"""`archive --index`: sightings from the bus into rows, each as its last update says.

A sighting has a deterministic id and is sent whole at each update, so that writing it again, or
late, changes nothing (docs/invariants.md, 9). It expires with its footage, by capture time.
Boxes beside the segments and the closing of silent sightings come with detection.
"""

from __future__ import annotations

from typing import Any

import msgspec

from services.archive import queries
from services.archive.commit import default_policy
from shared import log, metrics, retention, runtime
from shared.bus import Consumer, Record
from shared.db import policies
from shared.errors import Kind, LamppostError
from shared.messages import SIGHTINGS, decode
from shared.platform import Platform
from shared.retention import Policy
from shared.runtime import Stop
from shared.settings import Settings

GROUP = "archive-index"
MAX_RECORDS = 500


class SightingUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """What the index needs of a sighting; the message itself is kept as it came."""

    id: str
    camera_id: str
    start_us: int
    end_us: int
    class_name: str
    confidence: float


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
        updates: dict[str, tuple[SightingUpdate, bytes]] = {}
        for record in records:
            try:
                update = decode(record.value, SightingUpdate)
                _check(update)
                updates[update.id] = (update, record.value)
            except LamppostError as error:
                metrics.BUS_POISON.labels(SIGHTINGS.name).inc()
                self._log.warning("sighting set aside", offset=record.offset, cause=str(error))
        now_us = self._platform.clock.now_us()
        async with self._platform.database.write() as connection:
            policy = await policies.newest(connection) or default_policy(self._settings)
            rows = [_row(one, data, policy, now_us) for one, data in updates.values()]
            # Footage that is gone has no sightings, however late they come (edge case 15).
            await queries.upsert_sightings(
                connection, [row for row in rows if row["expires_at_us"] > now_us]
            )

    async def _leave(self) -> None:
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await consumer.close()


def _check(update: SightingUpdate) -> None:
    if update.end_us <= update.start_us or not 0 < len(update.id) <= 64:
        raise LamppostError(Kind.CORRUPT, "The sighting has no usable id or times.")


def _row(update: SightingUpdate, data: bytes, policy: Policy, now_us: int) -> dict[str, Any]:
    end_us = min(update.end_us, now_us)
    return {
        "id": update.id,
        "camera_id": update.camera_id,
        "start_us": update.start_us,
        "end_us": update.end_us,
        "recording_date": retention.recording_date(update.end_us, policy.zone),
        "expires_at_us": retention.expires_at_us(end_us, policy),
        "class_name": update.class_name[:32],
        "confidence": update.confidence,
        "data": data,
        "committed_at_us": now_us,
    }
