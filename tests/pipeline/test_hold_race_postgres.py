"""Hold against purge on PostgreSQL, on connections of their own (docs/retention.md, "The race").

Nothing held is purged and nothing unheld stays, whatever holds, releases, late segments, two
purging workers and the death of one do at the same time. The histories must be able to fail: where
a transaction begins without the cameras' locks, takes them after its first look, or keeps the
snapshot of before it waited, they find a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from shared.clock import SECOND_US
from tests.support.retention_races import AT_A_TIME, SYSTEM, Loss, Mutation, opened

pytestmark = pytest.mark.servers
IN_CI, ON_DEMAND, TO_FIND = 200, 2_000, 1_000
PART = 200
"""Histories of one test of those on demand. A night is the seed of `AT_A_TIME` of them."""
KNOWN: dict[Mutation, tuple[int, ...]] = {
    Mutation.NO_LOCK: (0, 3, 6, 7),
    Mutation.LOCK_AFTER_FIRST_READ: (0, 3, 6, 7),
    Mutation.REPEATABLE_READ: (0, 1),
    Mutation.REPEATABLE_READ_NO_LOCK: (0, 2, 3, 6),
}
"""Nights in which the mutation was seen to lose something. Real connections never interleave twice
alike, so that a test goes on from there, up to `TO_FIND` histories."""


async def play(folder: Path, nights: Iterable[int]) -> None:
    async with opened(folder) as races:
        for night in nights:
            try:
                await races.play(night)
            except AssertionError as error:
                raise AssertionError(f"night {night}: {error}") from error


@pytest.mark.timeout(900)
async def test_nothing_held_is_purged_and_nothing_unheld_stays(tmp_path: Path) -> None:
    await play(tmp_path, range(IN_CI // AT_A_TIME))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(1_000, 1_000 + ON_DEMAND // AT_A_TIME, PART // AT_A_TIME))
async def test_the_same_of_thousands_of_histories(
    tmp_path: Path, first: int, record_property: Callable[[str, object], None]
) -> None:
    """In parts, each in a database of its own, so that one which fails is soon lived again."""
    nights = range(first, first + PART // AT_A_TIME)
    said = f"{PART} histories: nights {nights[0]} to {nights[-1]}"
    print(said)
    began_us = SYSTEM.monotonic_us()
    await play(tmp_path, nights)
    took_s = (SYSTEM.monotonic_us() - began_us) / SECOND_US
    record_property("figure", f"{said}, nothing lost and nothing left, in {took_s:.0f} s")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutation", KNOWN)
async def test_a_transaction_that_begins_otherwise_loses(
    tmp_path: Path, mutation: Mutation
) -> None:
    """Each night in a world of its own, because a loss, or an error, may have stopped the last."""
    nights = [*KNOWN[mutation], *range(100, 100 + TO_FIND // AT_A_TIME - len(KNOWN[mutation]))]
    for number, night in enumerate(nights):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with opened(folder, mutation) as races:
            try:
                await races.play(night)
            except Loss:
                return
            except AssertionError:
                continue  # what a mutation leaves behind is no loss
    pytest.fail(f"{mutation.value} lost nothing in {len(nights) * AT_A_TIME} histories")


async def test_two_workers_write_one_tombstone(tmp_path: Path) -> None:
    """Many claims of two workers at once, on connections of their own."""
    async with opened(tmp_path) as races:
        told = await races.purge_together(segments=40)
    assert len(told) == 80
    assert len(set(told)) == 80
