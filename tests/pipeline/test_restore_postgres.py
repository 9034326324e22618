"""PostgreSQL comes back from a base backup while the store has newer objects (edge case 23).

Footage is archived, purged and held after the backup, by retention workers on two volumes; then the
server is lost. What was purged stays purged, what is newer has rows again, and `check` is clean.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from services.api import holds
from services.api.holds import HoldRequest
from services.check.run import check
from services.retention.breaker import clear_breaker
from services.retention.policy import ensure_policy
from services.retention.service import RetentionService
from shared import ids
from shared.audit import Actor
from shared.clock import DAY_US, HOUR_US, SimulatedClock, SystemClock
from shared.db import tables
from shared.db.rows import camera_row
from shared.domain import Camera, HoldReason, Source
from shared.platform import Platform, open_platform
from shared.settings import Settings, load
from tests.support import archiving, sightings
from tests.support.archiving import all_keys, all_rows
from tests.support.media_store import Made, encoded, record
from tests.support.servers.postgres import Postgres, as_server_user, own
from tests.support.servers.process import run
from tests.support.servers.seaweed import Seaweed

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
OFFICER = Actor("officer", "Officer")
NOW_US = SystemClock().now_us()
PURGED_FIRST_US, PURGED_SECOND_US = NOW_US - 34 * DAY_US, NOW_US - 32 * DAY_US
KEPT_US, NEWER_US = NOW_US - 20 * DAY_US, NOW_US - DAY_US // 2
AFTERWARDS_US = NOW_US + 2 * HOUR_US
"""The archive leaves bytes without a row alone for an hour."""


@dataclass
class Site:
    """The servers and the volumes of two retention workers, `ret-a` and `ret-b`."""

    folder: Path
    postgres: Postgres
    seaweed: Seaweed
    made: dict[str, list[Made]] = field(default_factory=dict)

    def environment(self, worker: str) -> dict[str, str]:
        return {
            **self.postgres.environment(),
            **self.seaweed.environment(),
            "LAMPPOST_S3__BUCKET": "restore",
            "LAMPPOST_STATE_DIR": str(self.folder / worker),
            "LAMPPOST_INSTANCE": worker,
            "LAMPPOST_POSTGRES__DAYS_BACK": "0",
            "LAMPPOST_POSTGRES__DAYS_AHEAD": "2",
            # The tests' clock is days beside that of the servers.
            "LAMPPOST_RETENTION__MAX_CLOCK_ERROR_S": "1e7",
        }

    @asynccontextmanager
    async def opened(self, worker: str, at_us: int) -> AsyncIterator[tuple[Platform, Settings]]:
        settings = load(self.environment(worker), {})
        platform = await open_platform(settings, SimulatedClock(at_us))
        try:
            yield platform, settings
        finally:
            await platform.close()

    async def archive(self, name: str, camera: str, at_us: int) -> None:
        """A recorder's segments are stored, as ever."""
        self.made[name] = record(encoded(), start_us=at_us, camera=camera)
        async with self.opened("ret-a", at_us + HOUR_US // 60) as (platform, settings):
            for one in self.made[name]:
                archiving.file_segment(settings, one.segment, one.data)
            await archiving.drain(archiving.archive(platform, settings))

    async def purge(self, worker: str, at_us: int) -> int:
        async with self.opened(worker, at_us) as (platform, settings):
            outcome = await RetentionService(platform, settings).run_once()
        assert not outcome.stopped, outcome
        return outcome.purged

    def ids(self, *names: str) -> set[str]:
        return {one.segment.id for name in names for one in self.made[name]}

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        plain = {key: value for key, value in os.environ.items() if "LAMPPOST" not in key}
        return subprocess.run(
            [sys.executable, "-m", "services", *arguments, "--json"],
            cwd=ROOT, env=plain | self.environment("by-hand"), capture_output=True, text=True,
            timeout=90, check=False,
        )  # fmt: skip


def base_backup(of: Postgres, folder: Path) -> Postgres:
    """A server that is not started yet, on what `pg_basebackup` copies from the one that runs."""
    copy = Postgres(folder, durable=False)
    folder.mkdir()
    for name in ("application.password", "superuser.password"):
        shutil.copy(of.folder / name, folder / name)
    copy.data.mkdir()
    if os.geteuid() == 0:
        own(copy.data)
    copy.data.chmod(0o700)
    environment = {**os.environ, "PGPASSWORD": (folder / "superuser.password").read_text("ascii")}
    where: list[str | Path] = ["-h", "127.0.0.1", "-p", str(of.port), "-U", "postgres"]
    where += ["-D", copy.data, "--checkpoint=fast", "--wal-method=stream", "--no-sync"]
    run([*as_server_user(), of.bin / "pg_basebackup", *where], env=environment, cwd=copy.home)
    with (copy.data / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.write(f"unix_socket_directories = '{copy.home / 'sock'}'\n")
    return copy


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    postgres = Postgres(tmp_path / "postgres", durable=False)
    with postgres, Seaweed(tmp_path / "seaweed") as seaweed:
        yield Site(tmp_path, postgres, seaweed)


async def _found(site: Site) -> None:
    """The installation: schema, policy, two cameras and an officer."""
    async with site.opened("ret-a", PURGED_FIRST_US - HOUR_US) as (platform, settings):
        await platform.database.migrate()
        await ensure_policy(platform, settings)
        now_us = platform.clock.now_us()
        async with platform.database.write() as connection:
            for name in ("cam-1", "cam-2"):
                camera = Camera(id=name, name=name, source=Source("rtsp://h/x"))
                await connection.execute(
                    sa.insert(tables.camera).values(camera_row(camera, now_us))
                )
            await connection.execute(
                sa.insert(tables.user).values(
                    id=OFFICER.id, name=OFFICER.id, roles=[], created_at_us=0
                )
            )


async def _see(site: Site) -> None:
    """A sighting in footage that will be purged."""
    async with site.opened("ret-a", PURGED_FIRST_US + HOUR_US) as (platform, _):
        seen = sightings.sighting("seen", "cam-1", PURGED_FIRST_US, seconds=1.0)
        row = sightings.row(
            seen, now_us=PURGED_FIRST_US, expires_at_us=PURGED_FIRST_US + 31 * DAY_US
        )
        await platform.database.ensure_days([row["recording_date"]])
        async with platform.database.write(["cam-1"]) as connection:
            await connection.execute(sa.insert(tables.sighting).values(row))


async def _hold(platform: Platform, settings: Settings, site: Site) -> None:
    kept = site.made["kept"]
    request = HoldRequest(
        camera_ids=("cam-1",),
        start_us=kept[0].segment.start_us,
        end_us=kept[-1].segment.end_us,
        case_ref="CASE-1",
        reason=HoldReason.CRIMINAL_INVESTIGATION,
    )
    await holds.place(platform, settings, OFFICER, request)


async def _live_through(site: Site) -> Postgres:
    """What happens before and after the base backup, which is returned, not started."""
    await _found(site)
    await site.archive("purged by a", "cam-1", PURGED_FIRST_US)
    await _see(site)
    await site.archive("purged by b", "cam-2", PURGED_SECOND_US)
    await site.archive("kept", "cam-1", KEPT_US)
    copy = base_backup(site.postgres, site.folder / "restored")
    assert await site.purge("ret-a", NOW_US - 3 * DAY_US + HOUR_US) == 2
    assert await site.purge("ret-b", NOW_US - DAY_US + HOUR_US) == 2
    await site.archive("newer", "cam-1", NEWER_US)
    async with site.opened("ret-a", NEWER_US + HOUR_US) as (platform, settings):
        await _hold(platform, settings, site)
        assert {row["id"] for row in await all_rows(platform, tables.segment)} == site.ids(
            "kept", "newer"
        )
    return copy


async def _refuses_until_told(site: Site) -> None:
    """A worker whose journal knows more deletes nothing; the command waits for the services."""
    journals = [str(site.folder / worker / "tombstones") for worker in ("ret-a", "ret-b")]
    options = [part for name in journals for part in ("--tombstones", name)]
    async with site.opened("ret-b", NOW_US) as (platform, settings):
        outcome = await RetentionService(platform, settings).run_once()
        assert (outcome.purged, outcome.stopped) == (0, "breaker"), outcome
        found = {row["id"] for row in await all_rows(platform, tables.segment)}
        assert found == site.ids("purged by a", "purged by b", "kept")
        refused = site.command("restore", *options)
        assert refused.returncode != 0
        assert "Services are connected" in refused.stdout + refused.stderr
    for replayed in (2, 0):  # the second time there is nothing left to tell
        done = site.command("restore", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        told: Mapping[str, Any] = json.loads(done.stdout)
        assert told["tombstones_replayed"] == replayed, told
        assert told["segments_removed"] == 2 * replayed, told
        assert told["deletion"] == "stopped"


async def test_a_restored_postgresql_brings_nothing_back_and_loses_no_footage(site: Site) -> None:
    copy = await _live_through(site)
    site.postgres.kill()
    site.postgres = copy
    with copy:
        await _refuses_until_told(site)
        async with site.opened("ret-a", AFTERWARDS_US) as (platform, settings):
            assert await all_rows(platform, tables.sighting) == []
            one = site.made["purged by a"][0]
            # The store, too, may bring back what was purged.
            stone = next(
                row
                for row in await all_rows(platform, tables.tombstone)
                if row["camera_id"] == "cam-1"
            )
            purged_key = ids.object_key(
                stone["recording_date"], "cam-1", one.segment.start_us, one.segment.id
            )
            await platform.blobs.put(
                purged_key,
                one.data,
                sha256=one.segment.sha256,
                size_bytes=one.segment.size_bytes,
            )
        async with site.opened("ret-a", AFTERWARDS_US) as (platform, settings):
            reconciler = archiving.archive(platform, settings).reconciler
            while await reconciler.step():
                pass
            rows = await all_rows(platform, tables.segment)
            assert {row["id"] for row in rows} == site.ids("kept", "newer")
            assert sorted(await all_keys(platform)) == sorted(row["key"] for row in rows)
            removed = [
                row["resource"]
                for row in await all_rows(platform, tables.audit)
                if row["action"] == "orphan.remove"
            ]
            assert removed == [purged_key]
            # The hold is lost with the days since the backup, so people place it again.
            assert await all_rows(platform, tables.hold) == []
            outcome = await RetentionService(platform, settings).run_once()
            assert outcome.stopped == "breaker"
            await _hold(platform, settings, site)
            await clear_breaker(platform, "The hold stands again.")
            outcome = await RetentionService(platform, settings).run_once()
            assert outcome == (0, "", ""), outcome
            report = await check(platform, settings, "hash")
            assert report.findings == (), report.findings
            assert (report.segments, report.objects) == (4, 4)
