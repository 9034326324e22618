"""How a service runs: `run` loops until told to stop, `run_once` does the work.

Back-off is jittered and resets after health; every task a service starts ends with it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

from shared import log
from shared.clock import Clock
from shared.errors import LamppostError


class Stop:
    """A stop that was asked for; safe to set from a signal handler in the loop's thread."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        await self._event.wait()

    async def sleep(self, clock: Clock, seconds: float) -> bool:
        """Sleep, but return early (true) when the stop comes."""
        if self._event.is_set():
            return True
        waiter = asyncio.ensure_future(self._event.wait())
        sleeper = asyncio.ensure_future(clock.sleep(seconds))
        try:
            await asyncio.wait({waiter, sleeper}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (waiter, sleeper):
                task.cancel()
            await asyncio.gather(waiter, sleeper, return_exceptions=True)
        return self._event.is_set()


class Service(Protocol):
    """One of the five. Built by its module's `build(platform, settings)`."""

    name: str

    async def run(self, stop: Stop) -> None:
        """Work until `stop`, then finish what is begun and return."""
        ...


class Backoff:
    """Jittered exponential delays between `first_s` and `max_s`; `reset` after health."""

    def __init__(
        self, first_s: float = 0.2, max_s: float = 2.0, rng: random.Random | None = None
    ) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._rng = rng or random.Random()
        self._step = 0

    def next_s(self) -> float:
        """The next delay in seconds, never over `max_s`."""
        ceiling = min(self._max_s, self._first_s * (1 << min(self._step, 30)))
        self._step += 1
        return ceiling * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._step = 0


async def loop(
    name: str,
    once: Callable[[], Awaitable[bool]],
    stop: Stop,
    clock: Clock,
    *,
    idle_s: float,
    max_backoff_s: float = 10.0,
) -> None:
    """Call `once` until the stop: again at once when it did something, after `idle_s` when not,
    with back-off after an error, which is logged and never ends the loop."""
    logger = log.get(name)
    backoff = Backoff(0.2, max_backoff_s)
    while not stop.is_set:
        try:
            busy = await once()
            backoff.reset()
        except LamppostError as error:
            logger.warning("retrying", kind=error.kind.value, cause=str(error))
            await stop.sleep(clock, backoff.next_s())
            continue
        except Exception:
            logger.exception("unexpected error")
            await stop.sleep(clock, backoff.next_s())
            continue
        if not busy:
            await stop.sleep(clock, idle_s)
        else:
            await asyncio.sleep(0)
