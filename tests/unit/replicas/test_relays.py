"""Replicas of a service share one outbox: each event is told once, in order, whoever dies."""

from __future__ import annotations

import asyncio

from shared import outbox
from shared.clock import SimulatedClock
from shared.lease import TTL_S
from shared.messages import SegmentArchived, decode
from shared.outbox import Relay
from shared.platform import Platform
from shared.runtime import Stop
from tests.support.archiving import events


async def add(platform: Platform, *numbers: int) -> None:
    messages = [
        outbox.event(
            "segments", "cam", SegmentArchived(f"s{n}", "cam", n, n + 1, 1, "0" * 64, 5),
            source="archive", at_us=n,
        )
        for n in numbers
    ]  # fmt: skip
    async with platform.database.write() as connection:
        await outbox.add(connection, "archive", messages, at_us=1)


async def told(platform: Platform) -> list[str]:
    return [
        decode(record.value, SegmentArchived).segment_id
        for record in await events(platform, "segments")
    ]


async def drain(relay: Relay) -> None:
    while await relay.run_once():
        pass


async def test_each_event_is_told_once_by_several_relays(platform: Platform) -> None:
    relays = [Relay(platform, "archive", batch=7, holder=f"process {n}") for n in range(4)]
    await add(platform, *range(100))
    await asyncio.gather(*(drain(relay) for relay in relays))
    await add(platform, *range(100, 150))
    await asyncio.gather(*(drain(relay) for relay in reversed(relays)))
    assert await told(platform) == [f"s{n}" for n in range(150)]


async def test_the_others_take_over_when_one_is_silent(
    platform: Platform, clock: SimulatedClock
) -> None:
    dead = Relay(platform, "archive", holder="dead")
    other = Relay(platform, "archive", holder="other")
    await add(platform, 1)
    await drain(dead)
    await add(platform, 2)
    assert not await other.run_once()
    await clock.advance(TTL_S)
    await drain(other)
    assert await told(platform) == ["s1", "s2"]


async def test_rows_told_since_the_look_are_not_told_again(platform: Platform) -> None:
    """One reads the rows, then the other publishes them and lets go: the first looks again."""
    slow = Relay(platform, "archive", holder="slow")
    fast = Relay(platform, "archive", holder="fast")
    await add(platform, 1, 2)
    hold = slow._lease.hold

    async def late() -> bool:
        await drain(fast)
        await fast._lease.release()
        return await hold()

    slow._lease.hold = late  # type: ignore[method-assign]
    assert not await slow.run_once()
    assert await told(platform) == ["s1", "s2"]


async def test_a_relay_that_ends_lets_go(platform: Platform) -> None:

    first = Relay(platform, "archive", holder="first")
    stop = Stop()
    stop.set()
    await add(platform, 1)
    await first.run(stop)
    await add(platform, 2)
    await drain(Relay(platform, "archive", holder="second"))
    assert await told(platform) == ["s1", "s2"]
