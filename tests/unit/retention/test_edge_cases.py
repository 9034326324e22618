"""The numbered edge cases of docs/retention.md, each on the real stores with a simulated clock."""

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from services.api import holds
from services.retention.executor import Executor
from services.retention.plan import PlannedClaim
from shared import retention, standing
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import tables
from shared.db.rows import facts_of
from shared.domain import HoldReason
from shared.errors import Kind, LamppostError
from shared.ids import boxes_key
from shared.retention import Access
from shared.tombstones import journal, unpack_segments
from tests.support.retention_world import OFFICER, OTHER, Crash, World, local, world

NOON = "2024-04-16T12:00"
EXPIRY = "2024-05-17T00:00"


@pytest.fixture(params=["civil_date", "instant"])
async def w(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with world(tmp_path, NOON, basis=request.param) as found:
        yield found


@pytest.fixture
async def civil(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, NOON) as found:
        yield found


async def expiry_of(w: World, segment_id: str | None) -> int:
    return next(int(row["expires_at_us"]) for row in await w.rows() if row["id"] == segment_id)


async def access_of(w: World, segment_id: str | None, viewer: str | None = None) -> Access:
    from shared.db import holds as stored

    async with w.database.read() as connection:
        row = (
            (await connection.execute(sa.select(tables.segment).where(
                tables.segment.c.id == segment_id)))
            .mappings()
            .one()
        )  # fmt: skip
        found = await stored.load(connection)
    return retention.access(facts_of(row), found, w.clock.now_us(), viewer)


async def gone(w: World, *ids: str | None) -> bool:
    """Whether bytes, row and fragment table of each are gone and told of exactly once."""
    rows = {row["id"] for row in await w.rows()}
    fragments = {row["segment_id"] for row in await w.rows(tables.segment_fragments)}
    keys = " ".join(await w.objects())
    stones = await w.tombstoned()
    return all(
        one not in rows and one not in fragments and str(one) not in keys and stones.count(one) == 1
        for one in map(str, ids)
    )


async def test_what_is_due_is_purged_and_what_is_not_stays(w: World) -> None:
    first = await w.file("cam-1", NOON)
    w.to("2024-04-17T12:00")
    second = await w.file("cam-1", "2024-04-17T12:00")
    due = await expiry_of(w, first)
    w.to(due - 1)
    assert (await w.service().run_once()).purged == 0
    assert await access_of(w, first) is Access.OPEN
    w.to(due)
    assert await access_of(w, first) is Access.CLOSED
    assert (await w.service().run_once()) == (1, "", "")
    assert await gone(w, first)
    assert await w.live() == {second}
    [row] = await w.rows(tables.tombstone)
    assert (row["camera_id"], row["segment_count"], row["due_at_us"]) == ("cam-1", 1, due)
    assert row["policy_version"] == 1 and row["bytes_gone_at_us"] >= due
    events = [row for row in await w.rows(tables.outbox) if row["service"] == "retention"]
    assert len(events) == 1 and str(first).encode() in events[0]["value"]


async def test_edge_01_hold_placed_while_the_purge_runs(tmp_path: Path) -> None:
    """Per segment: not yet claimed is preserved, claimed is listed as not preserved."""
    async with world(tmp_path, NOON, basis="instant") as w:
        start = local(NOON)
        w.to("2024-04-16T12:10")
        found = [str(await w.file("cam-1", start + n * 60 * SECOND_US)) for n in range(4)]
        w.to(await expiry_of(w, found[1]))
        claim = await w.service()._executor.claim(
            PlannedClaim("cam-1", date(2024, 4, 16), tuple(found)), 1
        )
        assert claim is not None and {row["id"] for row in claim.rows} == set(found[:2])
        report = await w.hold(NOON, start + 240 * SECOND_US)
        assert report.partial
        assert [(part.reason, part.start_us - start) for part in report.not_preserved] == [
            ("being_purged", 0)
        ]
        assert [(p.start_us - start, p.end_us - start) for p in report.preserved] == [
            (120 * SECOND_US, 240 * SECOND_US)
        ]
        w.to(await expiry_of(w, found[3]))
        await w.service().run_once()
        assert await w.live() == set(found[2:])
        assert await gone(w, *found[:2])
        later = await holds.report(w.platform, w.settings, report.hold.id)
        assert [part.reason for part in later.not_preserved] == ["purged"]


@pytest.mark.parametrize("turns", range(0, 60, 10))
async def test_edge_01_each_segment_is_kept_or_listed(tmp_path: Path, turns: int) -> None:
    """Wherever the hold falls among the purge's steps, what it reports is what is there."""
    async with world(tmp_path, NOON, basis="instant", claim_max=2) as w:
        start = local(NOON)
        w.to("2024-04-16T12:10")
        for n in range(6):
            await w.file("cam-1", start + n * 60 * SECOND_US)
        rows = sorted(await w.rows(), key=lambda row: int(row["end_us"]))
        w.to(int(rows[3]["expires_at_us"]))
        run = asyncio.create_task(w.service().run_once())
        for _ in range(turns * 5):
            await asyncio.sleep(0)
        report = await w.hold(NOON, start + 360 * SECOND_US)
        await run
        w.to(int(rows[5]["expires_at_us"]))
        await w.service().run_once()
        live = [row for row in await w.rows() if row["state"] == "live"]
        assert sum(part.end_us - part.start_us for part in report.preserved) == sum(
            int(row["end_us"]) - int(row["start_us"]) for row in live
        )
        assert len(live) == 2 and len(await w.tombstoned()) == 4


async def test_edge_02_hold_after_expiry_is_refused_though_bytes_remain(w: World) -> None:
    segment = await w.file("cam-1", NOON)
    w.to(await expiry_of(w, segment))
    w.to(w.clock.now_us() + HOUR_US)
    for reason in (HoldReason.CRIMINAL_INVESTIGATION, HoldReason.COURT_ORDER):
        with pytest.raises(LamppostError) as caught:
            await holds.place(
                w.platform,
                w.settings,
                OFFICER,
                holds.HoldRequest(
                    camera_ids=("cam-1",),
                    start_us=local(NOON),
                    end_us=local("2024-04-16T12:01"),
                    case_ref="C",
                    reason=reason,
                ),
            )
        assert caught.value.kind is Kind.GONE
    assert await w.rows(tables.hold) == []
    assert (await w.service().run_once()).purged == 1


async def test_edge_02_a_hold_on_a_wider_range_revives_nothing(tmp_path: Path) -> None:
    """Part expired, part not: the expired part is told of and goes."""
    async with world(tmp_path, "2024-04-17T00:05", basis="civil_date") as w:
        old = await w.file("cam-1", "2024-04-16T23:58", 60)
        new = await w.file("cam-1", "2024-04-17T00:00", 60)
        w.to("2024-05-17T00:00")
        report = await w.hold("2024-04-16T23:50", "2024-04-17T00:10")
        assert [(part.reason, part.start_us, part.end_us) for part in report.not_preserved] == [
            ("expired", local("2024-04-16T23:50"), local("2024-04-17T00:00"))
        ]
        assert [part.start_us for part in report.preserved] == [local("2024-04-17T00:00")]
        assert [part.reason for part in report.gaps] == ["unaccounted"]
        assert await access_of(w, old, OFFICER.id) is Access.CLOSED
        await w.service().run_once()
        assert await gone(w, old) and await w.live() == {new}


async def test_edge_03_renewed_after_the_expiry_of_what_it_covers(w: World) -> None:
    segment = await w.file("cam-1", NOON)
    due = await expiry_of(w, segment)
    w.to(due - HOUR_US)
    report = await w.hold(NOON, "2024-04-16T12:01")
    w.to(due + HOUR_US)
    await holds.renew(w.platform, OFFICER, report.hold.id)
    w.to(due + 73 * HOUR_US - 1)
    assert (await w.service().run_once()).purged == 0
    assert await access_of(w, segment, OFFICER.id) is Access.HOLD_ONLY
    assert await access_of(w, segment, OTHER.id) is Access.CLOSED
    w.to(due + 73 * HOUR_US)
    assert await access_of(w, segment, OFFICER.id) is Access.CLOSED
    assert (await w.service().run_once()).purged == 1, "a lapse gives no grace"


STEPS = (
    "before.commit",
    "after.commit",
    "before.delete",
    "within.delete",
    "after.delete",
    "before.journal",
    "after.journal",
)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("nth", [0, 1])
async def test_edge_04_crash_at_any_step_resumes(civil: World, step: str, nth: int) -> None:
    w = civil
    found = [await w.file("cam-1", local(NOON) + n * 60 * SECOND_US) for n in range(3)]
    await w.service().run_once()
    w.to(EXPIRY)
    service = w.service()
    w.faults.arm(step, nth)
    try:
        await service.run_once()
    except Crash:
        pass
    else:
        assert nth == 1, "the step must be on the way"
    w.faults.disarm()
    assert await access_of_all_closed(w)
    await w.service().run_once()
    assert await gone(w, *found)
    assert await w.rows(tables.purge_claim) == []
    assert len(await w.rows(tables.tombstone)) == 1
    lines = [line.id for line in journal(w.settings.state_dir).read()]
    assert set(lines) == {row["id"] for row in await w.rows(tables.tombstone)}


async def access_of_all_closed(w: World) -> bool:
    return all(
        retention.access(facts_of(row), [], w.clock.now_us()) is Access.CLOSED  # type: ignore[arg-type]
        for row in await w.rows()
    )


async def test_edge_04_another_worker_resumes_when_the_lease_is_over(civil: World) -> None:
    w = civil
    segment = await w.file("cam-1", NOON)
    w.to(EXPIRY)
    w.faults.arm("before.delete")
    with pytest.raises(Crash):
        await w.service("dead").run_once()
    assert (await w.service("alive").run_once()).purged == 0
    w.to(w.clock.now_us() + HOUR_US)
    assert (await w.service("alive").run_once()).purged == 1
    assert await gone(w, segment)


async def test_edge_05_the_date_of_the_last_frame_governs(civil: World) -> None:
    """A segment that ends a frame after midnight belongs to the later date: never early."""
    w = civil
    w.to("2024-04-17T00:01")
    before = await w.file("cam-1", "2024-04-16T23:59", 60)
    over = await w.file("cam-2", "2024-04-16T23:59", 60.04)
    assert await expiry_of(w, before) == local("2024-05-17T00:00")
    assert await expiry_of(w, over) == local("2024-05-18T00:00")
    w.to("2024-05-17T00:00")
    await w.service().run_once()
    assert await w.live() == {over}


async def test_edge_06_a_segment_at_the_edge_is_kept_whole(w: World) -> None:
    first = await w.file("cam-1", NOON)
    second = await w.file("cam-1", "2024-04-16T12:01")
    third = await w.file("cam-1", "2024-04-16T12:02")
    report = await w.hold("2024-04-16T12:01:20", "2024-04-16T12:01:40")
    assert (report.hold.start_us, report.hold.end_us) == (
        local("2024-04-16T12:01:20"),
        local("2024-04-16T12:01:40"),
    )
    assert [(p.start_us, p.end_us) for p in report.margin] == [
        (local("2024-04-16T12:01"), local("2024-04-16T12:01:20")),
        (local("2024-04-16T12:01:40"), local("2024-04-16T12:02")),
    ]
    await w.keep(report.hold.id, await expiry_of(w, third))
    await w.service().run_once()
    assert await w.live() == {second}
    assert await gone(w, first, third)


async def test_edge_08_release_before_expiry_is_back_to_normal(w: World) -> None:
    segment = await w.file("cam-1", NOON)
    report = await w.hold(NOON, "2024-04-16T12:01")
    assert all(tags == {"lamppost": "held"} for tags in (await w.objects()).values())
    await holds.release(w.platform, OFFICER, report.hold.id, "not needed")
    await w.service().run_once()
    assert all(tags == {"lamppost": "standard"} for tags in (await w.objects()).values())
    assert all(row["settled_at_us"] for row in await w.rows(tables.hold))
    w.to(await expiry_of(w, segment))
    assert (await w.service().run_once()).purged == 1


async def test_edge_08_release_after_expiry_waits_72_hours(w: World) -> None:
    segment = await w.file("cam-1", NOON)
    report = await w.hold(NOON, "2024-04-16T12:01")
    released = await expiry_of(w, segment) + 5 * DAY_US
    await w.keep(report.hold.id, released)
    await holds.release(w.platform, OFFICER, report.hold.id, "case closed")
    w.to(released + 72 * HOUR_US - 1)
    assert (await w.service().run_once()).purged == 0
    assert await access_of(w, segment, OFFICER.id) is Access.CLOSED, "not viewable in its grace"
    assert all(tags == {"lamppost": "held"} for tags in (await w.objects()).values())
    w.to(released + 72 * HOUR_US)
    assert (await w.service().run_once()).purged == 1


async def test_edge_08_what_is_in_its_grace_can_be_held_again(w: World) -> None:
    segment = await w.file("cam-1", NOON)
    first = await w.hold(NOON, "2024-04-16T12:01")
    released = await expiry_of(w, segment) + DAY_US
    await w.keep(first.hold.id, released)
    await holds.release(w.platform, OFFICER, first.hold.id, "closed by mistake")
    w.to(released + 71 * HOUR_US)
    again = await w.hold(NOON, "2024-04-16T12:01", actor=OTHER)
    assert not again.partial and again.segments == 1
    w.to(released + 73 * HOUR_US)
    assert (await w.service().run_once()).purged == 0
    assert await access_of(w, segment, OTHER.id) is Access.HOLD_ONLY
    w.to(released + 71 * HOUR_US + 72 * HOUR_US)
    assert (await w.service().run_once()).purged == 1


async def test_edge_09_overlapping_holds_are_a_set(w: World) -> None:
    segment = await w.file("cam-1", NOON)
    one = await w.hold(NOON, "2024-04-16T12:01")
    two = await w.hold("2024-04-16T12:00:30", "2024-04-16T12:05", actor=OTHER)
    await holds.release(w.platform, OFFICER, one.hold.id, "mine is done")
    await w.service().run_once()
    assert all(tags == {"lamppost": "held"} for tags in (await w.objects()).values())
    w.to(await expiry_of(w, segment) - HOUR_US)
    three = await w.hold(NOON, "2024-04-16T12:01")
    assert retention.hold_state(two.hold, w.clock.now_us()) is retention.HoldState.LAPSED
    w.to(await expiry_of(w, segment))
    four = await w.hold(NOON, "2024-04-16T12:01", actor=OTHER)
    await holds.release(w.platform, OFFICER, three.hold.id, "mine is done")
    w.to(w.clock.now_us() + 71 * HOUR_US)
    assert (await w.service().run_once()).purged == 0
    assert await access_of(w, segment, OTHER.id) is Access.HOLD_ONLY
    assert await access_of(w, segment, OFFICER.id) is Access.CLOSED
    assert four.segments == 1


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
    async with w.database.write() as connection:
        await connection.execute(
            sa.insert(tables.sighting).values(
                id=name,
                camera_id="cam-1",
                start_us=start_us,
                end_us=start_us + seconds * SECOND_US,
                recording_date=date(2024, 4, 16),
                expires_at_us=expires_us,
                class_name="person",
                confidence=0.9,
                committed_at_us=w.clock.now_us(),
            )
        )


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


async def test_more_is_due_than_one_page(civil: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held segments at the front of the order do not stop what stands behind them."""
    from services.retention import service

    monkeypatch.setattr(service, "PAGE", 2)
    w = civil
    w.to("2024-04-16T12:30")
    found = [await w.file("cam-1", local(NOON) + n * 60 * SECOND_US) for n in range(7)]
    w.to("2024-05-16T12:00")
    await w.hold(local(NOON) + 10 * SECOND_US, local(NOON) + 170 * SECOND_US)
    w.to(EXPIRY)
    assert (await w.service().run_once()).purged == 4
    assert await w.live() == set(found[:3])
    assert await gone(w, *found[3:])
