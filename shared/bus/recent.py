"""A reader of a topic that begins a little before its end: what was said lately, at once.

Statuses are repeated every few seconds. Who begins to listen at the end knows everything only after
an interval, and of a process that died meanwhile nothing at all.
"""

from __future__ import annotations

from shared.bus import Bus, Consumer

BACK = 500
"""Records of each partition: the last minute of some hundreds of cameras."""


async def from_recent(bus: Bus, topic: str, back: int = BACK) -> Consumer:
    """A reader, without a group, of the newest `back` records of each partition and all that
    follow. What was dropped meanwhile is passed over."""
    end = await bus.consumer([topic], start="latest")
    try:
        positions = {place: max(0, at - back) for place, at in end.positions.items()}
    finally:
        await end.close()
    return await bus.consumer([topic], start="earliest", positions=positions)
