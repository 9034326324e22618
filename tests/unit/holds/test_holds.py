"""Placing, renewing, releasing, listing and reporting holds."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from services.api import holds
from services.api.holds import HoldRequest
from shared import retention
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import tables
from shared.domain import HoldReason
from shared.errors import Kind, LamppostError
from shared.retention import HoldState
from tests.support import databases
from tests.support.retention_world import OFFICER, OTHER, World, local, world

NOON = local("2024-04-16T12:00")


@pytest.fixture
async def w(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, "2024-04-16T13:00") as found:
        yield found


def request(**changes: Any) -> HoldRequest:
    values: dict[str, Any] = {
        "camera_ids": ("cam-1",),
        "start_us": NOON,
        "end_us": NOON + 600 * SECOND_US,
        "case_ref": "CASE-7",
        "reason": HoldReason.COMPLAINT,
    }
    return HoldRequest(**{**values, **changes})


NOW = NOON + HOUR_US
WRONG: dict[str, tuple[dict[str, Any], Kind]] = {
    "no camera": ({"camera_ids": ()}, Kind.INVALID),
    "a camera twice": ({"camera_ids": ("cam-1", "cam-1")}, Kind.INVALID),
    "an unknown camera": ({"camera_ids": ("cam-9",)}, Kind.NOT_FOUND),
    "an empty range": ({"end_us": NOON}, Kind.INVALID),
    "before 1970": ({"start_us": -1, "end_us": 1}, Kind.INVALID),
    "too far ahead": ({"start_us": NOW, "end_us": NOW + DAY_US + 1}, Kind.INVALID),
    "no case": ({"case_ref": "  "}, Kind.INVALID),
    "a long case": ({"case_ref": "x" * 101}, Kind.INVALID),
    "the program's reason": ({"reason": HoldReason.SENDING}, Kind.INVALID),
    "a long note": ({"note": "x" * 1001}, Kind.INVALID),
    "a stranger": ({"officers": ("nobody",)}, Kind.INVALID),
    "too many officers": ({"officers": tuple(f"o{n}" for n in range(21))}, Kind.INVALID),
    "a past review": ({"review_at_us": NOW}, Kind.INVALID),
    "a far review": ({"review_at_us": NOW + 91 * DAY_US}, Kind.INVALID),
    "an end in the past": ({"ends_at_us": NOW}, Kind.INVALID),
    "five cameras": ({"camera_ids": ("a", "b", "c", "d", "e")}, Kind.NOT_BUILT),
    "over two hours": ({"start_us": NOON - 2 * HOUR_US}, Kind.NOT_BUILT),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_request_is_refused_and_leaves_nothing(w: World, name: str) -> None:
    changes, kind = WRONG[name]
    with pytest.raises(LamppostError) as caught:
        await holds.place(w.platform, w.settings, OFFICER, request(**changes))
    assert caught.value.kind is kind
    assert await w.rows(tables.hold) == []
    assert "hold.place" not in {row["action"] for row in await w.rows(tables.audit)}


async def test_placing_writes_hold_and_audit_in_one(w: World) -> None:
    await w.file("cam-1", NOON)
    asked = request(officers=(OTHER.id,), note="parked car")
    report = await holds.place(w.platform, w.settings, OFFICER, asked, request_id="r-1")
    [row] = await w.rows(tables.hold)
    assert row["lapses_at_us"] == w.clock.now_us() + 72 * HOUR_US
    assert row["request_sha256"] == hashlib.sha256(msgspec.json.encode(asked)).hexdigest()
    assert row["officers"] == [OFFICER.id, OTHER.id]
    assert report.hold == await holds.get(w.platform, report.hold.id)
    [entry] = [row for row in await w.rows(tables.audit) if row["action"] == "hold.place"]
    assert (entry["actor_id"], entry["case_ref"], entry["request_id"], entry["camera_ids"]) == (
        OFFICER.id,
        "CASE-7",
        "r-1",
        ["cam-1"],
    )


async def test_a_hold_without_its_audit_record_does_not_exist(w: World) -> None:
    async with w.database.write() as connection:
        await connection.execute(sa.text("drop table audit"))
    with pytest.raises(LamppostError):
        await holds.place(w.platform, w.settings, OFFICER, request())
    assert await w.rows(tables.hold) == []


async def test_every_second_asked_for_is_in_one_list(w: World) -> None:
    """Recorded, a gap, nothing, both sides of now."""
    base = w.clock.now_us() - 590 * SECOND_US
    await w.file("cam-1", base)
    await w.file("cam-1", base + 60 * SECOND_US)
    gap = {
        "id": "g1",
        "camera_id": "cam-1",
        "start_us": base + 110 * SECOND_US,
        "end_us": base + 180 * SECOND_US,
        "recording_date": date(2024, 4, 16),
        "reason": "unreachable",
        "committed_at_us": 0,
    }
    await databases.insert(w.database, tables.gap, gap)
    report = await holds.place(
        w.platform,
        w.settings,
        OFFICER,
        request(camera_ids=("cam-2", "cam-1"), start_us=base, end_us=base + 600 * SECOND_US),
    )
    parts = [
        (part.camera_id, (part.start_us - base) // SECOND_US, (part.end_us - base) // SECOND_US)
        for part in (*report.preserved, *report.gaps, *report.not_preserved)
    ]
    for camera_id in ("cam-1", "cam-2"):
        seconds = sorted(n for c, a, b in parts if c == camera_id for n in range(a, b))
        assert seconds == list(range(600)), "each second once"
    assert [(gap.camera_id, gap.reason) for gap in report.gaps] == [
        ("cam-1", "unreachable"),
        ("cam-1", "unaccounted"),
        ("cam-1", "not_filed_yet"),
        ("cam-1", "to_come"),
        ("cam-2", "unaccounted"),
        ("cam-2", "not_filed_yet"),
        ("cam-2", "to_come"),
    ]
    assert report.segments == 2 and not report.partial


async def test_objects_are_tagged_before_the_reply(w: World) -> None:
    await w.file("cam-1", NOON)
    await w.file("cam-2", NOON)
    await holds.place(w.platform, w.settings, OFFICER, request())
    tags = {key.split("/")[2]: dict(tags) for key, tags in (await w.objects()).items()}
    assert tags == {"cam-1": {"lamppost": "held"}, "cam-2": {"lamppost": "standard"}}


async def test_a_store_that_is_away_leaves_the_hold_in_force_and_says_so(w: World) -> None:
    segment = await w.file("cam-1", NOON)
    w.to("2024-05-16T23:00")
    w.faults.away.add("store")
    report = await holds.place(w.platform, w.settings, OFFICER, request())
    assert report.partial and report.preserved == ()
    assert [part.reason for part in report.not_preserved] == ["tag_pending"]
    w.faults.away.clear()
    w.to("2024-05-17T01:00")
    assert (await w.service().run_once()).purged == 0
    assert await w.live() == {segment}
    assert {tags["lamppost"] for tags in (await w.objects()).values()} == {"held"}
    again = await holds.report(w.platform, w.settings, report.hold.id)
    assert not again.partial and again.preserved


async def test_bytes_that_are_missing_are_not_called_preserved(w: World) -> None:
    await w.file("cam-1", NOON)
    await w.blobs.delete(list(await w.objects()))
    report = await holds.place(w.platform, w.settings, OFFICER, request())
    assert [part.reason for part in report.not_preserved] == ["bytes_missing"]


async def test_only_the_holds_officers_renew_and_release(w: World) -> None:
    report = await holds.place(w.platform, w.settings, OFFICER, request())
    for act in (
        holds.renew(w.platform, OTHER, report.hold.id),
        holds.release(w.platform, OTHER, report.hold.id, "mine now"),
    ):
        with pytest.raises(LamppostError) as caught:
            await act
        assert caught.value.kind is Kind.FORBIDDEN
    shared = await holds.place(w.platform, w.settings, OFFICER, request(officers=(OTHER.id,)))
    w.to(w.clock.now_us() + HOUR_US)
    renewed = await holds.renew(w.platform, OTHER, shared.hold.id)
    assert renewed.lapses_at_us == w.clock.now_us() + 72 * HOUR_US
    released = await holds.release(w.platform, OTHER, shared.hold.id, "done")
    assert (released.released_by, released.release_note) == (OTHER.id, "done")


async def test_what_is_over_is_not_brought_back(w: World) -> None:
    report = await holds.place(w.platform, w.settings, OFFICER, request())
    w.to(w.clock.now_us() + 72 * HOUR_US)
    for act in (
        holds.renew(w.platform, OFFICER, report.hold.id),
        holds.release(w.platform, OFFICER, report.hold.id, "late"),
    ):
        with pytest.raises(LamppostError) as caught:
            await act
        assert caught.value.kind is Kind.CONFLICT
    for act in (holds.get(w.platform, "none"), holds.renew(w.platform, OFFICER, "none")):
        with pytest.raises(LamppostError) as caught:
            await act
        assert caught.value.kind is Kind.NOT_FOUND


async def test_a_hold_past_its_review_is_renewed_with_a_new_date_only(w: World) -> None:
    report = await holds.place(
        w.platform, w.settings, OFFICER, request(review_at_us=w.clock.now_us() + HOUR_US)
    )
    w.to(w.clock.now_us() + 2 * HOUR_US)
    with pytest.raises(LamppostError) as caught:
        await holds.renew(w.platform, OFFICER, report.hold.id)
    assert caught.value.kind is Kind.INVALID
    review = w.clock.now_us() + 30 * DAY_US
    renewed = await holds.renew(w.platform, OFFICER, report.hold.id, review_at_us=review)
    assert renewed.review_at_us == review


async def test_lists_are_paged_and_agree_with_the_rule(w: World) -> None:
    made = []
    for number in range(9):
        report = await holds.place(
            w.platform,
            w.settings,
            OFFICER,
            request(
                camera_ids=("cam-1",) if number % 2 else ("cam-1", "cam-2"),
                ends_at_us=w.clock.now_us() + 50 * HOUR_US if number % 3 == 0 else None,
            ),
        )
        made.append(report.hold.id)
        if number % 4 == 1:
            await holds.release(w.platform, OFFICER, report.hold.id, "done")
        w.to(w.clock.now_us() + 10 * HOUR_US)
    w.to(w.clock.now_us() + 10 * HOUR_US)
    now = w.clock.now_us()
    seen: list[str] = []
    after = None
    while page := await holds.list_page(w.platform, limit=2, after=after):
        seen += [hold.id for hold in page]
        after = page[-1].placed_at_us, page[-1].id
    assert seen == made[::-1]
    everything = await holds.list_page(w.platform, limit=100)
    states = {hold.id: retention.hold_state(hold, now) for hold in everything}
    assert set(states.values()) == set(HoldState)
    for state in HoldState:
        found = await holds.list_page(w.platform, state=state)
        assert {hold.id for hold in found} == {one for one, is_ in states.items() if is_ is state}
    of_two = await holds.list_page(w.platform, camera_id="cam-2")
    assert {hold.id for hold in of_two} == set(made[::2])


async def test_two_holds_at_once_are_both_in_force(w: World) -> None:
    await w.file("cam-1", NOON)
    one, two = await asyncio.gather(
        holds.place(w.platform, w.settings, OFFICER, request()),
        holds.place(w.platform, w.settings, OTHER, request()),
    )
    assert one.segments == two.segments == 1
    assert len(await w.rows(tables.hold)) == 2
