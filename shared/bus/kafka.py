"""Port `Bus` on Kafka."""

from __future__ import annotations

from shared.bus import Bus
from shared.clock import Clock
from shared.errors import Kind, LamppostError
from shared.settings import Settings


async def open_bus(settings: Settings, clock: Clock) -> Bus:
    """The bus of the settings, its topics checked or made."""
    raise LamppostError(Kind.NOT_BUILT, "The Kafka bus is not built yet.")
