"""Notices what other processes write to the files of the embedded bus: one look for all consumers
of a process, so that each further one that waits costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from shared.bus.store import Store
from shared.errors import LamppostError

TICK_S = 0.1
"""How soon records of another process are noticed."""


class Watch:
    """Looks at the stores that are read, and calls `changed` when anybody has written."""

    def __init__(self, read: Callable[[], Collection[Store]], changed: Callable[[], None]) -> None:
        self._read = read
        self._changed = changed
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Somebody waits for records from now on. May be called again."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def end(self) -> None:
        """Nobody does any more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        tick = asyncio.Event()
        loop = asyncio.get_running_loop()
        seen: dict[Store, int] = {}
        while True:
            tick.clear()
            loop.call_later(TICK_S, tick.set)
            await tick.wait()
            try:
                found = {store: store.look() for store in self._read()}
            except LamppostError:
                self._changed()  # The consumers meet it by themselves.
                continue
            if found != seen:
                seen = found
                self._changed()
