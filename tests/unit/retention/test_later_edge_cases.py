"""Edge cases 10 to 25 of docs/retention.md, each on the real stores with a simulated clock."""

import asyncio
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from services.api import holds
from services.retention import queries_claims
from services.retention.executor import Executor
from services.retention.plan import PlannedClaim
from shared import standing
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import tables
from shared.errors import Kind, LamppostError
from shared.ids import boxes_key
from shared.retention import Access
from shared.tombstones import journal, unpack_segments
from tests.support import databases, sightings
from tests.support.retention_asks import access_of, expiry_of, gone
from tests.support.retention_world import OFFICER, Crash, World, local, world

NOON = "2024-04-16T12:00"
EXPIRY = "2024-05-17T00:00"


async def test_edge_10_an_end_date_acts_as_a_release_with_a_reminder(w: World) -> None:
    segment = await w.file("cam-1", NOON)
    due = await expiry_of(w, segment)
    w.to(due - HOUR_US)
    report = await w.hold(NOON, "2024-04-16T12:01", ends_at_us=due + 2 * DAY_US)
    assert (await standing.read(w.platform)).holds_ending_soon == ()
    w.to(due + 26 * HOUR_US)
    assert (await standing.read(w.platform)).holds_ending_soon == (report.hold.id,)
    w.to(due + 2 * DAY_US)
    assert (await w.service().run_once()).purged == 0, "an end date gives the grace of a release"
    w.to(due + 2 * DAY_US + 72 * HOUR_US)
    assert (await w.service().run_once()).purged == 1


async def test_edge_11_a_hold_on_time_to_come_covers_what_arrives(w: World) -> None:
    now = w.clock.now_us()
    report = await w.hold(now, now + 600 * SECOND_US)
    assert [(gap.reason, gap.start_us) for gap in report.gaps] == [("to_come", now)]
    w.to(now + 300 * SECOND_US)
    segment = await w.file("cam-1", now + 120 * SECOND_US)
    assert [dict(tags) for tags in (await w.objects()).values()] == [{"lamppost": "held"}]
    later = await holds.report(w.platform, w.settings, report.hold.id)
    assert later.segments == 1 and not later.partial
    await w.keep(report.hold.id, await expiry_of(w, segment) + DAY_US)
    assert (await w.service().run_once()).purged == 0
    with pytest.raises(LamppostError) as caught:
        await w.hold(now, w.clock.now_us() + 24 * HOUR_US + 1)
    assert caught.value.kind is Kind.INVALID


async def test_edge_12_late_footage_expires_by_its_capture(w: World) -> None:
    w.to("2024-04-21T12:00")
    late = await w.file("cam-1", NOON)
    due = await expiry_of(w, late)
    assert due in (local(EXPIRY), local(NOON) + 60 * SECOND_US + 30 * DAY_US)
    w.to(due)
    assert (await w.service().run_once()).purged == 1


async def test_edge_12_footage_past_its_expiry_is_refused_unless_held(w: World) -> None:
    w.to("2024-05-15T12:00")
    report = await w.hold(NOON, "2024-04-16T12:01")
    w.to("2024-05-17T12:00")
    assert await w.file("cam-2", NOON) is None
    held = await w.file("cam-1", NOON)
    assert held is not None
    assert (await w.service().run_once()).purged == 0
    assert (await holds.report(w.platform, w.settings, report.hold.id)).segments == 1


async def test_edge_13_a_hold_reaches_as_far_as_the_clock_is_doubted(w: World) -> None:
    near = await w.file("cam-1", NOON, 58.5)
    far = await w.file("cam-2", NOON, 60, uncertainty_us=600 * SECOND_US)
    sure = await w.file("cam-2", "2024-04-16T11:50", 60)
    start = local("2024-04-16T12:01")
    report = await w.hold(start, start + 60 * SECOND_US, cameras=("cam-1", "cam-2"))
    assert report.segments == 2
    await w.keep(report.hold.id, await expiry_of(w, near) + DAY_US)
    await w.service().run_once()
    assert await w.live() == {near, far}
    assert await gone(w, sure)


async def test_edge_13_a_clock_that_ran_ahead_never_lengthens_retention(civil: World) -> None:
    w = civil
    ahead = await w.file("cam-1", local(NOON) + 3 * DAY_US)
    assert await expiry_of(w, ahead) == local(EXPIRY)


async def test_edge_14_a_wrong_host_clock_stops_the_purge(civil: World) -> None:
    w = civil
    segment = await w.file("cam-1", NOON)
    service = w.service()
    await service.run_once()
    w.clock.jump_wall(40 * DAY_US)
    assert (await service.run_once()).stopped == "doubt"
    w.clock.jump_wall(-80 * DAY_US)
    assert (await w.service().run_once()).stopped == "doubt", "a restart does not forget the rows"
    w.clock.jump_wall(40 * DAY_US)
    assert (await service.run_once()).stopped == ""
    w.to(EXPIRY)
    for store in (w.database, w.blobs):
        for skew_s in (-6, 6):
            store.skew_us = skew_s * SECOND_US  # type: ignore[attr-defined]
            outcome = await service.run_once()
            assert outcome.stopped == "doubt" and "has another time" in outcome.detail
        store.skew_us = 4 * SECOND_US  # type: ignore[attr-defined]
        assert await w.live() == {segment}
    assert (await service.run_once()).purged == 1


@pytest.mark.parametrize("store", ["database", "store"])
async def test_edge_14_a_store_that_is_away_deletes_nothing(civil: World, store: str) -> None:
    w = civil
    segment = await w.file("cam-1", NOON)
    service = w.service()
    w.to(EXPIRY)
    w.faults.away.add(store)
    assert (await service.run_once()).stopped in ("doubt", "error")
    w.faults.away.clear()
    assert await w.live() == {segment}
    assert (await service.run_once()).purged == 1


async def test_edge_14_a_jump_between_two_claims_stops_the_rest(tmp_path: Path) -> None:
    async with world(tmp_path, NOON, claim_max=1) as w:
        for n in range(3):
            await w.file("cam-1", local(NOON) + n * 60 * SECOND_US)
        w.to(EXPIRY)
        service = w.service()
        inner = service._executor._journal.append

        def append(*tombstones: Any) -> None:
            inner(*tombstones)
            w.clock.jump_wall(-3 * DAY_US)

        service._executor._journal.append = append  # type: ignore[method-assign]
        outcome = await service.run_once()
        assert (outcome.purged, outcome.stopped) == (1, "doubt")
        assert len(await w.live()) == 2


async def sighting(w: World, name: str, start: str, seconds: int, expires_us: int) -> None:
    start_us = local(start)
    row = sightings.row(
        sightings.sighting(name, "cam-1", start_us, seconds),
        now_us=w.clock.now_us(),
        day=date(2024, 4, 16),
        end_us=start_us + seconds * SECOND_US,
        expires_at_us=expires_us,
    )
    await databases.insert(w.database, tables.sighting, row)


async def test_edge_15_sightings_go_and_stay_with_their_footage(civil: World) -> None:
    """On rows that the test writes: also when they are written long after."""
    w = civil
    first = await w.file("cam-1", NOON)
    kept = await w.file("cam-1", "2024-04-16T12:05")
    report = await w.hold("2024-04-16T12:05:10", "2024-04-16T12:05:20")
    due = local(EXPIRY)
    await w.keep(report.hold.id, "2024-05-16T12:00")
    await sighting(w, "of-first", NOON, 10, due)
    await sighting(w, "of-kept", "2024-04-16T12:05:40", 10, due)
    await sighting(w, "no-footage", "2024-04-16T13:00", 10, due)
    await sighting(w, "tomorrow", "2024-04-16T13:00", 10, due + DAY_US)
    w.to(EXPIRY)
    await w.service().run_once()
    assert await gone(w, first) and await w.live() == {kept}
    assert {row["id"] for row in await w.rows(tables.sighting)} == {"of-kept", "tomorrow"}
    await sighting(w, "run-again", "2024-04-16T12:00:05", 10, due)
    await w.service().run_once()
    assert "run-again" not in {row["id"] for row in await w.rows(tables.sighting)}
    w.to(w.clock.now_us() + 4 * DAY_US)
    await w.service().run_once()
    assert await gone(w, kept) and await w.rows(tables.sighting) == []


async def test_edge_15_boxes_go_with_their_footage(civil: World) -> None:
    w = civil
    await w.file("cam-1", NOON)
    [key] = await w.objects()
    import hashlib

    data = b"boxes"
    await w.blobs.put(
        boxes_key(key), data, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data)
    )
    await w.hold(NOON, "2024-04-16T12:01")
    assert {tags["lamppost"] for tags in (await w.objects()).values()} == {"held"}
    w.to(EXPIRY)
    await w.service().run_once()
    assert await w.objects() == {}


@pytest.mark.parametrize(
    ("values", "asked"),
    [
        ({}, 2),  # undecided: its object may be there without the row's word
        ({"boxes_sha256": "0" * 64, "analysed_us": 1}, 2),
        ({"analysed_us": 0}, 1),
    ],
)
async def test_edge_15_a_purge_asks_for_boxes_unless_the_row_says_none(
    w: World, values: dict[str, Any], asked: int
) -> None:
    segment = await w.file("cam-1", NOON)
    async with w.database.write() as connection:
        if values:
            await connection.execute(sa.update(tables.segment).values(values))
        [row] = await queries_claims.live_rows(connection, "cam-1", [str(segment)])
    assert row.objects == (row.key, boxes_key(row.key))[:asked]


async def test_edge_16_footage_of_a_deleted_camera_expires_and_is_holdable(w: World) -> None:
    first = await w.file("cam-1", NOON)
    second = await w.file("cam-1", "2024-04-16T12:10")
    async with w.database.write() as connection:
        await connection.execute(sa.delete(tables.camera).where(tables.camera.c.id == "cam-1"))
    due = await expiry_of(w, second)
    w.to(due - HOUR_US)
    report = await w.hold("2024-04-16T12:10", "2024-04-16T12:11")
    assert report.segments == 1
    w.to(due)
    await w.service().run_once()
    assert await gone(w, first) and await w.live() == {second}
    with pytest.raises(LamppostError) as caught:
        await w.hold(due - HOUR_US, due, cameras=("cam-9",))
    assert caught.value.kind is Kind.NOT_FOUND


async def test_edge_17_uploads_never_finished_are_swept(civil: World) -> None:
    w = civil
    folder = w.blobs.root / ".unfinished"
    old = folder / f"{w.clock.now_us():020d}-abandoned"
    old.write_bytes(b"x")
    service = w.service()
    await service.run_once()
    assert old.exists()
    w.to(w.clock.now_us() + DAY_US + HOUR_US)
    young = folder / f"{w.clock.now_us():020d}-young"
    young.write_bytes(b"x")
    await service.run_once()
    assert not old.exists() and young.exists()


async def test_edge_18_a_clip_being_sent_at_expiry_is_finished(w: World) -> None:
    segment = await w.file("cam-1", NOON)
    due = await expiry_of(w, segment)
    w.to(due - 1)
    async with holds.sending(w.platform, OFFICER, ["cam-1"], local(NOON), local(EXPIRY)):
        w.to(due + HOUR_US)
        assert (await w.service().run_once()).purged == 0
        assert await access_of(w, segment, OFFICER.id) is Access.CLOSED, "no new view by it"
        with pytest.raises(LamppostError) as caught:
            await w.hold(NOON, "2024-04-16T12:01")
        assert caught.value.kind is Kind.GONE, "what a clip keeps is not holdable by that"
    assert (await w.service().run_once()).purged == 1
    assert await w.rows(tables.hold) == [] == await w.rows(tables.hold_camera)


async def test_edge_18_a_clip_keeps_its_footage_for_two_hours_at_most(w: World) -> None:
    segment = await w.file("cam-1", NOON)
    due = await expiry_of(w, segment)
    w.to(due - 1)
    sending = holds.sending(w.platform, OFFICER, ["cam-1"], local(NOON), local(EXPIRY))
    await sending.__aenter__()
    w.to(due + 2 * HOUR_US - 2)
    assert (await w.service().run_once()).purged == 0
    w.to(due + 2 * HOUR_US)
    assert (await w.service().run_once()).purged == 1
    await sending.__aexit__(None, None, None)


async def test_edge_22_two_workers_leave_one_tombstone(tmp_path: Path) -> None:
    async with world(tmp_path, NOON, claim_max=3) as w:
        found = [await w.file("cam-1", local(NOON) + n * 60 * SECOND_US) for n in range(20)]
        w.to(EXPIRY)
        one, two = w.service("one"), w.service("two")
        outcomes = await asyncio.gather(one.run_once(), two.run_once())
        assert sum(outcome.purged for outcome in outcomes) == 20
        assert await gone(w, *found)
        assert await w.rows(tables.purge_claim) == []


async def test_edge_22_two_workers_on_one_claim_leave_one_tombstone(civil: World) -> None:
    w = civil
    segment = await w.file("cam-1", NOON)
    w.to(EXPIRY)
    first: Executor = w.service("same")._executor
    second: Executor = w.service("same")._executor
    claim = await first.claim(PlannedClaim("cam-1", date(2024, 4, 16), (str(segment),)), 1)
    assert claim is not None
    counts = await asyncio.gather(first.finish(claim), second.resume())
    assert sorted(counts) == [0, 1]
    assert await gone(w, segment)
    assert len([row for row in await w.rows(tables.outbox) if row["service"] == "retention"]) == 1


async def test_edge_23_the_journal_has_every_tombstone_before_its_row(civil: World) -> None:
    """So that a restored database can be told of purges that it has forgotten."""
    w = civil
    segment = await w.file("cam-1", NOON)
    w.to(EXPIRY)
    w.faults.arm("after.journal")
    with pytest.raises(Crash):
        await w.service().run_once()
    assert await w.rows(tables.tombstone) == []
    assert {row["id"] for row in await w.rows()} == {segment}
    [line] = journal(w.settings.state_dir).read()
    assert [one.id for one in line.segments] == [segment]
    await w.service().run_once()
    [row] = await w.rows(tables.tombstone)
    assert row["id"] == line.id and unpack_segments(row["segments"]) == line.segments


async def test_edge_25_a_hold_on_the_seconds_before_midnight(w: World) -> None:
    """It touches only the end of one date; the segment stands under the next."""
    w.to("2024-04-17T00:01")
    over = await w.file("cam-1", "2024-04-16T23:59:30", 60)
    report = await w.hold("2024-04-16T23:59:40", "2024-04-16T23:59:50")
    assert report.segments == 1
    await w.keep(report.hold.id, await expiry_of(w, over) + DAY_US)
    assert (await w.service().run_once()).purged == 0
    assert await w.live() == {over}


async def test_one_claim_with_a_fault_does_not_stop_the_others(tmp_path: Path) -> None:
    async with world(tmp_path, NOON, claim_max=1) as w:
        found = [str(await w.file("cam-1", local(NOON) + n * 60 * SECOND_US)) for n in range(3)]
        right = w.blobs.delete

        async def delete(keys: Any) -> None:
            if any(found[1] in key for key in keys):
                raise LamppostError(Kind.INVALID, "This key cannot be deleted.")
            await right(keys)

        w.blobs.delete = delete  # type: ignore[method-assign]
        w.to(EXPIRY)
        service = w.service()
        outcome = await service.run_once()
        assert (outcome.purged, outcome.stopped) == (2, "error")
        assert "cannot be deleted" in outcome.detail
        assert {row["id"] for row in await w.rows()} == {found[1]}
        w.blobs.delete = right  # type: ignore[method-assign]
        assert await service.run_once() == (1, "", "")


async def test_a_journal_that_cannot_be_written_keeps_the_rows(civil: World) -> None:
    w = civil
    await w.file("cam-1", NOON)
    w.to(EXPIRY)
    service = w.service()
    folder = w.settings.state_dir / "tombstones"
    folder.write_text("in the way")
    outcome = await service.run_once()
    assert outcome.stopped == "error" and "journal" in outcome.detail
    assert len(await w.rows()) == 1 and await w.rows(tables.tombstone) == []
    folder.unlink()
    assert (await service.run_once()).purged == 1
