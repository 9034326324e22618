"""A database that was restored and not told of later purges deletes nothing (edge case 23)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.restore_servers import Replay, replay_into
from services.retention.breaker import clear_breaker
from shared import standing
from shared.db import tables
from shared.settings import Settings
from shared.tombstones import Journal, Tombstone, journal
from tests.support import databases, sightings
from tests.support.retention_world import World, local

FIRST, LATER = "2024-04-16T12:00", "2024-04-17T12:00"
FIRST_OVER, LATER_OVER = "2024-05-17T01:00", "2024-05-18T01:00"


def settings_in(folder: Path) -> Settings:
    return Settings.model_validate({"state_dir": folder, "site": {"timezone": "Asia/Hong_Kong"}})


@asynccontextmanager
async def opened(folder: Path, when: str, state: str = "state") -> AsyncIterator[World]:
    world = World(folder, settings_in(folder.parent / state), local(when))
    try:
        yield world
    finally:
        await world.close()


@pytest.fixture
async def restored(tmp_path: Path) -> Path:
    """The folder of a backup of two days' segments, of which the first was purged after it."""
    old, new = tmp_path / "old", tmp_path / "new"
    new.mkdir()
    async with opened(old, FIRST) as world:
        await world.start()
        await world.file("cam-1", FIRST)
        row = sightings.row(
            sightings.sighting("seen", "cam-1", local(FIRST)),
            now_us=local(FIRST),
            day=date(2024, 4, 16),
            expires_at_us=local("2024-05-17T00:00"),
        )
        await databases.make_room(world.database, row)
        async with world.database.write() as connection:
            await connection.execute(sa.insert(tables.sighting).values(row))
        world.to(LATER)
        await world.file("cam-1", LATER)
    databases.copy(old / "lamppost.db", new / "lamppost.db")
    async with opened(old, FIRST_OVER) as world:
        assert (await world.service().run_once()).purged == 1
    return new


async def replay(world: World, *journals: Journal) -> Replay:
    return await replay_into(world.platform.database, world.settings, journals, world.clock)


async def nothing_is_shown(world: World) -> bool:
    async with world.platform.database.read() as connection:
        return await standing.forgotten(connection)


async def test_a_worker_that_remembers_more_stops_every_worker(restored: Path) -> None:
    async with opened(restored, LATER_OVER) as world:
        outcome = await world.service("w1").run_once()
        assert (outcome.purged, outcome.stopped) == (0, "breaker")
        assert "lamppost restore" in outcome.detail
        assert await nothing_is_shown(world)
        assert len(await world.rows()) == 2
    async with opened(restored, LATER_OVER, state="elsewhere") as other:
        assert (await other.service("w2").run_once()).stopped == "breaker"


async def test_clearing_the_breaker_alone_does_not_help(restored: Path) -> None:
    async with opened(restored, LATER_OVER) as world:
        await world.service().run_once()
        await clear_breaker(world.platform, "Nothing was looked at.")
        assert (await world.service().run_once()).stopped == "breaker"
        assert len(await world.rows()) == 2


async def test_a_replay_takes_purged_rows_out_and_leaves_deletion_stopped(restored: Path) -> None:
    async with opened(restored, LATER_OVER) as world:
        done = await replay(world, journal(world.settings.state_dir))
        assert (done.tombstones_replayed, done.segments_removed, done.sightings_removed) == (
            1, 1, 1,
        )  # fmt: skip
        assert done.last_known_us == local(LATER)
        assert not await nothing_is_shown(world)
        [row] = await world.rows()
        assert row["start_us"] == local(LATER)
        for table in (tables.segment_fragments, tables.tombstone):
            assert len(await world.rows(table)) == 1
        assert await world.rows(tables.sighting) == []
        outcome = await world.service().run_once()
        assert outcome.stopped == "breaker" and "holds" in outcome.detail
        await clear_breaker(world.platform, "The holds stand again.")
        assert (await world.service().run_once()).purged == 1
        assert await world.rows() == []


async def test_a_replay_after_a_worker_noticed_says_what_is_left_to_do(restored: Path) -> None:
    async with opened(restored, LATER_OVER) as world:
        await world.service().run_once()
        await replay(world, journal(world.settings.state_dir))
        assert not await nothing_is_shown(world)
        outcome = await world.service().run_once()
        assert outcome.stopped == "breaker" and "place again the holds" in outcome.detail


async def test_nothing_is_shown_while_the_replay_is_under_way(restored: Path) -> None:
    class Broken(Journal):
        def read(self) -> Iterator[Tombstone]:
            raise OSError(5, "Input/output error")

    async with opened(restored, LATER_OVER) as world:
        with pytest.raises(OSError, match="Input/output"):
            await replay(world, Broken(journal(world.settings.state_dir).folder))
        assert await nothing_is_shown(world)
        await replay(world, journal(world.settings.state_dir))
        assert not await nothing_is_shown(world)


async def test_a_second_replay_changes_nothing(restored: Path) -> None:
    async with opened(restored, LATER_OVER) as world:
        told = journal(world.settings.state_dir)
        await replay(world, told)
        done = await replay(world, told)
        assert (done.tombstones_replayed, done.segments_removed) == (0, 0)
        assert len(await world.rows(tables.breaker)) == 1
        assert len(await world.rows(tables.tombstone)) == 1
        assert len(list(told.read())) == 1


async def test_journals_kept_elsewhere_are_written_down_here_too(
    restored: Path, tmp_path: Path
) -> None:
    async with opened(restored, LATER_OVER, state="elsewhere") as world:
        theirs = journal(tmp_path / "state")
        await replay(world, theirs, theirs)
        assert list(journal(world.settings.state_dir).read()) == list(theirs.read())


async def test_a_replay_is_audited_and_ends_sign_ins(restored: Path) -> None:
    async with opened(restored, LATER_OVER) as world:
        async with world.database.write() as connection:
            await connection.execute(
                sa.insert(tables.session).values(
                    id="s", user_id="u", created_at_us=1, expires_at_us=2
                )
            )
        await replay(world, journal(world.settings.state_dir))
        assert await world.rows(tables.session) == []
        actions = [row["action"] for row in await world.rows(tables.audit)]
        assert actions[-2:] == ["breaker.open", "backup.restore"]
        told = [row for row in await world.rows(tables.outbox) if row["topic"] == "cameras"]
        assert {row["key"] for row in told} == {"cam-1", "cam-2"}


async def test_a_claim_that_is_under_way_is_no_sign_of_a_restore(restored: Path) -> None:
    async with opened(restored.parent / "old", LATER_OVER) as world:
        world.faults.arm("after.journal")
        with pytest.raises(BaseException, match=r"after\.journal"):
            await world.service().run_once()
        assert len(await world.rows(tables.purge_claim)) == 1
        world.faults.disarm()
        assert (await world.service().run_once()).purged == 1


async def test_an_unreadable_journal_deletes_nothing(
    restored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(restored, LATER_OVER) as world:

        def broken(_: Journal) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(Journal, "newest", broken)
        outcome = await world.service().run_once()
        assert outcome.stopped == "error" and "cannot be read" in outcome.detail
        assert len(await world.rows()) == 2
