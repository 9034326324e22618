"""Tells the recorders of cameras that topic `cameras` does not know, or knows otherwise.

The table is the truth. The topic is a copy that can be lost (docs/decisions/0004-lost-bus.md) or,
after a restore, be ahead of the table; without this, nobody would ever say it again. Runs once at
each start of the api; telling what is known already changes nothing.
"""

from __future__ import annotations

import asyncio

from services.api import camera_store, queries
from shared import log
from shared.domain import Camera
from shared.errors import LamppostError
from shared.messages import CAMERAS, CameraChanged, decode
from shared.platform import Platform
from shared.runtime import Backoff, Stop

MAX_RECORDS = 500


class Retelling:
    """One look that succeeds, then rest until the stop."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._log = log.get("api.retelling")

    async def run(self, stop: Stop) -> None:
        """Look, again and again while a neighbour is away."""
        backoff = Backoff(0.2, 10.0)
        while not stop.is_set:
            try:
                await self.run_once()
                await stop.wait()
            except LamppostError as error:
                self._log.warning("retrying", cause=str(error))
                await stop.sleep(self._platform.clock, backoff.next_s())

    async def run_once(self) -> list[str]:
        """The cameras that were told again."""
        known = await self._known()
        everything = queries.CameraFilter(deleted=True)
        async with self._platform.database.read() as connection:
            cameras = await queries.cameras(
                connection, None, everything, None, camera_store.MAX_CAMERAS
            )
        behind = [camera.id for camera in cameras if _is_news(camera, known.get(camera.id))]
        told = [name for name in behind if await camera_store.tell_again(self._platform, name)]
        if told:
            self._log.warning("recorders are told of cameras again", cameras=len(told))
        strange = sorted(known.keys() - {camera.id for camera in cameras})
        if strange:
            self._log.error(
                "the bus knows cameras that the database does not",
                cameras=strange[:20],
                fix="Add them again, or delete bus.db while lamppost is stopped.",
            )
        return told

    async def _known(self) -> dict[str, Camera]:
        """The newest word on each camera in the topic."""
        found: dict[str, Camera] = {}
        consumer = await self._platform.bus.consumer([CAMERAS.name], start="earliest")
        try:
            while records := await consumer.poll(MAX_RECORDS, timeout_s=0):
                for record in records:
                    try:
                        camera = decode(record.value, CameraChanged).camera
                    except LamppostError:
                        continue  # Unreadable for the recorders too: it counts as not told.
                    found[camera.id] = camera
                await asyncio.sleep(0)
        finally:
            await consumer.close()
        return found


def _is_news(camera: Camera, told: Camera | None) -> bool:
    """A camera that was deleted, and that no recorder knows of, needs no word."""
    if told is None:
        return camera.deleted_at_us is None
    return told != camera
