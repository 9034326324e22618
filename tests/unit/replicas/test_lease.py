"""Of several processes one has the lease, until it lets go or says nothing."""

from __future__ import annotations

import asyncio
import sys

import pytest

from shared.clock import SECOND_US, SimulatedClock
from shared.lease import TTL_S, Lease, is_gone, process_name
from shared.platform import Platform


async def test_one_has_it_and_the_others_have_not(platform: Platform) -> None:
    leases = [Lease(platform, "outbox:archive", holder=f"process {n}") for n in range(5)]
    found = await asyncio.gather(*(lease.hold() for lease in leases))
    assert sum(found) == 1
    assert [lease.is_held for lease in leases] == found
    assert await asyncio.gather(*(lease.hold() for lease in leases)) == found
    assert await Lease(platform, "another", holder="process 9").hold()


async def test_a_holder_that_renews_keeps_it(platform: Platform, clock: SimulatedClock) -> None:
    mine, other = Lease(platform, "work", holder="one"), Lease(platform, "work", holder="two")
    for _ in range(10):
        assert await mine.hold()
        assert not await other.hold()
        await clock.advance(TTL_S / 2)


async def test_silence_loses_it_and_the_silent_one_knows(
    platform: Platform, clock: SimulatedClock
) -> None:
    silent, other = Lease(platform, "work", holder="one"), Lease(platform, "work", holder="two")
    assert await silent.hold()
    await clock.advance(TTL_S)
    assert not silent.is_held
    assert await other.hold()
    assert not await silent.hold()


async def test_what_is_let_go_is_free_at_once(platform: Platform) -> None:
    mine, other = Lease(platform, "work", holder="one"), Lease(platform, "work", holder="two")
    assert await mine.hold()
    await other.release()  # not its own: nothing happens
    assert not await other.hold()
    await mine.release()
    assert not mine.is_held
    assert await other.hold()


async def test_a_clock_that_was_far_ahead_keeps_it_from_nobody(
    platform: Platform, clock: SimulatedClock
) -> None:
    ahead, other = Lease(platform, "work", holder="one"), Lease(platform, "work", holder="two")
    clock.jump_wall(365 * 86_400 * SECOND_US)
    assert await ahead.hold()
    clock.jump_wall(-365 * 86_400 * SECOND_US)
    assert await other.hold()


async def test_a_process_that_is_gone_loses_it_at_once(platform: Platform) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from shared.lease import process_name as n; print(n()); input()",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    name = (await child.stdout.readline()).decode().strip()
    theirs, mine = Lease(platform, "work", holder=name), Lease(platform, "work")
    assert await theirs.hold()
    assert not is_gone(name)
    assert not await mine.hold(), "it lives"
    child.kill()
    await child.wait()
    assert is_gone(name)
    assert await mine.hold()
    assert not is_gone(process_name())


async def test_one_process_is_one_holder(platform: Platform) -> None:
    assert await Lease(platform, "work").hold()
    assert await Lease(platform, "work").hold(), "a service that began anew goes on"


@pytest.mark.parametrize("name", ["", "a", "host boot pid:[1] 5 77", "host boot pid:[1] x y"])
def test_what_cannot_be_seen_from_here_is_not_gone(name: str) -> None:
    assert not is_gone(name)
