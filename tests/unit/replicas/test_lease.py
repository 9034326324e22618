"""Of several processes one has the lease, until it lets go or says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.clock import SECOND_US, SimulatedClock
from shared.lease import TTL_S, Lease
from shared.platform import Platform
from tests.support.archiving import opened, settings_in


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
async def platform(tmp_path: Path, clock: SimulatedClock) -> AsyncIterator[Platform]:
    async with opened(settings_in(tmp_path), clock) as made:
        yield made


async def test_one_has_it_and_the_others_have_not(platform: Platform) -> None:
    leases = [Lease(platform, "outbox:archive") for _ in range(5)]
    found = await asyncio.gather(*(lease.hold() for lease in leases))
    assert sum(found) == 1
    assert [lease.is_held for lease in leases] == found
    assert await asyncio.gather(*(lease.hold() for lease in leases)) == found
    assert await Lease(platform, "another").hold()


async def test_a_holder_that_renews_keeps_it(platform: Platform, clock: SimulatedClock) -> None:
    mine, other = Lease(platform, "work"), Lease(platform, "work")
    for _ in range(10):
        assert await mine.hold()
        assert not await other.hold()
        await clock.advance(TTL_S / 2)


async def test_silence_loses_it_and_the_silent_one_knows(
    platform: Platform, clock: SimulatedClock
) -> None:
    silent, other = Lease(platform, "work"), Lease(platform, "work")
    assert await silent.hold()
    await clock.advance(TTL_S)
    assert not silent.is_held
    assert await other.hold()
    assert not await silent.hold()


async def test_what_is_let_go_is_free_at_once(platform: Platform) -> None:
    mine, other = Lease(platform, "work"), Lease(platform, "work")
    assert await mine.hold()
    await other.release()  # not its own: nothing happens
    assert not await other.hold()
    await mine.release()
    assert not mine.is_held
    assert await other.hold()


async def test_a_clock_that_was_far_ahead_keeps_it_from_nobody(
    platform: Platform, clock: SimulatedClock
) -> None:
    ahead, other = Lease(platform, "work"), Lease(platform, "work")
    clock.jump_wall(365 * 86_400 * SECOND_US)
    assert await ahead.hold()
    clock.jump_wall(-365 * 86_400 * SECOND_US)
    assert await other.hold()
