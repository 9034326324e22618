"""One timer for everything that a replaying process has to do: slots of ten milliseconds.

A process that sends thousands of pictures a second may not have a task or a timer for each. What is
due together is done together; nothing is done early, and how late it was done is counted: a replay
that cannot keep up must say so, or its figures are blamed on what it tests.
"""

from __future__ import annotations

from collections.abc import Callable

from shared.clock import SECOND_US, Clock
from shared.runtime import Stop

SLOT_US = 10_000
LATE_US = 200_000
Work = Callable[[int], None]
"""Called with the monotonic time, once."""


class Wheel:
    """What is to be done when, by monotonic time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._slots: dict[int, list[Work]] = {}
        self._done = clock.monotonic_us() // SLOT_US
        self.late = 0
        """Slots that came more than `LATE_US` late."""
        self.latest_us = 0

    def at(self, due_us: int, work: Work) -> None:
        """Do it at `due_us` or up to a slot later; what is past comes with the next slot."""
        slot = max(due_us // SLOT_US + 1, self._done + 1)
        found = self._slots.get(slot)
        if found is None:
            self._slots[slot] = [work]
        else:
            found.append(work)

    def turn(self) -> None:
        """Do everything that is due now."""
        now = self._clock.monotonic_us() // SLOT_US
        while self._done < now:
            self._done += 1
            work = self._slots.pop(self._done, None)
            if work is None:
                continue
            now_us = self._clock.monotonic_us()
            behind_us = now_us - self._done * SLOT_US
            self.latest_us = max(self.latest_us, behind_us)
            self.late += behind_us > LATE_US
            for one in work:
                one(now_us)

    async def run(self, stop: Stop) -> None:
        """Turn until the stop."""
        while not stop.is_set:
            self.turn()
            left_us = (self._done + 1) * SLOT_US - self._clock.monotonic_us()
            await self._clock.sleep(max(left_us, 0) / SECOND_US)
