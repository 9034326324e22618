"""From the bus into the table: each event once for each webhook that wants it, then the commit.

A slow or dead receiver costs rows and nobody's time. Which cameras a webhook gets: those it names,
or all; of these the ones that serve its purpose (docs/access-audit-evidence.md, "Webhooks").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping

from services.api import queries
from services.api import queries_relay as stored
from services.api.relay_feed import Feed
from services.api.relay_notices import Notice, body_of
from shared import metrics
from shared.clock import SECOND_US
from shared.domain import Camera
from shared.platform import Platform
from shared.settings import Settings

GROUP = "relay-webhook"
CAMERAS_US = 5 * SECOND_US
MAX_CAMERAS = 20_000


class Intake:
    """See the module. `wake` is called when there is something to send."""

    def __init__(self, platform: Platform, settings: Settings, wake: Callable[[], None]) -> None:
        self._platform = platform
        self._settings = settings
        self._wake = wake
        self._cameras: dict[str, Camera] = {}
        self._cameras_us = -CAMERAS_US
        self.feed = Feed(platform, settings, GROUP, self.file)

    async def file(self, notices: Sequence[Notice]) -> None:
        """The rows of one batch, in one transaction; none where nobody wants any."""
        if not notices:
            return
        async with self._platform.database.read() as connection:
            hooks = [row for row in await stored.webhooks(connection) if not row["disabled_at_us"]]
        if not hooks:
            return
        await self._look_at_cameras({notice.camera_id for notice in notices})
        now_us = self._platform.clock.now_us()
        rows: list[dict[str, Any]] = []
        for notice in notices:
            wanting = [hook for hook in hooks if wants(hook, notice, self._cameras)]
            if wanting:
                body = body_of(notice)
                rows += [_row(hook["id"], notice, body, now_us) for hook in wanting]
        if not rows:
            return
        async with self._platform.database.write() as connection:
            await stored.add_deliveries(connection, rows)
            for webhook_id in {row["webhook_id"] for row in rows}:
                aside, dropped = await stored.cut_queue(
                    connection, webhook_id, self._settings.relay.webhook_queue
                )
                metrics.RELAY_EVENTS.labels("webhook", "set_aside").inc(aside)
                metrics.RELAY_EVENTS.labels("webhook", "dropped").inc(dropped)
        self._wake()

    async def _look_at_cameras(self, names: set[str]) -> None:
        """What cameras serve; a camera that nobody knows yet is looked for at once."""
        now_us = self._platform.clock.monotonic_us()
        if now_us - self._cameras_us < CAMERAS_US and names <= self._cameras.keys():
            return
        everything = queries.CameraFilter(deleted=True)
        async with self._platform.database.read() as connection:
            found = await queries.cameras(connection, None, everything, None, MAX_CAMERAS)
        self._cameras = {camera.id: camera for camera in found}
        self._cameras_us = now_us


def wants(hook: RowMapping, notice: Notice, cameras: Mapping[str, Camera]) -> bool:
    """Whether a subscription is to be told of this."""
    if notice.event not in hook["events"] or notice.at_us < hook["created_at_us"]:
        return False
    if hook["camera_ids"] is not None and notice.camera_id not in hook["camera_ids"]:
        return False
    if notice.class_name and hook["classes"] and notice.class_name not in hook["classes"]:
        return False
    camera = cameras.get(notice.camera_id)
    return camera is not None and hook["purpose"] in {item.value for item in camera.purposes}


def _row(webhook_id: str, notice: Notice, body: bytes, now_us: int) -> dict[str, Any]:
    return {
        "webhook_id": webhook_id,
        "event_id": notice.id,
        "event_type": notice.event,
        "camera_id": notice.camera_id,
        "end_us": notice.end_us,
        "expires_at_us": notice.expires_at_us,
        "body": body,
        "state": stored.WAITING,
        "attempts": 0,
        "next_at_us": now_us,
        "created_at_us": now_us,
    }
