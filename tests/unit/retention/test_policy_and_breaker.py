"""Policies only shorten; the breaker stops what cannot be right and is cleared by a person."""

from collections.abc import AsyncIterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from services.api import holds
from services.retention import plan
from services.retention.breaker import clear_breaker
from services.retention.plan import Due
from services.retention.policy import ensure_policy
from services.retention.service import status
from shared import metrics, retention
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import tables
from shared.domain import Hold, HoldReason
from shared.errors import Kind, LamppostError
from shared.retention import Facts
from tests.support.retention_world import OFFICER, World, local, settings_for, world

NOON = "2024-04-16T12:00"


@pytest.fixture
async def w(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, "2024-04-16T13:00") as found:
        yield found


async def test_the_first_policy_is_the_settings_and_stays(w: World) -> None:
    first = await ensure_policy(w.platform, w.settings)
    assert first[:4] == (1, 30, "civil_date", "Asia/Hong_Kong")
    assert await ensure_policy(w.platform, w.settings) == first
    assert len(await w.rows(tables.policy)) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"days": 20}, {"days": 21}),
        ({"days": 30, "basis": "instant"}, {"days": 30, "basis": "civil_date"}),
    ],
)
async def test_lengthening_is_refused(
    tmp_path: Path, old: dict[str, Any], new: dict[str, Any]
) -> None:
    async with world(tmp_path, NOON, **old) as w:
        with pytest.raises(LamppostError) as caught:
            await ensure_policy(w.platform, settings_for(tmp_path, **new))
        assert caught.value.kind is Kind.NOT_BUILT
        segment = await w.file("cam-1", NOON)
        w.settings = settings_for(tmp_path, **new)
        w.to(w.clock.now_us() + 31 * DAY_US)
        assert (await w.service().run_once()).purged == 1, "the purge goes on by the old policy"
        assert segment not in await w.live()


@pytest.mark.parametrize(
    ("new", "due"),
    [
        ({"days": 10}, "2024-04-27T00:00"),
        ({"days": 30, "basis": "instant"}, "2024-05-16T12:01"),
        ({"days": 10, "basis": "instant"}, "2024-04-26T12:01"),
        ({"days": 10, "timezone": "Europe/London"}, "2024-04-27T07:00"),
    ],
)
async def test_shortening_applies_to_what_is_recorded(
    w: World, new: dict[str, Any], due: str
) -> None:
    segment = await w.file("cam-1", NOON)
    w.settings = settings_for(w.settings.state_dir, **new)
    second = await ensure_policy(w.platform, w.settings)
    assert second.version == 2
    [row] = await w.rows()
    assert row["expires_at_us"] == local(due)
    assert retention.effective_expiry_us(local("2024-05-17T00:00"), row["end_us"], second) == local(
        due
    )
    w.clock.set_us(local(due))
    await w.service().run_once()
    assert segment not in await w.live()


async def test_shortening_spares_holds_and_is_due_at_once(w: World) -> None:
    """A hold placed while the footage was readable binds, though by the new policy it came late."""
    kept, free = await w.file("cam-1", NOON), await w.file("cam-2", NOON)
    w.to("2024-05-10T12:00")
    report = await w.hold(NOON, "2024-04-16T12:01")
    w.to("2024-05-11T12:00")
    w.settings = settings_for(w.settings.state_dir, days=10)
    outcome = await w.service().run_once()
    assert outcome.purged == 1
    assert await w.live() == {kept} and free not in await w.live()
    assert (await holds.report(w.platform, w.settings, report.hold.id)).segments == 1
    await holds.release(w.platform, OFFICER, report.hold.id, "done")
    w.to(w.clock.now_us() + 71 * HOUR_US)
    assert (await w.service().run_once()).purged == 0
    w.to(w.clock.now_us() + HOUR_US)
    assert (await w.service().run_once()).purged == 1


async def test_more_due_than_recorded_opens_the_breaker(w: World) -> None:
    for number in range(3):
        await w.file("cam-1", local(NOON) + number * 60 * SECOND_US)
    async with w.database.write() as connection:
        await connection.execute(sa.update(tables.ledger_day).values(segments=2))
    w.to("2024-05-17T00:00")
    service = w.service()
    outcome = await service.run_once()
    assert outcome.stopped == "breaker" and "3 due, 2 recorded" in outcome.detail
    assert len(await w.live()) == 3
    assert (await service.run_once()).stopped == "breaker"
    assert metrics.RETENTION_STOPPED.labels("breaker")._value.get() == 1
    assert len(await w.rows(tables.breaker)) == 1
    found = await status(w.platform, w.settings)
    assert (found.stopped, found.due_segments) == ("breaker", 3)
    with pytest.raises(LamppostError):
        await clear_breaker(w.platform, "  ")
    assert "3 due" in await clear_breaker(w.platform, "the ledger was restored too old")
    assert (await service.run_once()).purged == 3
    assert metrics.RETENTION_STOPPED.labels("breaker")._value.get() == 0
    actions = [row["action"] for row in await w.rows(tables.audit)]
    assert actions[-2:] == ["breaker.open", "breaker.clear"]
    with pytest.raises(LamppostError) as caught:
        await clear_breaker(w.platform, "again")
    assert caught.value.kind is Kind.CONFLICT


async def test_an_open_breaker_stops_every_worker_and_a_resumed_claim(w: World) -> None:
    await w.file("cam-1", NOON)
    async with w.database.write() as connection:
        await connection.execute(
            sa.insert(tables.breaker).values(id="b", opened_at_us=0, cause="by hand")
        )
    w.to("2024-05-17T00:00")
    assert (await w.service("other").run_once()).stopped == "breaker"
    assert len(await w.objects()) == 1


async def test_overdue_counts_only_what_nothing_keeps(w: World) -> None:
    await w.file("cam-1", NOON)
    await w.file("cam-2", NOON)
    w.to("2024-05-16T23:00")
    report = await w.hold(NOON, "2024-04-16T12:01")
    w.to("2024-05-18T00:00")
    found = await status(w.platform, w.settings)
    assert (found.due_segments, found.overdue_segments, found.held_segments) == (1, 1, 1)
    w.clock.set_us(int(report.hold.lapses_at_us or 0))
    found = await status(w.platform, w.settings)
    assert (found.due_segments, found.overdue_segments, found.held_segments) == (2, 1, 0)
    await w.service().run_once()
    found = await status(w.platform, w.settings)
    assert (found.due_segments, found.overdue_segments, found.purged_segments) == (0, 0, 2)
    assert found.last_run_us == w.clock.now_us() and found.stopped == ""


def due(number: int, camera_id: str = "cam-1", expires_us: int = 0) -> Due:
    start = number * 60 * SECOND_US
    return Due(
        f"s{number}",
        date(2024, 4, 16),
        1,
        Facts(camera_id, start, start + 60 * SECOND_US, expires_us, 0),
    )


def hold(**changes: Any) -> Hold:
    values: dict[str, Any] = {
        "id": "h",
        "camera_ids": ("cam-1",),
        "start_us": 0,
        "end_us": 1,
        "case_ref": "c",
        "reason": HoldReason.CORONER,
        "requester_id": "r",
        "placed_at_us": -1,
    }
    return Hold(**{**values, **changes})


def make(segments: list[Due], found: list[Hold], **changes: Any) -> plan.Plan:
    day = date(2024, 4, 16)
    values: dict[str, Any] = {
        "claim_max": 500,
        "due_counts": {day: len(segments)},
        "ledger": {day: len(segments)},
        "slack": 0.01,
        "accepted": {},
    }
    return plan.make(segments, found, 10**12, **{**values, **changes})


def test_a_plan_groups_by_camera_and_date_within_the_claim_limit() -> None:
    made = make([due(n, f"cam-{1 + n % 2}") for n in range(10)], [], claim_max=3)
    assert [len(claim.segment_ids) for claim in made.claims] == [3, 2, 3, 2]
    assert {claim.camera_id for claim in made.claims} == {"cam-1", "cam-2"}
    assert made.segments == 10 and not made.stop


def test_a_plan_says_why_it_passes_over() -> None:
    made = make([due(0), due(5), due(9)], [hold(lapses_at_us=10**13)])
    assert [(one.segment_id, one.why, one.until_us) for one in made.skipped] == [
        ("s0", "held", 10**13)
    ]
    assert made.segments == 2


def test_a_plan_never_takes_what_is_not_due() -> None:
    assert make([due(0, expires_us=10**12 + 1)], []).segments == 0


@pytest.mark.parametrize(("count", "opens"), [(100, False), (101, False), (102, True)])
def test_the_breaker_allows_one_percent(count: int, opens: bool) -> None:
    day = date(2024, 4, 16)
    made = make([due(0)], [], due_counts={day: count}, ledger={day: 100})
    assert bool(made.stop) is opens
    assert not make(
        [due(0)], [], due_counts={day: count}, ledger={day: 100}, accepted={day: count}
    ).stop


def test_one_date_cannot_hide_behind_another() -> None:
    day = date(2024, 4, 16)
    counts = {day: 5, day + timedelta(days=1): 5}
    assert make([due(0)], [], due_counts=counts, ledger={day: 100}).stop


def test_a_held_segment_in_the_plan_opens_the_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule is broken on purpose: the breaker asks in its own way."""
    monkeypatch.setattr(retention, "protection", lambda *_: (retention.Protection.NONE, None))
    made = make([due(0)], [hold(lapses_at_us=10**13)])
    assert "keeps" in made.stop
    assert not make([due(0)], [hold(lapses_at_us=10**11)]).stop
