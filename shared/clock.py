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
EARLIEST_US = 1_577_836_800_000_000
"""2020-01-01: a wall clock before it was never set."""
BACK_US = 10 * 60 * SECOND_US
"""So far back a wall clock may be set and is followed: a correction, not a fault."""


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


class HeldClock:
    """A clock for those who date footage: its wall time never falls far behind what it was.

    A wall clock that is set far back, or was never set (before 2020, as on a machine without a
    battery), would date footage so that it is deleted as expired once the clock is right. Then time
    goes on by the monotonic clock: from the start of this process or, where that start already had
    no date, from `floor_us`, the last time that is known. A step forward, and a small one back, are
    followed. After a large step back that was right, restart the process (docs/retention.md,
    "Doubt").
    """

    def __init__(self, clock: Clock, floor_us: int = 0) -> None:
        self._clock = clock
        wall_us = clock.now_us()
        self._start_us = wall_us if wall_us >= EARLIEST_US else max(floor_us, EARLIEST_US)
        self._mono_us = clock.monotonic_us()

    @property
    def held(self) -> bool:
        """Whether the wall clock is not believed now."""
        return self._is_behind(self._clock.now_us(), self._steady_us())

    def now_us(self) -> int:
        wall_us, steady_us = self._clock.now_us(), self._steady_us()
        return steady_us if self._is_behind(wall_us, steady_us) else wall_us

    def monotonic_us(self) -> int:
        return self._clock.monotonic_us()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return self._clock.wait(event, seconds)

    def _steady_us(self) -> int:
        return self._start_us + self._clock.monotonic_us() - self._mono_us

    @staticmethod
    def _is_behind(wall_us: int, steady_us: int) -> bool:
        return wall_us < EARLIEST_US or wall_us < steady_us - BACK_US


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
