"""What database, store and bus cost is measured at their doors, and whose fault an error was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from shared import metrics, timing
from shared.errors import Kind, LamppostError


def value(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


def failures(neighbour: str, kind: str = "unavailable") -> float:
    return value("lamppost_neighbour_failures_total", neighbour=neighbour, kind=kind)


@timing.measured("store", metrics.STORE_SECONDS, "put")
class Store:
    """A port with one call."""

    def __init__(self, error: LamppostError | None = None) -> None:
        self._error = error

    async def put(self, key: str) -> str:
        """Its own word."""
        if self._error is not None:
            raise self._error
        return key


@asynccontextmanager
async def opened(error: LamppostError | None = None) -> AsyncIterator[str]:
    if error is not None:
        raise error
    yield "connection"


async def test_a_call_is_counted_and_answers_as_before() -> None:
    before = value("lamppost_store_seconds_count", operation="put")
    assert await Store().put("key") == "key"
    assert Store.put.__doc__ == "Its own word."
    assert value("lamppost_store_seconds_count", operation="put") == before + 1


@pytest.mark.parametrize(("kind", "counts"), [(Kind.UNAVAILABLE, 1), (Kind.CONFLICT, 0)])
async def test_only_what_passes_is_the_neighbours_failure(kind: Kind, counts: int) -> None:
    before = failures("store", kind.value)
    with pytest.raises(LamppostError):
        await Store(LamppostError(kind, "No.")).put("key")
    assert failures("store", kind.value) == before + counts


async def test_a_transaction_is_timed_from_its_begin_and_whole() -> None:
    names = ("begin", "read")
    before = [value("lamppost_database_seconds_count", operation=name) for name in names]
    async with timing.transaction(opened(), "read") as connection:
        assert connection == "connection"
    after = [value("lamppost_database_seconds_count", operation=name) for name in names]
    assert after == [count + 1 for count in before]


async def test_a_database_that_is_away_has_failed() -> None:
    before = failures("database")
    with pytest.raises(LamppostError):
        async with timing.transaction(opened(LamppostError(Kind.UNAVAILABLE, "No.")), "write"):
            pass
    assert failures("database") == before + 1


async def test_what_a_block_itself_meets_is_not_the_databases() -> None:
    before = failures("database")
    with pytest.raises(LamppostError):
        async with timing.transaction(opened(), "write"):
            raise LamppostError(Kind.UNAVAILABLE, "The bus is away.")
    assert failures("database") == before
