"""Segments, the ledger, holds, retention and the audit log over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.api.accounting import Accountant
from services.retention.policy import ensure_policy
from shared import civil, ids, metrics
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import tables
from shared.domain import Purpose, Role
from shared.errors import Kind, LamppostError
from tests.support.api import HONG_KONG, NOW_US, WHY, opened

START_US = NOW_US - HOUR_US
RANGE = {"start": "2026-11-25T14:00", "end": "2026-11-25T15:00"}
SEARCH = {"camera": "mk-1", **RANGE, **WHY}


async def test_a_search_is_audited_before_it_answers(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        officer = await api.person(Role.ANALYST, name="chan")
        await api.cameras("mk-1")
        made = [await api.segment("mk-1", START_US + i * 60 * SECOND_US) for i in range(5)]
        reply = await officer.get("/v1/segments", params={**SEARCH, "limit": 3})
        first = reply.json()
        second = (
            await officer.get("/v1/segments", params={**SEARCH, "cursor": first["next"]})
        ).json()
        assert [item["id"] for item in first["items"] + second["items"]] == made
        assert first["items"][0]["start"] == "2026-11-25T14:00:00.000+08:00"
        assert first["items"][0]["expires_at"] == "2026-12-26T00:00:00.000+08:00"
        record = (await api.audited("segment.search"))[0]
        assert (record["actor_name"], record["purpose"], record["case_ref"]) == (
            "chan",
            "crime_investigation",
            "MK-1",
        )
        assert (record["camera_ids"], record["start_us"]) == (["mk-1"], START_US)
        assert record["request_id"] == reply.headers["x-request-id"]


async def test_a_search_without_purpose_or_right_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        officer = await api.person(Role.ANALYST, districts=["Mong Kok"])
        await api.cameras("mk-1", purposes=(Purpose.COMPLAINT,))
        await api.cameras("ss-1", district="Sham Shui Po")
        for change, status in (
            ({"purpose": None}, 422),
            ({"case_ref": " "}, 422),
            ({}, 403),
            ({"camera": "ss-1", "purpose": "complaint"}, 403),
            ({"camera": "mk-9"}, 404),
            ({"purpose": "complaint"}, 200),
        ):
            params = {k: v for k, v in {**SEARCH, **change}.items() if v is not None}
            reply = await officer.get("/v1/segments", params=params)
            assert reply.status_code == status, (change, reply.text)
        results = [row["result"] for row in await api.audited("segment.search")]
        assert results == ["refused", "refused", "ok"]


async def test_no_audit_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as api:
        officer = await api.person(Role.ANALYST)
        await api.cameras("mk-1")
        await api.segment("mk-1", START_US)

        def broken(*args: Any) -> Any:
            raise LamppostError(Kind.FULL, "The disk of the database is full.")

        monkeypatch.setattr(type(api.platform.database), "write", broken)
        reply = await officer.get("/v1/segments", params=SEARCH)
        assert reply.status_code == 507
        assert "sha256" not in reply.text


async def test_what_is_expired_is_no_hit_but_to_a_holds_officer(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        officer = await api.person(Role.INVESTIGATOR)
        other = await api.person(Role.ANALYST)
        await api.cameras("mk-1")
        held = await api.segment("mk-1", START_US)
        loose = await api.segment("mk-1", START_US + 1800 * SECOND_US)
        body = {
            "camera_ids": ["mk-1"],
            "start": "2026-11-25T14:00",
            "end": "2026-11-25T14:01",
            "case_ref": "MK-1",
            "reason": "court_order",
        }
        placed = await officer.post("/v1/holds", json=body)
        hold_id = placed.json()["hold"]["id"]
        for _ in range(15):
            api.clock.set_us(api.clock.now_us() + 2 * DAY_US)
            renewal = {"review_at": civil.rfc3339(api.clock.now_us() + 30 * DAY_US)}
            renewed = await officer.post(f"/v1/holds/{hold_id}/renew", json=renewal)
            assert renewed.status_code == 200, renewed.text
        api.clock.set_us(api.clock.now_us() + DAY_US)

        async def found(client: Any) -> list[str]:
            items = (await client.get("/v1/segments", params=SEARCH)).json()["items"]
            return [item["id"] for item in items]

        assert await found(officer) == [held]
        assert await found(other) == []
        assert (await officer.get(f"/v1/segments/{held}", params=WHY)).json()["held"] is True
        assert (await other.get(f"/v1/segments/{held}", params=WHY)).status_code == 410
        assert (await officer.get(f"/v1/segments/{loose}", params=WHY)).status_code == 410
        ledger = (
            await officer.get("/v1/cameras/mk-1/ledger", params={"date": "2026-11-25"})
        ).json()
        assert (ledger["held_s"], ledger["expired_s"]) == (60, 60)


async def test_a_clock_put_back_reopens_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        officer = await api.person(Role.ANALYST)
        await api.cameras("mk-1")
        await api.segment("mk-1", START_US)
        api.clock.set_us(api.clock.now_us() + 31 * DAY_US)
        key = await api.person(Role.ANALYST)
        assert (await key.get("/v1/segments", params=SEARCH)).json()["items"] == []
        api.clock.jump_wall(-10 * DAY_US)
        assert (await officer.get("/v1/segments", params=SEARCH)).json()["items"] == []


async def test_a_days_ledger_adds_up(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        auditor = await api.person(Role.AUDITOR)
        await api.cameras("mk-1")
        midnight = civil.parse_instant("2026-11-25T00:00", HONG_KONG)
        api.clock.set_us(midnight + 18 * HOUR_US)
        await api.segment("mk-1", NOW_US, 600)
        await api.segment("mk-1", NOW_US + 300 * SECOND_US, 600)
        gap = {
            "id": ids.new_id(),
            "camera_id": "mk-1",
            "start_us": NOW_US + 600 * SECOND_US,
            "end_us": NOW_US + 1000 * SECOND_US,
            "recording_date": civil.local_date(NOW_US, HONG_KONG),
            "reason": "silent",
            "committed_at_us": NOW_US,
        }
        await api.insert(tables.gap, gap)
        ledger = (await auditor.get("/v1/cameras/mk-1/ledger")).json()
        assert ledger["date"] == "2026-11-25"
        assert ledger["recorded_s"] == 900
        assert (ledger["gap_s"], ledger["gaps_by_reason_s"]) == (100, {"silent": 100})
        assert ledger["future_s"] == 6 * 3600
        assert ledger["inactive_s"] == 15 * 3600
        assert ledger["pending_s"] == 150
        kinds = ("recorded", "held", "expired", "gap", "future", "inactive", "pending")
        total = sum(ledger[f"{kind}_s"] for kind in (*kinds, "unaccounted"))
        assert total == ledger["day_s"] == 86_400
        assert ledger["entries"][0]["kind"] == "inactive"


async def test_a_tombstone_keeps_the_ledger_whole(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        person = await api.person(Role.SYSADMIN)
        await api.cameras("mk-1")
        item = ("s1", NOW_US, NOW_US + 60 * SECOND_US, "0" * 64, 1000)
        stone = {
            "id": "t1",
            "camera_id": "mk-1",
            "recording_date": civil.local_date(NOW_US, HONG_KONG),
            "segment_count": 1,
            "size_bytes": 1000,
            "segments": msgspec.msgpack.encode([item]),
            "policy_version": 1,
            **dict.fromkeys(("due_at_us", "claimed_at_us", "bytes_gone_at_us"), NOW_US),
            "written_at_us": NOW_US,
        }
        await api.insert(tables.tombstone, stone)
        api.clock.set_us(NOW_US + 2 * HOUR_US)
        ledger = (await person.get("/v1/cameras/mk-1/ledger")).json()
        assert ledger["expired_s"] == 60


async def test_unaccounted_seconds_are_counted_camera_by_camera(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        accountant = Accountant(api.context)
        assert await accountant.run_once() is None, "no camera yet"
        await api.cameras("mk-1", "mk-2")
        for minute in range(60):
            await api.segment("mk-1", NOW_US + minute * 60 * SECOND_US)
        api.clock.set_us(NOW_US + HOUR_US)
        found = [await accountant.run_once(), await accountant.run_once()]
        pending_s = 150
        assert found == [(3600 - pending_s) * SECOND_US, 0]
        assert metrics.REGISTRY.get_sample_value("lamppost_unaccounted_seconds") == 3450


HOLD = {
    "camera_ids": ["mk-1"],
    "start": "2026-11-25T14:00:00+08:00",
    "end": "2026-11-25T14:10",
    "case_ref": "MK-2026-1",
    "reason": "criminal_investigation",
}


async def test_a_hold_is_placed_listed_renewed_and_released(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        officer, other = await api.person(Role.INVESTIGATOR), await api.person(Role.INVESTIGATOR)
        auditor = await api.person(Role.AUDITOR)
        await api.cameras("mk-1")
        placed = await officer.post("/v1/holds", json=HOLD)
        assert placed.status_code == 201, placed.text
        hold = placed.json()["hold"]
        assert hold["lapses_at"] == "2026-11-28T15:00:00.000+08:00"
        path = f"/v1/holds/{hold['id']}"
        listed = [
            len((await who.get("/v1/holds")).json()["items"]) for who in (officer, other, auditor)
        ]
        assert listed == [1, 0, 1]
        assert (await other.get(path)).status_code == 403
        assert (await other.post(f"{path}/release", json={"note": "x"})).status_code == 403
        assert (await auditor.get(f"{path}/report")).status_code == 200
        assert (await officer.post(f"{path}/renew", json={})).status_code == 200
        released = await officer.post(f"{path}/release", json={"note": "closed"})
        assert released.json()["state"] == "released"
        assert (await officer.post(f"{path}/renew", json={})).status_code == 409
        actions = [row["action"] for row in await api.rows(tables.audit)]
        assert [name for name in actions if name.startswith("hold.")] == [
            "hold.place",
            "hold.renew",
            "hold.release",
        ]
        [placing] = await api.audited("hold.place")
        assert (placing["purpose"], placing["case_ref"]) == ("crime_investigation", "MK-2026-1")


async def test_a_hold_that_keeps_less_answers_207(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        officer = await api.person(Role.INVESTIGATOR)
        await api.cameras("mk-1")
        await api.segment("mk-1", START_US)
        claimed = await api.segment("mk-1", START_US + 60 * SECOND_US)
        async with api.platform.database.write() as connection:
            segment = tables.segment
            await connection.execute(
                segment.update().where(segment.c.id == claimed).values(state="purging")
            )
        reply = await officer.post("/v1/holds", json=HOLD)
        assert reply.status_code == 207
        reasons = {part["reason"] for part in reply.json()["not_preserved"]}
        assert "being_purged" in reasons


async def test_holds_that_cannot_be_are_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        officer = await api.person(Role.INVESTIGATOR, districts=["Mong Kok"])
        await api.cameras("mk-1")
        await api.cameras("ss-1", district="Sham Shui Po")
        for change, status in (
            ({"camera_ids": ["ss-1"]}, 403),
            ({"camera_ids": ["mk-2"]}, 404),
            ({"camera_ids": []}, 422),
            ({"case_ref": ""}, 422),
            ({"reason": "sending"}, 422),
            ({"end": "2026-11-25T13:00"}, 422),
            ({"start": "2026-11-25T08:00"}, 403),
            ({"start": "2026-01-01T08:00", "end": "2026-01-01T08:10"}, 410),
            ({"officers": ["nobody"]}, 422),
        ):
            reply = await officer.post("/v1/holds", json={**HOLD, **change})
            assert reply.status_code == status, (change, reply.text)
            assert reply.json()["fix"] or reply.json()["detail"]
        assert await api.rows(tables.hold) == []


async def test_retention_status_and_policy(tmp_path: Path) -> None:
    async with opened(tmp_path, retention={"days": 7}) as api:
        person = await api.person(Role.SERVICE)
        before = (await person.get("/v1/retention")).json()
        assert (before["policy"]["version"], before["policy"]["retention_days"]) == (0, 7)
        await ensure_policy(api.platform, api.context.settings)
        await api.cameras("mk-1")
        await api.segment("mk-1", NOW_US - 9 * DAY_US)
        found = (await person.get("/v1/retention")).json()
        assert found["policy"]["version"] == 1
        assert (found["segments"], found["size_bytes"], found["breaker"]) == (1, 1000, None)


async def test_the_audit_log_is_read_backwards_and_records_its_readers(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        auditor = await api.person(Role.AUDITOR)
        admin = await api.person(Role.SYSADMIN)
        for index in range(3):
            body = {"id": f"c{index}", "name": "x", "source": {"url": "rtsp://h/x"}}
            await admin.post("/v1/cameras", json=body)
        params: dict[str, Any] = {"action": "camera.create", "limit": 2}
        first = (await auditor.get("/v1/audit", params=params)).json()
        second = (await auditor.get("/v1/audit", params={**params, "cursor": first["next"]})).json()
        resources = [item["resource"] for item in first["items"] + second["items"]]
        assert resources == ["camera/c2", "camera/c1", "camera/c0"]
        assert len(await api.audited("audit.read")) == 2
        params = {"from": "2026-11-25T15:00", "until": "2026-11-25T15:01"}
        assert len((await auditor.get("/v1/audit", params=params)).json()["items"]) > 3
        params = {"until": "2026-11-25T15:00:00+08:00"}
        assert (await auditor.get("/v1/audit", params=params)).json()["items"] == []
