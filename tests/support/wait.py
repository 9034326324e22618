"""Waiting for a condition on real processes, with a deadline and a reason; no test sleeps."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

from shared.clock import SECOND_US, SystemClock

_clock = SystemClock()


async def until(
    condition: Callable[[], object] | Callable[[], Awaitable[object]],
    timeout_s: float = 10.0,
    what: str = "",
    every_s: float = 0.02,
) -> None:
    """Return once `condition()` is true; AssertionError after `timeout_s`."""
    deadline_us = _clock.monotonic_us() + round(timeout_s * SECOND_US)
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return
        if _clock.monotonic_us() >= deadline_us:
            raise AssertionError(f"not within {timeout_s} s: {what or condition}")
        # An event that nobody sets: a bounded wait that lets the loop run.
        waiter = asyncio.Event()
        with suppress(TimeoutError):
            async with asyncio.timeout(every_s):
                await waiter.wait()


def until_sync(
    condition: Callable[[], object],
    timeout_s: float = 10.0,
    what: str = "",
    every_s: float = 0.02,
) -> None:
    """The same for tests without an event loop."""
    deadline_us = _clock.monotonic_us() + round(timeout_s * SECOND_US)
    never = threading.Event()
    while not condition():
        if _clock.monotonic_us() >= deadline_us:
            raise AssertionError(f"not within {timeout_s} s: {what or condition}")
        _clock.wait(never, every_s)
