"""The MQTT 5 bridge: `<prefix>/<camera>/sighting` and `<prefix>/<camera>/status`, QoS 1.

The payload is the notice's `data`; the CloudEvents attributes stand in user properties (`ce_*`). A
status is retained and expires; `<prefix>/bridge/<instance>` says online, or offline by the last
will. While the broker is away nothing is read from the bus, which keeps a day: nothing is lost and
nothing piles up here. What was sent before an offset was committed comes again with the same id.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from services.api.relay_feed import Feed
from services.api.relay_notices import SOURCE, Notice, Translator, data_of
from shared import log, metrics
from shared.clock import DAY_US, SECOND_US
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.runtime import Backoff, Stop
from shared.settings import Settings

GROUP = "relay-mqtt"
QOS = 1
AT_ONCE = 8
"""Messages on their way before the first is acknowledged."""
TIMEOUT_S = 10.0
KEEPALIVE_S = 15
ONLINE_EVERY_US = 30 * SECOND_US
TOPIC_OF = {
    "sighting.begun": "sighting",
    "sighting.updated": "sighting",
    "sighting.ended": "sighting",
    "camera.status": "status",
}


class MqttBridge:
    """See the module. `run` connects, sends until it breaks, and connects again."""

    def __init__(self, platform: Platform, settings: Settings) -> None:
        self._platform = platform
        self._clock = platform.clock
        self._settings = settings
        self._relay = settings.relay
        self._client: aiomqtt.Client | None = None
        self._presence = f"{self._relay.mqtt_prefix}/bridge/{settings.instance}"
        refresh_us = self._relay.mqtt_status_expiry_s * SECOND_US // 3
        self._feed = Feed(platform, settings, GROUP, self._send, Translator(refresh_us=refresh_us))
        self._log = log.get("relay.mqtt")
        self._limiter = log.Limiter(platform.clock, interval_s=30.0)

    async def run(self, stop: Stop) -> None:
        """Bridge until the stop."""
        backoff = Backoff(0.5, 15.0)
        while not stop.is_set:
            connected_us = self._clock.monotonic_us()
            try:
                await self._session(stop)
            except (aiomqtt.MqttError, LamppostError, OSError) as error:
                if (withheld := self._limiter.allow("away")) is not None:
                    where = f"{self._relay.mqtt_host}:{self._relay.mqtt_port}"
                    self._log.warning(
                        "waiting for the broker", broker=where, cause=str(error), withheld=withheld
                    )
            finally:
                self._client = None
                metrics.RELAY_UP.labels("mqtt").set(0)
                await self._leave()
            if self._clock.monotonic_us() - connected_us > 60 * SECOND_US:
                backoff.reset()
            await stop.sleep(self._clock, backoff.next_s())

    async def _leave(self) -> None:
        try:
            await self._feed.leave()
        except LamppostError as error:
            self._log.warning("left the group without a word", cause=str(error))

    async def _session(self, stop: Stop) -> None:
        """One connection, from its greeting to its end."""
        async with self._connection() as client:
            self._client = client
            metrics.RELAY_UP.labels("mqtt").set(1)
            self._log.info("bridge connected", broker=self._relay.mqtt_host)
            said_us = -ONLINE_EVERY_US
            while not stop.is_set:
                # Said again now and then, so that a broken connection is noticed when idle.
                if self._clock.monotonic_us() - said_us >= ONLINE_EVERY_US:
                    await client.publish(self._presence, b"online", QOS, retain=True)
                    said_us = self._clock.monotonic_us()
                await self._feed.once()
            await client.publish(self._presence, b"offline", QOS, retain=True)

    def _connection(self) -> aiomqtt.Client:
        relay = self._relay
        quiet = logging.getLogger("lamppost.mqtt")
        quiet.setLevel(logging.CRITICAL)  # What fails is told by `run`.
        return aiomqtt.Client(
            relay.mqtt_host,
            relay.mqtt_port,
            username=relay.mqtt_username or None,
            password=self._password(),
            identifier=f"lamppost-{self._settings.instance}",
            protocol=aiomqtt.ProtocolVersion.V5,
            will=aiomqtt.Will(self._presence, b"offline", QOS, retain=True),
            timeout=TIMEOUT_S,
            keepalive=KEEPALIVE_S,
            tls_context=self._tls(),
            logger=quiet,
        )

    def _password(self) -> str | None:
        if self._relay.mqtt_password_file is None:
            return None
        path = self._settings.path(self._relay.mqtt_password_file)
        try:
            return path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise LamppostError(
                Kind.INVALID,
                f"Cannot read the password {path}: {error}.",
                fix="Setting relay.mqtt_password_file names its file.",
            ) from error

    def _tls(self) -> ssl.SSLContext | None:
        if not self._relay.mqtt_tls:
            return None
        file = self._relay.mqtt_ca_file
        try:
            return ssl.create_default_context(cafile=self._settings.path(file) if file else None)
        except (OSError, ssl.SSLError) as error:
            raise LamppostError(
                Kind.INVALID,
                f"Cannot read {file}: {error}.",
                fix="Setting relay.mqtt_ca_file names a PEM file.",
            ) from error

    async def _send(self, notices: Sequence[Notice]) -> None:
        """In order, a few on their way at once; returns once all are acknowledged."""
        wanted = [notice for notice in notices if self._wanted(notice)]
        for start in range(0, len(wanted), AT_ONCE):
            # Tasks begin in this order, and each puts its message on the wire before it waits.
            await asyncio.gather(
                *(self._publish(notice) for notice in wanted[start : start + AT_ONCE])
            )
        metrics.RELAY_EVENTS.labels("mqtt", "delivered").inc(len(wanted))

    def _wanted(self, notice: Notice) -> bool:
        if notice.event == "sighting.updated":
            return self._relay.mqtt_updates
        return notice.event in TOPIC_OF

    async def _publish(self, notice: Notice) -> None:
        assert self._client is not None
        kind = TOPIC_OF[notice.event]
        await self._client.publish(
            f"{self._relay.mqtt_prefix}/{notice.camera_id}/{kind}",
            data_of(notice),
            QOS,
            retain=kind == "status",
            properties=self._properties(notice, kind),
        )

    def _properties(self, notice: Notice, kind: str) -> Properties:
        """A broker keeps a sighting for those who are away no longer than its footage is kept, and
        a day at most."""
        found = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        found.ContentType = "application/json"
        found.PayloadFormatIndicator = 1
        found.UserProperty = [
            ("ce_specversion", "1.0"),
            ("ce_id", notice.id),
            ("ce_source", SOURCE),
            ("ce_type", notice.type),
            ("ce_time", notice.time),
            ("ce_subject", notice.camera_id),
        ]
        left_us = min(DAY_US, notice.expires_at_us - self._clock.now_us())
        left_s = max(1, left_us // SECOND_US)
        found.MessageExpiryInterval = (
            min(left_s, self._relay.mqtt_status_expiry_s) if kind == "status" else left_s
        )
        return found
