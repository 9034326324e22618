"""A password or an authority of Kafka that is rotated, taken up by a process that runs.

aiokafka takes both when a client is made, and reads them from it at each connection. So the files
are looked at every `EVERY_S`, and once they hold anything else every client that there is has it
for its next connection. Connections that stand are left alone: brokers ask for no password twice,
and what is on its way lands.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from shared import log
from shared.bus.kafka_wire import Wire, wire_of
from shared.clock import Clock
from shared.errors import Kind, LamppostError
from shared.settings import Settings

EVERY_S = 3.0
"""As often as the keys of an object store that refuses them."""
MAX_BYTES = 4 * 1024 * 1024
"""More of a file is no password and no bundle of authorities."""


class Renewal:
    """Belongs to one event loop."""

    def __init__(self, settings: Settings, wire: Wire, clock: Clock) -> None:
        self._settings, self._wire, self._clock = settings, wire, clock
        self._paths = _paths(settings)
        self._seen: tuple[bytes, ...] | None = None
        """What the files held at the last look; none yet: they may have changed since the wire was
        made, so the first look takes them up whatever they hold."""
        self._looking = asyncio.Lock()
        self._log = log.get("bus")
        self._limiter = log.Limiter(clock, interval_s=60.0)

    async def run(self) -> None:
        """Look again and again; at once over where no file is named."""
        while self._paths:
            await self._clock.sleep(EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Take up what stands in the files by now. Files that cannot be used change nothing: they
        may be half written, and are looked at again."""
        if not self._paths:
            return
        async with self._looking:
            first = self._seen is None
            try:
                security = await asyncio.to_thread(self._changed)
            except LamppostError as error:
                if (withheld := self._limiter.allow("unusable")) is not None:
                    self._log.warning(
                        "what stood in the files of the bus before is used on",
                        cause=str(error),
                        withheld=withheld,
                    )
                return
            if security is None:
                return
            self._wire.renew(security)
        if not first:
            self._log.info("another password or authority of the bus is used from now on")

    def _changed(self) -> dict[str, Any] | None:
        """How to connect from now on; None: nothing has changed. INVALID: files of no use."""
        held = tuple(_content(path) for path in self._paths)
        if held == self._seen:
            return None
        if not all(content.strip() for content in held):
            raise LamppostError(Kind.INVALID, "A file of the bus is empty.")
        security = wire_of(self._settings).security
        self._seen = held
        return security


def _paths(settings: Settings) -> tuple[Path, ...]:
    """The files whose content connections are made with."""
    kafka = settings.kafka
    found = [kafka.ca_file if kafka.tls else None]
    found.append(kafka.password_file if kafka.sasl != "none" else None)
    return tuple(settings.path(path) for path in found if path is not None)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES)
    except OSError as error:
        raise LamppostError(Kind.INVALID, f"Cannot read {path}: {error}.") from error
