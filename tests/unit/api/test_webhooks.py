"""The routes of webhooks: who may, for what, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.responses import Response

from shared.db import tables
from shared.domain import Purpose, Role
from tests.support.api import opened
from tests.support.relaying import ALL_EVENTS, PURPOSE, is_signed, relaying, seen

URL = "https://203.0.113.7/hook"
BODY = {"url": URL, "events": ALL_EVENTS, **PURPOSE}
RELAY = {"webhook_hosts": ["203.0.113.0/24"]}


async def test_a_secret_is_shown_once_and_kept_sealed(tmp_path: Path) -> None:
    async with opened(tmp_path, relay=RELAY) as api:
        admin = await api.person(Role.SYSADMIN)
        made = (await admin.post("/v1/webhooks", json={**BODY, "name": "desk"})).json()
        assert made["secret"].startswith("whsec_")
        [shown] = (await admin.get("/v1/webhooks")).json()["items"]
        assert shown["id"] == made["id"] and shown["name"] == "desk"
        assert made["secret"] not in str(shown)
        [row] = await api.rows(tables.webhook)
        assert made["secret"].encode() not in row["secret"]
        [entry] = await api.audited("webhook.add")
        assert (entry["purpose"], entry["reason"]) == ("public_safety", "incident board")
        assert entry["detail"]["url"] == URL
        assert made["secret"] not in str(entry)
        assert (await admin.delete(f"/v1/webhooks/{made['id']}")).status_code == 204
        assert (await admin.get(f"/v1/webhooks/{made['id']}")).status_code == 404
        assert len(await api.audited("webhook.delete")) == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"url": "https://10.0.0.1/"}, 403),
        ({"url": "http://203.0.113.7/"}, 422),
        ({"purpose": None}, 422),
        ({"reason": ""}, 422),
        ({"events": []}, 422),
        ({"events": ["recorder.status"]}, 422),
        ({"classes": ["face"]}, 422),
        ({"camera_ids": ["nobody"]}, 404),
        ({"camera_ids": ["private"]}, 403),
        ({"camera_ids": []}, 422),
        ({"secret": "mine"}, 422),
    ],
)
async def test_what_is_refused(tmp_path: Path, change: dict[str, object], status: int) -> None:
    async with opened(tmp_path, relay=RELAY) as api:
        await api.cameras("private", purposes=(Purpose.TRAFFIC_INCIDENT,))
        admin = await api.person(Role.SYSADMIN)
        answer = await admin.post("/v1/webhooks", json={**BODY, **change})
        assert answer.status_code == status, answer.text
        assert await api.rows(tables.webhook) == []


async def test_no_host_is_allowed_by_default_and_the_answer_says_what_to_do(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as api:
        admin = await api.person(Role.SYSADMIN)
        answer = await admin.post("/v1/webhooks", json=BODY)
        assert answer.status_code == 403
        assert "relay.webhook_hosts" in answer.json()["fix"]


async def test_who_is_responsible_for_a_part_sees_webhooks_of_that_part(tmp_path: Path) -> None:
    async with opened(tmp_path, relay=RELAY) as api:
        await api.cameras("mk-1")
        await api.cameras("sp-1", district="Sham Shui Po")
        whole = await api.person(Role.SYSADMIN)
        part = await api.person(Role.SYSADMIN, districts=["Mong Kok"])
        everything = (await whole.post("/v1/webhooks", json=BODY)).json()["id"]
        assert (await part.post("/v1/webhooks", json=BODY)).status_code == 403
        theirs = {**BODY, "camera_ids": ["mk-1"]}
        mine = (await part.post("/v1/webhooks", json=theirs)).json()["id"]
        others = {**BODY, "camera_ids": ["mk-1", "sp-1"]}
        assert (await part.post("/v1/webhooks", json=others)).status_code == 403
        listed = [item["id"] for item in (await part.get("/v1/webhooks")).json()["items"]]
        assert listed == [mine]
        for method, path in (
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/test"),
            ("POST", "/enable"),
            ("GET", "/set-aside"),
            ("POST", "/replay"),
        ):
            body = {} if path == "/replay" else None
            answer = await part.request(method, f"/v1/webhooks/{everything}{path}", json=body)
            assert answer.status_code == 403, (method, path)


async def test_a_ping_is_signed_and_its_answer_told(tmp_path: Path) -> None:
    async with relaying(tmp_path) as w:
        made = await w.subscribe()
        answer = await w.admin.post(f"/v1/webhooks/{made['id']}/test")
        assert answer.json() == {"delivered": True, "status": 204, "error": ""}
        [(headers, body)] = w.receiver.got
        assert is_signed(made["secret"], headers, body)
        assert w.receiver.kinds == ["webhook.ping.v1"]
        assert w.receiver.events[0]["id"] == headers["webhook-id"]
        w.receiver.answer = lambda _: Response("what the receiver says", status_code=500)
        answer = await w.admin.post(f"/v1/webhooks/{made['id']}/test")
        assert answer.json()["status"] == 500
        assert "what the receiver says" not in answer.text


async def test_deleting_takes_what_waits_along(tmp_path: Path) -> None:
    async with relaying(tmp_path) as w:
        made = await w.subscribe()
        await w.publish(seen("s1"))
        await w.take_in()
        assert (await w.hook(made["id"]))["waiting"] == 1
        await w.admin.delete(f"/v1/webhooks/{made['id']}")
        assert await w.api.rows(tables.webhook_delivery) == []
        await w.deliver()
        assert w.receiver.got == []
