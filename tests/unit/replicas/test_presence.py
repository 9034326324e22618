"""Who is there and of which release: each says so itself, and the silent are forgotten."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

from shared import presence
from shared.clock import SECOND_US, SimulatedClock
from shared.db.processes import process
from shared.errors import LamppostError
from shared.platform import Platform
from shared.presence import EVERY_S, MAX_DROPPED, SILENT_US, Presence
from shared.version import version
from tests.support.wait import until

SILENT_S = SILENT_US / SECOND_US


async def there(platform: Platform) -> dict[str, str]:
    """Who is there, and of which release."""
    async with platform.database.read() as connection:
        found = await presence.read(platform, connection)
    return {f"{one.service} {one.name}": one.version for one in found}


async def rows(platform: Platform) -> int:
    async with platform.database.read() as connection:
        return await connection.scalar(sa.select(sa.func.count()).select_from(process)) or 0


async def test_a_process_is_there_from_its_begin_to_its_end(
    platform: Platform, clock: SimulatedClock
) -> None:
    async with presence.told(platform, "archive-index", "index-1"):

        async def said() -> bool:
            return await there(platform) == {"archive-index index-1": version()}

        await until(said, what="it says so")
        for _ in range(10):
            await clock.advance(EVERY_S)
            await until(said, what="it goes on saying so")
    assert await there(platform) == {} and await rows(platform) == 0


async def test_since_when_stays_and_the_last_word_moves(
    platform: Platform, clock: SimulatedClock
) -> None:
    me = Presence(platform, "retention", "r-1")
    began_us = clock.now_us()
    await me.run_once()
    await clock.advance(EVERY_S)
    await me.run_once()
    async with platform.database.read() as connection:
        [found] = await presence.read(platform, connection)
    assert (found.started_us, found.seen_us) == (began_us, began_us + EVERY_S * SECOND_US)


async def test_two_releases_are_both_seen(platform: Platform) -> None:
    await Presence(platform, "api", "api-1", release="0.1.0").run_once()
    await Presence(platform, "api", "api-2", release="0.2.0").run_once()
    await Presence(platform, "api", "api-1", release="0.2.0").run_once()
    assert await there(platform) == {"api api-1": "0.2.0", "api api-2": "0.2.0"}


async def test_the_silent_are_not_shown_and_anybody_drops_them(
    platform: Platform, clock: SimulatedClock
) -> None:
    killed, lives = Presence(platform, "archive", "a"), Presence(platform, "retention", "r")
    await killed.run_once()
    await clock.advance(SILENT_S - 1)
    await lives.run_once()
    assert set(await there(platform)) == {"archive a", "retention r"}
    await clock.advance(1)
    assert set(await there(platform)) == {"retention r"}
    assert await rows(platform) == 2
    await lives.run_once()
    assert await rows(platform) == 1
    await killed.run_once()
    assert set(await there(platform)) == {"archive a", "retention r"}, "it was only slow"


async def test_a_word_from_far_ahead_keeps_no_row_for_ever(
    platform: Platform, clock: SimulatedClock
) -> None:
    await clock.advance(10 * SILENT_S)
    await Presence(platform, "archive", "a").run_once()
    clock.jump_wall(-round(5 * SILENT_US))
    assert await there(platform) == {}
    await Presence(platform, "retention", "r").run_once()
    assert await rows(platform) == 1


async def test_one_look_drops_so_many_and_no_more(
    platform: Platform, clock: SimulatedClock
) -> None:
    old = [
        {"service": "api", "name": f"pod-{n}", "version": "1", "started_at_us": 0, "seen_at_us": 0}
        for n in range(MAX_DROPPED + 5)
    ]
    async with platform.database.write() as connection:
        await connection.execute(sa.insert(process), old)
    me = Presence(platform, "retention", "r")
    await me.run_once()
    assert await rows(platform) == 5 + 1
    await me.run_once()
    assert await rows(platform) == 1


async def test_an_end_leaves_the_row_of_a_successor(
    platform: Platform, clock: SimulatedClock
) -> None:
    old, new = (Presence(platform, "api", "api-1", release=text) for text in ("1", "2"))
    await old.run_once()
    await clock.advance(1)
    await new.run_once()
    await old.leave()
    assert await there(platform) == {"api api-1": "2"}
    await new.leave()
    assert await there(platform) == {}


async def test_replicas_that_speak_and_drop_at_once_hinder_nobody(
    platform: Platform, clock: SimulatedClock
) -> None:
    for name in "abcdef":
        await Presence(platform, "api", name).run_once()
    await clock.advance(SILENT_S)
    all_of_them = [Presence(platform, "archive", name) for name in "uvwxyz"]
    await asyncio.gather(*(one.run_once() for one in all_of_them))
    assert len(await there(platform)) == await rows(platform) == 6


async def test_a_database_that_is_away_stops_nothing(platform: Platform) -> None:
    await platform.database.close()
    with pytest.raises(LamppostError):
        await Presence(platform, "api", "a").run_once()
    async with presence.told(platform, "api", "a"):
        pass
