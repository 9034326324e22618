"""Edge cases 1 to 9 of docs/retention.md, each on the real stores with a simulated clock."""

import asyncio
from datetime import date
from pathlib import Path

import pytest

from services.api import holds
from services.retention.plan import PlannedClaim
from shared import retention
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import tables
from shared.domain import HoldReason
from shared.errors import Kind, LamppostError
from shared.retention import Access
from shared.tombstones import journal
from tests.support.retention_asks import access_of, all_closed, expiry_of, gone
from tests.support.retention_world import OFFICER, OTHER, Crash, World, local, world

NOON = "2024-04-16T12:00"
EXPIRY = "2024-05-17T00:00"


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
        assert claim is not None and {row.id for row in claim.rows} == set(found[:2])
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
    assert await all_closed(w)
    await w.service().run_once()
    assert await gone(w, *found)
    assert await w.rows(tables.purge_claim) == []
    assert len(await w.rows(tables.tombstone)) == 1
    lines = [line.id for line in journal(w.settings.state_dir).read()]
    assert set(lines) == {row["id"] for row in await w.rows(tables.tombstone)}


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
