"""How long database, store and bus take, and how often they fail: measured at the adapters' doors.

One line at a class names the calls that are measured, so that no caller can forget it and both
adapters of a port are measured alike. Costs a few microseconds a call. See docs/ref/metrics.md.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import Any, TypeVar

from prometheus_client import Histogram

from shared import metrics
from shared.errors import LamppostError

T = TypeVar("T")


def measured(neighbour: str, seconds: Histogram, *names: str) -> Callable[[type[T]], type[T]]:
    """A class decorator: the coroutine methods of these names are timed, under their names."""

    def decorate(cls: type[T]) -> type[T]:
        for name in names:
            setattr(cls, name, _timed(getattr(cls, name), neighbour, seconds, name))
        return cls

    return decorate


def _timed(
    call: Callable[..., Awaitable[Any]], neighbour: str, seconds: Histogram, name: str
) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(call)
    async def timed(*args: Any, **kwargs: Any) -> Any:
        with seconds.labels(name).time():
            try:
                return await call(*args, **kwargs)
            except LamppostError as error:
                _failed(neighbour, error)
                raise

    return timed


@asynccontextmanager
async def transaction(inner: AbstractAsyncContextManager[T], operation: str) -> AsyncIterator[T]:
    """A database's block, timed whole and up to its begin. An error that the block itself raises is
    its caller's, and none of the database's."""
    foreign: LamppostError | None = None
    waiting = ExitStack()
    waiting.enter_context(metrics.DATABASE_SECONDS.labels("begin").time())
    with metrics.DATABASE_SECONDS.labels(operation).time():
        try:
            async with inner as connection:
                waiting.close()
                try:
                    yield connection
                except LamppostError as error:
                    foreign = error
                    raise
        except LamppostError as error:
            if error is not foreign:
                _failed("database", error)
            raise


def _failed(neighbour: str, error: LamppostError) -> None:
    """What the caller did wrong, or asked for and is not there, says nothing of the neighbour."""
    if error.retryable:
        metrics.NEIGHBOUR_FAILURES.labels(neighbour, error.kind.value).inc()
