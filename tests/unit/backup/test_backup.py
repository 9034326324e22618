"""A backup is consistent and whole; a restore never brings purged footage back (edge case 23)."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from services import backup
from services.backup import Manifest
from services.check import check
from services.statelock import StateLock
from shared import tombstones
from shared.clock import DAY_US, SimulatedClock
from shared.db import rows, tables
from shared.domain import Camera, Source
from shared.errors import Kind, LamppostError
from shared.messages import CameraChanged, decode
from shared.platform import Platform
from shared.settings import Settings
from tests.support import archiving, sightings
from tests.support.archiving import MINUTE_US, START_US, all_rows, file_segment, segment

CLOCK_US = START_US + MINUTE_US
DAY = date(2024, 4, 16)
LATER_US = START_US + 40 * DAY_US
ZONE = {
    "id": "gate", "camera_id": "cam", "kind": "line", "name": "Gate", "directions": None,
    "points": [[0.5, 0.0], [0.5, 1.0]], "version": 3, "created_at_us": 1, "updated_at_us": 2,
}  # fmt: skip


class World:
    """One installation and its backups."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = archiving.settings_in(folder / "state")
        self.backup = folder / "backup"

    async def fill(self) -> Manifest:
        """Two segments, a camera, a sighting and a sign-in; then a backup."""
        async with archiving.opened(self.settings, SimulatedClock(CLOCK_US)) as platform:
            for camera_id in ("cam", "other"):
                file_segment(self.settings, segment(camera_id=camera_id))
            await archiving.drain(archiving.archive(platform, self.settings))
            camera = Camera(id="cam", name="Argyle", source=Source("file:///a.mp4"))
            async with platform.database.write() as connection:
                await connection.execute(
                    sa.insert(tables.camera).values(rows.camera_row(camera, CLOCK_US))
                )
                await connection.execute(sa.insert(tables.sighting).values(_sighting()))
                await connection.execute(sa.insert(tables.zone).values(ZONE))
                await connection.execute(
                    sa.insert(tables.session).values(
                        id="s", user_id="u", created_at_us=1, expires_at_us=2
                    )
                )
            return await backup.backup(platform, self.settings, self.backup)

    async def purge(self, platform: Platform, settings: Settings) -> tombstones.Tombstone:
        """The footage of `cam` leaves, as retention ends it."""
        now_us = platform.clock.now_us()
        (row,) = [
            row for row in await all_rows(platform, tables.segment) if row["camera_id"] == "cam"
        ]
        await platform.blobs.delete([row["key"]])
        stone = tombstones.Tombstone(
            id="claim-1",
            camera_id="cam",
            recording_date=row["recording_date"],
            segments=(
                tombstones.Purged(
                    row["id"], row["start_us"], row["end_us"], row["sha256"], row["size_bytes"]
                ),
            ),
            policy_version=0,
            due_at_us=row["expires_at_us"],
            claimed_at_us=now_us,
            bytes_gone_at_us=now_us,
            written_at_us=now_us,
        )
        tombstones.journal(settings.state_dir).append(stone)
        async with platform.database.write() as connection:
            await connection.execute(sa.insert(tables.tombstone).values(tombstones.row_of(stone)))
            await connection.execute(
                sa.delete(tables.segment).where(tables.segment.c.id == row["id"])
            )
        return stone

    async def purge_later(self) -> None:
        async with archiving.opened(self.settings, SimulatedClock(LATER_US)) as platform:
            await self.purge(platform, self.settings)

    async def restore(self, **options: Any) -> backup.Restored:
        return await backup.restore(
            self.backup, self.settings, clock=SimulatedClock(LATER_US + 1), **options
        )

    async def rows(self, table: sa.Table) -> list[dict[str, Any]]:
        async with archiving.opened(self.settings, SimulatedClock(LATER_US + 2)) as platform:
            return await all_rows(platform, table)


def _sighting() -> dict[str, Any]:
    made = sightings.sighting("sighting", "cam", START_US)
    return sightings.row(made, now_us=CLOCK_US, day=DAY, expires_at_us=LATER_US)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def kind_of(awaitable: Any) -> LamppostError:
    with pytest.raises(LamppostError) as caught:
        await awaitable
    return caught.value


async def test_a_backup_is_whole_and_leaves_out_what_must_not_come_back(world: World) -> None:
    manifest = await world.fill()
    assert manifest == backup.read_manifest(world.backup)
    assert manifest.made_at_us == CLOCK_US
    with sqlite3.connect(world.backup / "lamppost.db") as copy:
        counts = {
            table: copy.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("segment", "camera", "sighting", "login_session", "audit")
        }
    copy.close()
    assert counts == {"segment": 2, "camera": 1, "sighting": 0, "login_session": 0, "audit": 1}
    assert not list(world.backup.rglob("*.mp4"))
    assert not list(world.backup.rglob("*key*"))


async def test_a_backup_is_made_beside_a_writer_and_is_of_one_moment(world: World) -> None:
    async with archiving.opened(world.settings, SimulatedClock(CLOCK_US)) as platform:
        done = asyncio.Event()

        async def write() -> None:
            number = 0
            while not done.is_set():
                async with platform.database.write() as connection:
                    for table in (tables.ledger_day, tables.gap):
                        await connection.execute(sa.insert(table).values(_pair(table, number)))
                number += 1

        writer = asyncio.create_task(write())
        for number in range(3):
            await backup.backup(platform, world.settings, world.folder / f"b{number}")
        done.set()
        await writer
    for number in range(3):
        with sqlite3.connect(world.folder / f"b{number}" / "lamppost.db") as copy:
            counts = {
                copy.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
                for name in ("ledger_day", "gap")
            }
        copy.close()
        assert len(counts) == 1  # both rows of each transaction, or neither


def _pair(table: sa.Table, number: int) -> dict[str, Any]:
    if table is tables.ledger_day:
        return {"camera_id": f"c{number}", "recording_date": DAY}
    return {
        "id": f"g{number}",
        "camera_id": "c",
        "start_us": number,
        "end_us": number + 1,
        "recording_date": DAY,
        "reason": "silent",
        "committed_at_us": 0,
    }


async def test_a_backup_goes_into_an_empty_folder_only(world: World) -> None:
    await world.fill()
    async with archiving.opened(world.settings, SimulatedClock(CLOCK_US)) as platform:
        error = await kind_of(backup.backup(platform, world.settings, world.backup))
    assert error.kind is Kind.CONFLICT


async def test_a_restored_database_knows_what_was_purged_since(world: World) -> None:
    # Edge case 23, with the journal of the machine.
    await world.fill()
    await world.purge_later()
    done = await world.restore(force=True)
    assert (done.tombstones_replayed, done.segments_removed) == (1, 1)
    assert [row["camera_id"] for row in await world.rows(tables.segment)] == ["other"]
    assert [row["id"] for row in await world.rows(tables.tombstone)] == ["claim-1"]
    assert len(await world.rows(tables.segment_fragments)) == 1
    async with archiving.opened(world.settings, SimulatedClock(CLOCK_US)) as platform:
        report = await check(platform, world.settings, "hash")
    assert [one for one in report.findings if one.invariant != 6] == []


async def test_a_tombstone_that_only_the_replaced_database_has_is_kept(world: World) -> None:
    await world.fill()
    await world.purge_later()
    shutil.rmtree(world.settings.state_dir / "tombstones")
    done = await world.restore(force=True)
    assert (done.tombstones_replayed, done.segments_removed) == (1, 1)
    assert [row["id"] for row in await world.rows(tables.tombstone)] == ["claim-1"]
    assert len(list(tombstones.journal(world.settings.state_dir).read())) == 1


async def test_a_lost_machine_takes_a_journal_kept_elsewhere(world: World) -> None:
    await world.fill()
    await world.purge_later()
    shutil.move(world.settings.state_dir / "tombstones", world.folder / "elsewhere")
    shutil.rmtree(world.settings.state_dir)
    done = await world.restore(more_tombstones=[world.folder / "elsewhere"])
    assert (done.tombstones_replayed, done.segments_removed) == (1, 1)
    assert [row["camera_id"] for row in await world.rows(tables.segment)] == ["other"]
    # It is this machine's from now on, so that the next restore knows it too.
    assert [stone.id for stone in tombstones.journal(world.settings.state_dir).read()] == [
        "claim-1"
    ]


async def test_restoring_again_changes_nothing(world: World) -> None:
    await world.fill()
    await world.purge_later()
    await world.restore(force=True)
    done = await world.restore(force=True)
    assert done.segments_removed == 1
    assert len(await world.rows(tables.tombstone)) == 1


async def test_a_restore_is_audited_and_tells_recorders_of_the_cameras(world: World) -> None:
    await world.fill()
    await world.restore(force=True)
    actions = [row["action"] for row in await world.rows(tables.audit)]
    assert actions == ["backup.create", "backup.restore"]
    (event,) = await world.rows(tables.outbox)
    assert (event["service"], event["topic"], event["key"]) == ("api", "cameras", "cam")
    told = decode(event["value"], CameraChanged)
    assert told.camera.name == "Argyle"
    assert [(zone.id, zone.version) for zone in told.zones] == [("gate", 3)]


async def test_a_running_instance_is_refused(world: World) -> None:
    await world.fill()
    lock = StateLock(world.settings.state_dir / "lock", "The state folder")
    lock.acquire()
    try:
        error = await kind_of(world.restore(force=True))
    finally:
        lock.release()
    assert error.kind is Kind.CONFLICT
    assert "in use" in str(error)
    await world.restore(force=True)


async def test_a_database_is_replaced_only_when_forced(world: World) -> None:
    await world.fill()
    await world.purge_later()
    error = await kind_of(world.restore())
    assert error.kind is Kind.CONFLICT
    assert "--force" in error.fix
    assert len(await world.rows(tables.segment)) == 1  # untouched


@pytest.mark.parametrize("name", ["lamppost.db", "manifest.json"])
async def test_a_damaged_backup_is_refused(world: World, name: str) -> None:
    await world.fill()
    path = world.backup / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert (await kind_of(world.restore(force=True))).kind is Kind.CORRUPT
    assert len(await world.rows(tables.segment)) == 2


async def test_a_backup_without_its_parts_is_refused(world: World) -> None:
    assert (await kind_of(world.restore(force=True))).kind is Kind.NOT_FOUND
    await world.fill()
    (world.backup / "lamppost.db").unlink()
    assert (await kind_of(world.restore(force=True))).kind is Kind.CORRUPT


async def test_a_backup_of_a_newer_version_is_refused(world: World) -> None:
    await world.fill()
    path = world.backup / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"revision": "2099_01_01"}))
    assert (await kind_of(world.restore(force=True))).kind is Kind.UNSUPPORTED


async def test_a_manifest_cannot_name_files_elsewhere(world: World) -> None:
    await world.fill()
    path = world.backup / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../state/lamppost.db"] = {"sha256": "", "size_bytes": 0}
    path.write_text(json.dumps(manifest))
    assert (await kind_of(world.restore(force=True))).kind is Kind.CORRUPT


async def test_where_the_database_is_a_servers_it_is_refused_with_what_to_do(
    tmp_path: Path,
) -> None:
    settings = archiving.settings_in(tmp_path, stores={"database": "postgresql"})
    with pytest.raises(LamppostError) as caught:
        await backup.restore(tmp_path / "backup", settings)
    assert caught.value.kind is Kind.UNSUPPORTED
    assert "pg_basebackup" in caught.value.fix
