"""The only module that reads the clock or sleeps (tests/tidy bans both elsewhere).

Time is a parameter: code takes a `Clock`, tests drive a `SimulatedClock` and never sleep.
Wall time is UTC in integer microseconds; monotonic time has its own arbitrary origin.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from typing import Protocol

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US


class Clock(Protocol):
    """What a service may know of time. All methods are safe to call from any thread but `sleep`."""

    def now_us(self) -> int:
        """Wall time, UTC, microseconds since 1970."""
        ...

    def monotonic_us(self) -> int:
        """Microseconds since an arbitrary origin; never jumps."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task."""
        ...

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Block the calling thread until `event` is set or the time is over; true when set."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1_000

    def monotonic_us(self) -> int:
        return time.monotonic_ns() // 1_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(max(0.0, seconds))


class SimulatedClock:
    """A clock that moves only when told to. Part of the product: `lamppost simulate` runs on it.

    `advance` wakes sleepers in order of their deadline and lets the event loop run between two of
    them. `jump_wall` moves wall time alone, as a clock fault does.
    """

    def __init__(self, start_us: int = 1_713_225_600_000_000) -> None:
        self._wall_us = start_us
        self._mono_us = 0
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now_us(self) -> int:
        return self._wall_us

    def monotonic_us(self) -> int:
        return self._mono_us

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        deadline = self._mono_us + round(seconds * SECOND_US)
        heapq.heappush(self._sleepers, (deadline, next(self._order), future))
        await future

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Simulated waits pass at once: the caller's time is moved by the test."""
        return event.is_set()

    def set_us(self, wall_us: int) -> None:
        """Move both clocks forward to a wall time without waking anybody (synchronous users)."""
        step = wall_us - self._wall_us
        if step < 0:
            raise ValueError("a simulated clock goes forward only; use jump_wall for a fault")
        self._wall_us += step
        self._mono_us += step

    def jump_wall(self, step_us: int) -> None:
        """A clock fault: wall time moves, monotonic time does not."""
        self._wall_us += step_us

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass, waking each sleeper at its time."""
        target = self._mono_us + round(seconds * SECOND_US)
        await _drain()
        while self._sleepers and self._sleepers[0][0] <= target:
            deadline, _, future = heapq.heappop(self._sleepers)
            step = max(0, deadline - self._mono_us)
            self._mono_us += step
            self._wall_us += step
            if not future.done():
                future.set_result(None)
            await _drain()
        self._wall_us += target - self._mono_us
        self._mono_us = target
        await _drain()


async def _drain(turns: int = 20) -> None:
    """Give ready tasks the loop for a few turns."""
    for _ in range(turns):
        await asyncio.sleep(0)
