"""Webhooks from the bus to a receiver: what is told, in which order, and what a fault costs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from services.api import relay_delivery, relay_intake
from services.api.relay_delivery import sweep
from shared.bus import Message
from shared.clock import DAY_US, SECOND_US
from shared.db import tables
from shared.domain import Purpose, RecordingState, Role
from shared.errors import Kind, LamppostError
from shared.messages import SIGHTINGS
from tests.support.api import NOW_US
from tests.support.relaying import gap, is_signed, relaying, seen, status

LATER = 60 * SECOND_US


def refuse(code: int, **headers: str) -> Any:
    return lambda _event: Response(status_code=code, headers=headers)


async def test_events_arrive_signed_and_say_no_more_than_they_should(tmp_path: Path) -> None:
    async with relaying(tmp_path) as w:
        made = await w.subscribe()
        await w.relay(seen("s1"), seen("s1"), seen("s1", ended=True), status(), gap())
        assert sorted(w.receiver.kinds) == sorted(
            ["sighting.begun.v1", "sighting.ended.v1", "camera.status.v1", "camera.gap.v1"]
        )
        for headers, body in w.receiver.got:
            event = json.loads(body)
            assert is_signed(made["secret"], headers, body)
            assert not is_signed("whsec_AAAA", headers, body)
            assert headers["webhook-id"] == event["id"]
            assert headers["webhook-timestamp"] == str(NOW_US // SECOND_US)
            assert headers["content-type"] == "application/cloudevents+json"
            assert event["specversion"] == "1.0" and event["subject"] == "mk-1"
            for secret in (
                b"10.0.0",
                b"10.9.9",
                b"rtsp",
                b"picture",
                b"/9j/",
                b"thumbnail",
                b"r-1",
            ):
                assert secret not in body
        begun = next(e for e in w.receiver.events if e["type"].endswith("begun.v1"))
        assert begun["data"]["sighting_id"] == "s1"
        assert begun["data"]["class_name"] == "person"
        assert begun["data"]["expires_at"] == "2026-12-25T16:00:00.000Z", "midnight in Hong Kong"
        assert await w.api.rows(tables.webhook_delivery) == []
        assert (await w.hook(made["id"]))["last_success_at"] is not None


async def test_only_what_was_asked_for(tmp_path: Path) -> None:
    async with relaying(tmp_path) as w:
        await w.api.cameras("private", purposes=(Purpose.TRAFFIC_INCIDENT,))
        await w.subscribe(events=["sighting.begun"], camera_ids=["mk-1"], classes=["car", "person"])
        await w.relay(
            seen("right"),
            seen("class", class_name="dog"),
            seen("camera", "mk-2"),
            status(),
            Message(SIGHTINGS.name, "mk-1", b"{}"),
        )
        assert [event["data"]["sighting_id"] for event in w.receiver.events] == ["right"]
        w.receiver.got.clear()
        await w.subscribe(events=["sighting.ended"])
        await w.relay(
            seen("x", "private", ended=True),
            seen("y", "nobody-knows-it", ended=True),
            seen("z", "mk-2", ended=True),
        )
        assert [event["data"]["sighting_id"] for event in w.receiver.events] == ["z"]


async def test_nothing_from_before_the_subscription(tmp_path: Path) -> None:
    async with relaying(tmp_path) as w:
        await w.publish(seen("old"))
        await w.api.clock.advance(3600)
        await w.subscribe()
        await w.relay()
        assert w.receiver.got == []


async def test_a_status_is_told_when_it_changes(tmp_path: Path) -> None:
    async with relaying(tmp_path) as w:
        await w.subscribe(events=["camera.status"])
        again = [status(at_us=NOW_US + n * SECOND_US) for n in range(5)]
        retrying = status(state=RecordingState.RETRYING, since_us=NOW_US + 9, at_us=NOW_US + 9)
        displaced = status(state=RecordingState.STOPPED, since_us=NOW_US + 10, epoch=0)
        await w.relay(*again, retrying, displaced)
        assert [event["data"]["state"] for event in w.receiver.events] == ["recording", "retrying"]
        first = w.receiver.events[0]["id"]
        await w.new_relay()
        await w.relay(status(at_us=NOW_US + LATER))
        assert w.receiver.events[-1]["id"] == first, "told again under the same id"


async def test_a_killed_relay_loses_nothing_and_doubles_under_the_same_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with relaying(tmp_path) as w:
        await w.subscribe(events=["sighting.begun", "sighting.ended"])
        await w.publish(*(seen(f"s{n}") for n in range(5)))

        async def die(*_: object) -> None:
            raise LamppostError(Kind.UNAVAILABLE, "The database is away.")

        with monkeypatch.context() as patch:  # killed before the rows are there
            patch.setattr(relay_intake.stored, "add_deliveries", die)
            with pytest.raises(LamppostError):
                await w.take_in()
        await w.new_relay()
        await w.take_in()
        with monkeypatch.context() as patch:  # killed after the posts, before they are settled
            patch.setattr(relay_delivery.stored, "settle", die)
            await w.deliver()
        assert len(w.receiver.got) == 5
        await w.new_relay()
        await w.deliver()
        found = [(event["id"], event["data"]["sighting_id"]) for event in w.receiver.events]
        assert len(found) == 10 and len(set(found)) == 5
        assert {name for _, name in found} == {f"s{n}" for n in range(5)}


async def test_what_fails_is_tried_again_for_a_day_then_set_aside_and_replayed(
    tmp_path: Path,
) -> None:
    async with relaying(tmp_path) as w:
        made = await w.subscribe(events=["sighting.begun"])
        w.receiver.answer = refuse(500)
        await w.relay(seen("s1"))
        assert len(w.receiver.got) == 1
        await w.deliver()
        assert len(w.receiver.got) == 1, "it is left alone for some seconds"
        for _ in range(26):
            await w.api.clock.advance(3600)
            await w.deliver()
        hook = await w.hook(made["id"])
        assert (hook["waiting"], hook["set_aside"]) == (0, 1)
        assert hook["last_error"] == "The receiver answered 500."
        assert 10 <= len(w.receiver.got) <= 27
        aside = (await w.admin.get(f"/v1/webhooks/{made['id']}/set-aside")).json()["items"]
        assert [item["event_type"] for item in aside] == ["sighting.begun"]
        assert "body" not in aside[0]
        w.receiver.answer = refuse(200)
        w.receiver.got.clear()
        path = f"/v1/webhooks/{made['id']}/replay"
        assert (await w.admin.post(path, json={"event_ids": ["x"]})).json() == {"events": 0}
        answer = await w.admin.post(path, json={"event_ids": [aside[0]["event_id"]]})
        assert answer.json() == {"events": 1}
        await w.api.clock.advance(600)
        await w.deliver()
        assert w.receiver.events[0]["id"] == aside[0]["event_id"]
        assert len(await w.api.audited("webhook.replay")) == 2


async def test_a_dead_receiver_holds_up_nobody(tmp_path: Path) -> None:
    async with relaying(tmp_path) as w:
        await w.subscribe(url="http://127.0.0.1:9/nobody-listens")
        await w.subscribe()
        await w.relay(*(seen(f"s{n}") for n in range(20)))
        assert len(w.receiver.got) == 20


async def test_a_cameras_events_come_in_order_and_others_pass_one_that_is_stuck(
    tmp_path: Path,
) -> None:
    async with relaying(tmp_path) as w:
        await w.subscribe(events=["sighting.begun"])
        w.receiver.answer = lambda event: Response(
            status_code=400 if event["data"]["sighting_id"] == "stuck" else 200
        )
        names = ["a", "stuck", "b", "c"]
        await w.relay(*(seen(name) for name in names), seen("other", "mk-2"))
        order = [e["data"]["sighting_id"] for e in w.receiver.events]
        assert [name for name in order if name in names] == ["a", "stuck"]
        assert "other" in order
        w.receiver.answer = refuse(200)
        await w.api.clock.advance(600)
        await w.deliver()
        order = [e["data"]["sighting_id"] for e in w.receiver.events]
        assert [name for name in order if name in names] == ["a", "stuck", "stuck", "b", "c"]


async def test_an_event_that_stays_stuck_is_passed(tmp_path: Path) -> None:
    async with relaying(tmp_path) as w:
        await w.subscribe(events=["sighting.begun"])
        w.receiver.answer = lambda event: Response(
            status_code=400 if event["data"]["sighting_id"] == "stuck" else 200
        )
        await w.relay(seen("stuck"), seen("behind"))
        for _ in range(8):
            await w.api.clock.advance(400)
            await w.deliver()
        assert "behind" in [e["data"]["sighting_id"] for e in w.receiver.events]


async def test_events_do_not_outlive_their_footage(tmp_path: Path) -> None:
    async with relaying(tmp_path) as w:
        made = await w.subscribe(events=["sighting.begun", "camera.gap"])
        w.receiver.answer = refuse(503)
        await w.relay(seen("s1"), gap())
        platform, settings = w.api.platform, w.api.context.settings
        assert await sweep(platform, settings) == 0
        w.api.clock.set_us(NOW_US + 31 * DAY_US)
        w.receiver.got.clear()
        w.receiver.answer = refuse(200)
        async with platform.database.write() as connection:
            table = tables.webhook_delivery
            aside = table.update().where(table.c.event_type == "camera.gap")
            await connection.execute(aside.values(state="dead"))
        answer = await w.admin.post(f"/v1/webhooks/{made['id']}/replay", json={})
        assert answer.json() == {"events": 0}
        await w.deliver()
        assert w.receiver.got == []
        assert await w.api.rows(tables.webhook_delivery) == []


async def test_a_shortened_policy_counts_at_once(tmp_path: Path) -> None:
    async with relaying(tmp_path) as w:
        await w.subscribe(events=["sighting.begun"])
        w.receiver.answer = refuse(503)
        await w.relay(seen("s1"))
        w.api.clock.set_us(NOW_US + 5 * DAY_US)
        policy = {
            "version": 2,
            "retention_days": 2,
            "basis": "civil_date",
            "timezone": "Asia/Hong_Kong",
            "effective_from_us": NOW_US + 4 * DAY_US,
        }
        await w.api.insert(tables.policy, policy)
        assert await sweep(w.api.platform, w.api.context.settings) == 1


async def test_a_full_queue_sets_the_oldest_aside_and_keeps_a_bound(tmp_path: Path) -> None:
    async with relaying(tmp_path, webhook_queue=10) as w:
        made = await w.subscribe(events=["sighting.begun"])
        await w.publish(*(seen(f"s{n:02}") for n in range(25)))
        await w.take_in()
        hook = await w.hook(made["id"])
        assert (hook["waiting"], hook["set_aside"]) == (10, 10)
        rows = await w.api.rows(tables.webhook_delivery)
        newest = [json.loads(row["body"])["data"]["sighting_id"] for row in rows]
        assert newest == [f"s{n:02}" for n in range(5, 25)]


async def test_a_receiver_that_is_gone_is_disabled_until_somebody_enables_it(
    tmp_path: Path,
) -> None:
    async with relaying(tmp_path) as w:
        made = await w.subscribe(events=["sighting.begun"])
        w.receiver.answer = refuse(410)
        await w.relay(seen("s1"))
        assert (await w.hook(made["id"]))["disabled_at"] is not None
        await w.api.clock.advance(7200)
        await w.relay(seen("s2"))
        assert len(w.receiver.got) == 1
        w.receiver.answer = refuse(200)
        answer = await w.admin.post(f"/v1/webhooks/{made['id']}/enable")
        assert answer.status_code == 204
        await w.api.clock.advance(7200)
        await w.deliver()
        assert [e["data"]["sighting_id"] for e in w.receiver.events] == ["s1", "s1"]


async def test_redirects_are_refused_and_retry_after_is_kept(tmp_path: Path) -> None:
    async with relaying(tmp_path) as w:
        made = await w.subscribe(events=["sighting.begun"])
        w.receiver.answer = refuse(307, location="http://169.254.169.254/")
        await w.relay(seen("s1"))
        assert "redirects" in (await w.hook(made["id"]))["last_error"]
        w.receiver.answer = refuse(429, **{"retry-after": "1000"})
        await w.api.clock.advance(30)
        await w.deliver()
        assert len(w.receiver.got) == 2
        await w.api.clock.advance(900)
        await w.deliver()
        assert len(w.receiver.got) == 2
        await w.api.clock.advance(200)
        await w.deliver()
        assert len(w.receiver.got) == 3


async def test_two_relays_send_each_event_once(tmp_path: Path) -> None:
    async with relaying(tmp_path) as w:
        await w.subscribe(events=["sighting.begun"])
        await w.publish(*(seen(f"s{n}") for n in range(10)))
        await w.take_in()
        first = w.delivery
        await w.new_relay("another")
        await first.run_once(w.stop)
        await w.delivery.run_once(w.stop)
        await first.idle()
        await w.delivery.idle()
        await first.close()
        assert len(w.receiver.got) == 10


def test_back_off_is_jittered_and_ends_within_a_day() -> None:
    rng = random.Random(7)
    waits = [relay_delivery.retry_us(n, rng) / SECOND_US for n in range(1, 30)]
    assert 2.5 <= waits[0] <= 5
    assert all(wait <= 7200 for wait in waits)
    assert len({round(wait) for wait in waits[-10:]}) > 5
    tries, total = 0, 0.0
    while total < 86_400:
        total += waits[min(tries, 28)]
        tries += 1
    assert tries < 40


async def test_a_secret_that_cannot_be_read_is_an_error_of_its_webhook(tmp_path: Path) -> None:
    async with relaying(tmp_path) as w:
        made = await w.subscribe(events=["sighting.begun"])
        async with w.api.platform.database.write() as connection:
            await connection.execute(tables.webhook.update().values(secret=b"damaged" * 5))
        await w.relay(seen("s1"))
        hook = await w.hook(made["id"])
        assert w.receiver.got == []
        assert "internal key" in hook["last_error"]
        reader = await w.api.person(Role.AUDITOR)
        assert (await reader.get("/v1/webhooks")).status_code == 403


async def test_nonsense_on_the_bus_is_counted_and_passed(tmp_path: Path) -> None:
    async with relaying(tmp_path) as w:
        await w.subscribe(events=["sighting.begun", "camera.status"])
        await w.relay(
            seen("x", "../#"),
            status(since_us=1 << 62),
            Message(SIGHTINGS.name, "mk-1", b"\xff"),
            seen("right"),
        )
        assert [event["data"]["sighting_id"] for event in w.receiver.events] == ["right"]
