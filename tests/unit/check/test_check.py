"""A clean store gives no finding; each invariant, broken on purpose in a copy, is named.

The world is built by the product's own parts: recorder spool, archive, holds, a purge with its
journal line, a media session with its audit record.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from services.check import Depth, Report, check
from shared import audit, ids, retention, tombstones
from shared.blobs import STANDARD
from shared.clock import DAY_US, HOUR_US, SECOND_US, SimulatedClock
from shared.db import rows, tables
from shared.domain import Camera, GapReason, Source
from shared.platform import Platform
from shared.retention import Policy
from shared.settings import Settings
from shared.spool import RecorderSpool
from tests.support import archiving, databases, sightings
from tests.support.archiving import MINUTE_US, START_US, file_gap, file_segment, segment

POLICY = Policy(1, 30, "civil_date", "Asia/Hong_Kong")
NOW_US = START_US + 40 * DAY_US
FRESH_US = NOW_US - HOUR_US
"""Start of what has not expired."""
HELD_US = START_US + 2 * HOUR_US
"""Past expiry, kept by a hold."""
PURGED_US = START_US


@asynccontextmanager
async def at(settings: Settings, now_us: int) -> AsyncIterator[Platform]:
    async with archiving.opened(settings, SimulatedClock(now_us)) as platform:
        yield platform


async def _policy_camera_hold(platform: Platform) -> None:
    camera = Camera(id="cam", name="Argyle", source=Source("file:///a.mp4"), created_at_us=START_US)
    async with platform.database.write() as connection:
        await connection.execute(
            sa.insert(tables.policy).values(
                version=1,
                retention_days=30,
                basis="civil_date",
                timezone=POLICY.timezone,
                effective_from_us=0,
            )
        )
        await connection.execute(sa.insert(tables.camera).values(rows.camera_row(camera, START_US)))
    await archiving.place(
        platform,
        archiving.hold(HELD_US, HELD_US + SECOND_US, HELD_US + DAY_US, lapses_at_us=None),
    )


async def _purge(platform: Platform, settings: Settings, segment_id: str) -> None:
    """As retention ends a segment: bytes, journal, tombstone, row."""
    now_us = platform.clock.now_us()
    async with platform.database.read() as connection:
        query = sa.select(tables.segment).where(tables.segment.c.id == segment_id)
        row = (await connection.execute(query)).mappings().one()
    await platform.blobs.delete([row["key"]])
    stone = tombstones.Tombstone(
        id="claim-1",
        camera_id=row["camera_id"],
        recording_date=row["recording_date"],
        segments=(
            tombstones.Purged(
                row["id"], row["start_us"], row["end_us"], row["sha256"], row["size_bytes"]
            ),
        ),
        policy_version=1,
        due_at_us=row["expires_at_us"],
        claimed_at_us=now_us - 3,
        bytes_gone_at_us=now_us - 2,
        written_at_us=now_us - 1,
    )
    tombstones.journal(settings.state_dir).append(stone)
    async with platform.database.write() as connection:
        await connection.execute(sa.insert(tables.tombstone).values(tombstones.row_of(stone)))
        fragments = tables.segment_fragments
        await connection.execute(sa.delete(fragments).where(fragments.c.segment_id == segment_id))
        await connection.execute(sa.delete(tables.segment).where(tables.segment.c.id == segment_id))


async def _watch(platform: Platform) -> None:
    now_us = platform.clock.now_us()
    async with platform.database.write() as connection:
        number = await audit.append(
            connection,
            audit.Entry(
                at_us=now_us,
                actor=audit.Actor("u1", "Officer"),
                action="playback.open",
                camera_ids=("cam",),
                purpose="crime_investigation",
                case_ref="CASE-1",
            ),
        )
        await connection.execute(
            sa.insert(tables.media_session).values(
                id="s1",
                user_id="u1",
                kind="playback",
                camera_id="cam",
                purpose="crime_investigation",
                audit_id=number,
                created_at_us=now_us,
                expires_at_us=now_us + 1,
            )
        )


async def _build(settings: Settings) -> None:
    async with at(settings, HELD_US + MINUTE_US) as platform:
        await _policy_camera_hold(platform)
        for start_us in (PURGED_US, HELD_US):
            file_segment(settings, segment(start_us))
        await archiving.drain(archiving.archive(platform, settings))
    async with at(settings, NOW_US) as platform:
        await _purge(platform, settings, segment(PURGED_US).id)
        for number in range(3):
            file_segment(settings, segment(FRESH_US + number * MINUTE_US))
        rest = FRESH_US + 3 * MINUTE_US
        file_gap(settings, archiving.gap(rest, end_us=rest + 10 * MINUTE_US))
        before = START_US
        file_gap(
            settings,
            archiving.gap(before, end_us=FRESH_US, reason=GapReason.MAINTENANCE),
        )
        await archiving.drain(archiving.archive(platform, settings))
        spool = RecorderSpool(settings.path(settings.spool.dir), "local")
        # One item still waits, which is no finding.
        waiting = rest + 10 * MINUTE_US
        file_segment(settings, segment(waiting))
        spool.set_accounted_until("cam", waiting + MINUTE_US)
        await _watch(platform)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = tmp_path_factory.mktemp("template") / "state"
    asyncio.run(_build(archiving.settings_in(state)))
    return state


class World:
    """A copy of the clean store, to be broken."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.settings = archiving.settings_in(state)

    def sql(self, statement: str, *values: Any) -> None:
        assert databases.run_sql(self.state / "lamppost.db", statement, *values) != 0

    def object(self, start_us: int) -> Path:
        (found,) = (self.state / "blobs" / "v1").rglob(f"*{segment(start_us).id}.mp4")
        return found

    def check(self, depth: Depth = "hash", now_us: int = NOW_US) -> Report:
        async def run() -> Report:
            async with at(self.settings, now_us) as platform:
                return await check(platform, self.settings, depth)

        return asyncio.run(run())

    def put(self, start_us: int, stored_at_us: int, data: bytes = b"x") -> None:
        made = segment(start_us, data=data * 400)
        day = retention.recording_date(made.end_us, POLICY.zone)
        key = ids.object_key(day, "cam", start_us, made.id)

        async def run() -> None:
            async with at(self.settings, stored_at_us) as platform:
                await platform.blobs.put(
                    key, data * 400, sha256=made.sha256, size_bytes=made.size_bytes
                )

        asyncio.run(run())


@pytest.fixture
def world(template: Path, tmp_path: Path) -> World:
    shutil.copytree(template, tmp_path / "state")
    databases.copy(template / "lamppost.db", tmp_path / "state" / "lamppost.db")
    return World(tmp_path / "state")


def named(report: Report, invariant: int, text: str) -> None:
    """The report names the invariant, says so much, and says what to do."""
    found = [one for one in report.findings if one.invariant == invariant]
    assert found, report
    assert any(text in one.what for one in found), [one.what for one in found]
    assert all(one.fix for one in found)
    assert report.counts[invariant] == len(found)
    assert not report.clean


@pytest.mark.parametrize("depth", ["presence", "size", "hash"])
def test_a_clean_store_gives_no_finding(world: World, depth: Depth) -> None:
    report = world.check(depth)
    assert report.findings == ()
    assert report.clean
    assert (report.segments, report.objects) == (4, 4)


# 1: a row only with durable, checked bytes


def test_1_a_row_without_bytes(world: World) -> None:
    world.object(FRESH_US).unlink()
    report = world.check("presence")
    named(report, 1, "no bytes")
    (finding,) = report.findings
    assert (finding.camera, finding.segment) == ("cam", segment(FRESH_US).id)


def test_1_bytes_of_another_size(world: World) -> None:
    with world.object(FRESH_US).open("ab") as file:
        file.write(b"!")
    assert world.check("presence").clean
    named(world.check("size"), 1, "1001 bytes")


def test_1_a_flipped_bit(world: World) -> None:
    with world.object(FRESH_US).open("r+b") as file:
        file.write(b"?")
    assert world.check("size").clean
    named(world.check("hash"), 1, "SHA-256")


def test_1_a_row_without_fragments(world: World) -> None:
    world.sql("DELETE FROM segment_fragments WHERE segment_id = ?", segment(FRESH_US).id)
    named(world.check("presence"), 1, "fragment table")


# 2: no bytes without a row


def test_2_bytes_without_a_row_for_over_a_day(world: World) -> None:
    world.put(FRESH_US + 40 * MINUTE_US, NOW_US - 25 * HOUR_US)
    named(world.check("presence"), 2, "no row for over 24 h")


def test_2_bytes_just_stored_are_on_their_way(world: World) -> None:
    world.put(FRESH_US + 40 * MINUTE_US, NOW_US - 23 * HOUR_US)
    assert world.check().clean


def test_2_bytes_whose_recording_waits_in_the_spool_will_be_adopted(world: World) -> None:
    world.put(FRESH_US + 13 * MINUTE_US, NOW_US - 25 * HOUR_US)
    assert world.check().clean


def test_2_leftovers_of_uploads_and_recordings(world: World) -> None:
    old = NOW_US - 25 * HOUR_US
    (world.state / "blobs" / ".unfinished" / f"{old:020d}-x").write_bytes(b"half")
    named(world.check("presence"), 2, "unfinished upload")
    shutil.rmtree(world.state / "blobs" / ".unfinished")
    (world.state / "spool" / "local" / "tmp" / f"{old:020d}-cam-x.mp4").write_bytes(b"half")
    named(world.check("presence"), 2, "never filed")


# 3: every held instant has its copy


def test_3_the_bytes_of_a_held_segment_are_gone(world: World) -> None:
    world.object(HELD_US).unlink()
    named(world.check("presence"), 3, "its bytes are gone")


def test_3_a_held_object_without_its_tag(world: World) -> None:
    (key,) = [str(world.object(HELD_US).relative_to(world.state / "blobs"))]

    async def untag() -> None:
        async with at(world.settings, NOW_US) as platform:
            assert await platform.blobs.set_tags([key], STANDARD) == []

    asyncio.run(untag())
    named(world.check("presence"), 3, "not tagged")


def test_3_a_purge_of_what_a_hold_covered(world: World) -> None:
    world.sql("UPDATE hold SET start_us = ?", PURGED_US)
    named(world.check("presence"), 3, "purged while a hold covered it (hold-1)")


# 4: what is due is gone


def test_4_an_expired_row_that_nothing_holds(world: World) -> None:
    world.sql("UPDATE hold SET released_at_us = ?", HELD_US + 2 * DAY_US)
    named(world.check("presence"), 4, "nothing holds it")


def test_4_a_release_after_expiry_gives_72_hours_and_a_day(world: World) -> None:
    expiry = START_US - 8 * HOUR_US + 31 * DAY_US
    world.sql("UPDATE hold SET released_at_us = ?", expiry + 1)
    assert world.check("presence", expiry + 95 * HOUR_US).counts.get(4) is None
    named(world.check("presence", expiry + 97 * HOUR_US), 4, "nothing holds it")


def test_4_an_expiry_later_than_the_rule(world: World) -> None:
    world.sql(
        "UPDATE segment SET expires_at_us = expires_at_us + 1 WHERE id = ?", segment(FRESH_US).id
    )
    named(world.check("presence"), 4, "the rule says")


def test_4_bytes_that_no_row_names_past_their_expiry(world: World) -> None:
    world.put(PURGED_US + HOUR_US, START_US + 2 * HOUR_US)
    named(world.check("presence"), 4, "past their expiry")


def test_4_a_sighting_that_outlived_its_footage(world: World) -> None:
    made = sightings.sighting("s", "cam", PURGED_US)
    row = sightings.row(made, now_us=NOW_US, expires_at_us=NOW_US - 25 * HOUR_US)

    async def run() -> None:
        async with at(world.settings, NOW_US) as platform:
            await databases.insert(platform.database, tables.sighting, row)

    asyncio.run(run())
    named(world.check("presence"), 4, "Sighting s")


def test_4_a_set_aside_video_that_outlived_its_expiry(world: World) -> None:
    for start_us in (PURGED_US, FRESH_US, HELD_US):
        name = f"{start_us:020d}-cam-{segment(start_us).id}.mp4"
        (world.state / "spool" / "local" / "bad" / name).write_bytes(b"damaged")
    report = world.check("presence")
    named(report, 4, f"{PURGED_US:020d}")
    assert report.counts == {4: 1}


# 5: nothing unexpired is deleted


def test_5_a_row_and_its_bytes_gone_without_a_tombstone(world: World) -> None:
    world.object(FRESH_US).unlink()
    world.sql("DELETE FROM segment WHERE id = ?", segment(FRESH_US).id)
    named(world.check("presence"), 5, "1 of 3 segments")


def test_5_a_purge_before_its_time(world: World) -> None:
    early = PURGED_US + 3 * DAY_US
    world.sql(
        "UPDATE tombstone SET claimed_at_us = ?, bytes_gone_at_us = ?, written_at_us = ?",
        *(early, early, early),
    )
    report = world.check("presence")
    named(report, 5, "before it fell due")
    named(report, 5, "would have expired")


def test_5_an_expiry_earlier_than_the_rule(world: World) -> None:
    world.sql(
        "UPDATE segment SET expires_at_us = expires_at_us - 1 WHERE id = ?", segment(FRESH_US).id
    )
    named(world.check("presence"), 5, "the rule says")


# 6: every camera-second once


def test_6_seconds_that_nobody_tells_of(world: World) -> None:
    world.sql("DELETE FROM gap WHERE start_us = ?", FRESH_US + 3 * MINUTE_US)
    named(world.check("presence"), 6, "600.0 s")


def test_6_seconds_that_count_twice(world: World) -> None:
    world.sql(
        "UPDATE segment SET effective_end_us = effective_end_us + 5 WHERE id = ?",
        segment(FRESH_US).id,
    )
    named(world.check("presence"), 6, "counted in two segments")


def test_6_a_camera_that_nobody_recorded(world: World) -> None:
    camera = Camera(
        id="forgotten", name="", source=Source("file:///a.mp4"), created_at_us=FRESH_US - HOUR_US
    )

    async def add() -> None:
        async with at(world.settings, NOW_US) as platform, platform.database.write() as connection:
            await connection.execute(
                sa.insert(tables.camera).values(rows.camera_row(camera, FRESH_US))
            )

    asyncio.run(add())
    report = world.check("presence")
    named(report, 6, "neither")
    assert {one.camera for one in report.findings} == {"forgotten"}


# 7: a purge only goes forward


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE segment SET state = 'purging' WHERE id = :fresh", "by no claim"),
        (
            "INSERT INTO purge_claim VALUES ('claim-2', 'cam', '2024-04-16', 'w', :old, NULL, 1)",
            "open for over 24 h",
        ),
        (
            "INSERT INTO purge_claim VALUES ('claim-1', 'cam', '2024-04-16', 'w', :now, NULL, 1)",
            "although its tombstone",
        ),
        ("UPDATE tombstone SET bytes_gone_at_us = claimed_at_us - 1", "do not go forward"),
        ("UPDATE segment SET id = :purged WHERE id = :fresh", "its row is there"),
        ("DELETE FROM tombstone", "the database has not"),
    ],
)
def test_7_a_purge_that_went_back(world: World, statement: str, says: str) -> None:
    values = {
        ":fresh": f"'{segment(FRESH_US).id}'",
        ":purged": f"'{segment(PURGED_US).id}'",
        ":old": str(NOW_US - 25 * HOUR_US),
        ":now": str(NOW_US),
    }
    for name, value in values.items():
        statement = statement.replace(name, value)
    world.sql(statement)
    named(world.check("presence"), 7, says)


def test_7_bytes_that_a_tombstone_calls_gone(world: World) -> None:
    world.put(PURGED_US, NOW_US)
    named(world.check("presence"), 7, "its bytes are there")


def test_7_a_tombstone_that_the_journal_lacks(world: World) -> None:
    shutil.rmtree(world.state / "tombstones")
    named(world.check("presence"), 7, "not in the journal")


def test_7_an_expired_segment_gone_without_a_tombstone(world: World) -> None:
    world.object(HELD_US).unlink()
    world.sql("DELETE FROM segment WHERE id = ?", segment(HELD_US).id)
    named(world.check("presence"), 7, "without a tombstone")


# 8: no video without a record


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DELETE FROM audit", "no audit record"),
        ("UPDATE audit SET at_us = at_us + 1", "before its audit record"),
        ("UPDATE audit SET purpose = ''", "without a purpose"),
        ("UPDATE audit SET case_ref = ''", "without case or reason"),
        ("UPDATE audit SET camera_ids = '[\"other\"]'", "another camera"),
        ("UPDATE audit SET actor_id = ''", "names nobody"),
    ],
)
def test_8_a_session_without_its_record(world: World, statement: str, says: str) -> None:
    world.sql(statement)
    named(world.check("presence"), 8, says)


# 10: no capture time after its receipt


def test_10_a_segment_that_ends_after_it_was_filed(world: World) -> None:
    made = segment(FRESH_US)
    world.sql("UPDATE segment SET committed_at_us = ? WHERE id = ?", made.end_us - 1, made.id)
    named(world.check("presence"), 10, "after it was received")


# 11: no place for biometrics


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE face_template (id INTEGER)",
        "ALTER TABLE sighting ADD COLUMN embedding BYTEA",
        "ALTER TABLE sighting ADD COLUMN plate_text TEXT",
    ],
)
def test_11_a_place_for_what_may_not_exist(world: World, statement: str) -> None:
    world.sql(statement)
    named(world.check("presence"), 11, "There is" if "CREATE" in statement else "has a column")


# Bounds


def test_findings_are_bounded_and_all_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.check import queries, report

    monkeypatch.setattr(report, "MAX_FINDINGS", 2)
    monkeypatch.setattr(queries, "PAGE", 1)
    for path in (world.state / "blobs" / "v1").rglob("*.mp4"):
        path.unlink()
    found = world.check("presence")
    assert len(found.findings) == 2
    assert found.counts == {1: 4, 3: 1}
