"""The zones and lines of each camera, as topic `cameras` tells them.

Read whole at the start, before the first frame is looked at, and followed afterwards: detection has
no database. docs/architecture.md, "detect".
"""

from __future__ import annotations

from shared import log, metrics
from shared.bus import Bus, Consumer, Record
from shared.clock import Clock
from shared.errors import Kind, LamppostError
from shared.messages import CAMERAS, CameraChanged, decode
from shared.runtime import Stop, loop
from shared.sightings import Zone

EVERY_S = 2.0
BATCH = 500
MAX_CAMERAS = 20_000


class ZonesFeed:
    """`zones` is read by the worker thread: a value is replaced, never changed."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self.zones: dict[str, tuple[Zone, ...]] = {}
        self._bus = bus
        self._clock = clock
        self._consumer: Consumer | None = None
        self._log = log.get("detect.zones")

    async def run(self, stop: Stop) -> None:
        """Follow the topic until the stop."""
        try:
            await loop("detect.zones", self.run_once, stop, self._clock, idle_s=EVERY_S)
        finally:
            await self.close()

    async def catch_up(self) -> None:
        """Read everything that was said so far."""
        while await self.run_once():
            pass

    async def run_once(self) -> bool:
        """Take what was said since; whether there was anything."""
        try:
            if self._consumer is None:
                self._consumer = await self._bus.consumer([CAMERAS.name], start="earliest")
            records = await self._consumer.poll(BATCH, 0)
        except LamppostError as error:
            if error.kind is Kind.CLOSED:
                self._consumer = None
            raise
        for record in records:
            self._take(record)
        return bool(records)

    async def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.close()

    def _take(self, record: Record) -> None:
        try:
            event = decode(record.value, CameraChanged)
        except LamppostError as error:
            metrics.BUS_POISON.labels(record.topic).inc()
            self._log.error("unreadable camera ignored", camera=record.key, cause=str(error))
            return
        camera = event.camera
        if camera.deleted_at_us is not None or not event.zones:
            self.zones.pop(camera.id, None)
        elif camera.id in self.zones or len(self.zones) < MAX_CAMERAS:
            self.zones[camera.id] = event.zones
        else:
            self._log.error("too many cameras, zones ignored", camera=camera.id, most=MAX_CAMERAS)
