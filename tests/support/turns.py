"""Two archives on one store and database: the first runs up to one of its steps, then the second
runs whole, then the first goes on.

A step is before and after each transaction and each call of the object store. Where the first is
inside a transaction that writes, the second may not get past its own: then it has run as far as it
can once it waits there, and the rest follows.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from sqlalchemy.ext.asyncio import AsyncConnection

from shared.blobs import BlobInfo
from shared.clock import Clock
from shared.platform import Platform

Work: TypeAlias = Callable[[], Awaitable[object]]


class Turns:
    """The steps of the one who is interrupted before step `at`, and what runs then."""

    def __init__(self, at: int, second: Work) -> None:
        self.second_at_lock = asyncio.Event()
        self._at, self._second = at, second
        self._count = self._inside = 0
        self._running: asyncio.Task[None] | None = None

    @property
    def came(self) -> bool:
        """Whether the first has so many steps."""
        return self._running is not None

    async def step(self) -> None:
        self._count += 1
        if self._count != self._at:
            return
        self._running = asyncio.create_task(self._run())
        if not self._inside:
            await self._running
            return
        locked = asyncio.create_task(self.second_at_lock.wait())
        await asyncio.wait({self._running, locked}, return_when=asyncio.FIRST_COMPLETED)
        locked.cancel()

    async def _run(self) -> None:
        await self._second()

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[None]:
        """While a transaction that writes is open."""
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def end(self) -> None:
        """The rest of the second."""
        if self._running is not None:
            await self._running


class _Blobs:
    """The store, with a step on both sides of each call."""

    def __init__(self, inner: Any, turns: Turns) -> None:
        self._inner, self._turns = inner, turns

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._inner, name)

        async def stepped(*args: Any, **kwargs: Any) -> Any:
            await self._turns.step()
            found = await call(*args, **kwargs)
            await self._turns.step()
            return found

        return stepped

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        await self._turns.step()
        async for piece in self._inner.stream(key):
            yield piece
            await self._turns.step()

    async def list(self, *args: Any, **kwargs: Any) -> AsyncIterator[BlobInfo]:
        await self._turns.step()
        async for found in self._inner.list(*args, **kwargs):
            yield found
        await self._turns.step()


class _Database:
    """The database, with a step around and in each transaction of the first, and a word from the
    second when it begins to write."""

    def __init__(self, inner: Any, turns: Turns, *, is_first: bool) -> None:
        self._inner, self._turns, self._is_first = inner, turns, is_first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        async with self._inner.read() as connection:
            yield connection
        if self._is_first:
            await self._turns.step()

    @asynccontextmanager
    async def write(self, cameras: Iterable[str] = ()) -> AsyncIterator[AsyncConnection]:
        if self._is_first:
            await self._turns.step()
        else:
            self._turns.second_at_lock.set()
        async with self._inner.write(cameras) as connection:
            if self._is_first:
                async with self._turns.inside():
                    yield connection
                    await self._turns.step()
            else:
                yield connection
        if self._is_first:
            await self._turns.step()


def first(platform: Platform, clock: Clock, turns: Turns) -> Platform:
    """The platform of the one who is interrupted, with a clock of its own."""
    database: Any = _Database(platform.database, turns, is_first=True)
    blobs: Any = _Blobs(platform.blobs, turns)
    return dataclasses.replace(platform, clock=clock, database=database, blobs=blobs)


def second(platform: Platform, clock: Clock, turns: Turns) -> Platform:
    """The platform of the one who comes between, with a clock of its own."""
    database: Any = _Database(platform.database, turns, is_first=False)
    return dataclasses.replace(platform, clock=clock, database=database)
