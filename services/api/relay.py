"""`lamppost run relay`: events for other systems, a second role of the api in its own process.

Webhooks where `relay.webhook_hosts` allows any receiver, the MQTT bridge where `relay.mqtt_host`
names a broker. Each reads the bus as a group of its own, so that neither waits for the other.
docs/guide/integrator.md.
"""

from __future__ import annotations

import asyncio

from services.api.relay_delivery import Delivery
from services.api.relay_intake import Intake
from services.api.relay_mqtt import MqttBridge
from shared import log, runtime
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.runtime import Stop
from shared.settings import Settings

END_S = 2.0


class RelayService:
    """Built by `build`."""

    name = "relay"

    def __init__(self, platform: Platform, settings: Settings) -> None:
        self._platform = platform
        self._settings = settings
        self._log = log.get("relay")

    async def run(self, stop: Stop) -> None:
        """Relay until the stop, then end within seconds: what was not settled comes again."""
        tasks = self._webhooks(stop) if self._settings.relay.webhook_hosts else []
        if self._settings.relay.mqtt_host:
            bridge = MqttBridge(self._platform, self._settings)
            tasks.append(asyncio.create_task(bridge.run(stop), name="relay.mqtt"))
        self._log.info("relaying", ways=[task.get_name() for task in tasks])
        waiting = asyncio.create_task(stop.wait(), name="relay.stop")
        try:
            done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {waiting}:
                if not stop.is_set and (error := task.exception()) is not None:
                    raise LamppostError(
                        Kind.INTERNAL, f"A part of the relay ended: {task.get_name()}."
                    ) from error
            if not waiting.done() and not stop.is_set:
                raise LamppostError(Kind.INTERNAL, "A part of the relay ended unasked.")
        finally:
            waiting.cancel()
            if stop.is_set and tasks:
                await asyncio.wait(tasks, timeout=END_S)
            for task in tasks:
                task.cancel()
            await asyncio.gather(waiting, *tasks, return_exceptions=True)

    def _webhooks(self, stop: Stop) -> list[asyncio.Task[None]]:
        delivery = Delivery(self._platform, self._settings)
        intake = Intake(self._platform, self._settings, delivery.wake)

        async def take() -> None:
            try:
                await runtime.loop(
                    "relay.intake", intake.feed.once, stop, self._platform.clock, idle_s=0.2
                )
            finally:
                await intake.feed.leave()

        return [
            asyncio.create_task(take(), name="relay.intake"),
            asyncio.create_task(delivery.run(stop), name="relay.webhooks"),
        ]


def build(platform: Platform, settings: Settings) -> RelayService:
    """The relay of one process. INVALID when nothing is configured."""
    if not settings.relay.webhook_hosts and not settings.relay.mqtt_host:
        raise LamppostError(
            Kind.INVALID,
            "There is nowhere to relay events to.",
            fix="Set relay.webhook_hosts or relay.mqtt_host (docs/guide/integrator.md).",
        )
    return RelayService(platform, settings)
