"""Cameras over HTTP: configuration, versions, scope, import, zones, connection test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from services.api import camera_tools
from services.api.camera_check import check_polygon, check_url
from shared.db import tables
from shared.domain import Purpose, RecordingState, Role
from shared.errors import LamppostError
from shared.messages import RecorderStatus, StatusChanged
from shared.settings import Settings
from tests.support.api import Api, opened

BODY: dict[str, Any] = {
    "id": "mk-1",
    "name": "Argyle Street",
    "source": {"url": "rtsp://10.0.0.1/main", "secret": "mk-1"},
    "district": "Mong Kok",
    "site_kind": "smart_lamp_post",
    "latitude": 22.3,
    "longitude": 114.2,
}


async def test_a_camera_is_added_changed_and_deleted_with_its_events(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        admin = await api.person(Role.SYSADMIN)
        added = await admin.post("/v1/cameras", json=BODY)
        assert added.status_code == 201, added.text
        assert added.json()["version"] == 1
        assert added.json()["created_at"] == "2026-11-25T15:00:00.000+08:00"
        changed = await admin.patch("/v1/cameras/mk-1", json={"name": "Argyle", "latitude": None})
        assert changed.status_code == 422, "half a position"
        changed = await admin.patch("/v1/cameras/mk-1", json={"name": "Argyle"})
        assert (changed.json()["version"], changed.json()["district"]) == (2, "Mong Kok")
        for verb, enabled in (("disable", False), ("enable", True)):
            reply = await admin.post(f"/v1/cameras/mk-1/{verb}")
            assert reply.json()["enabled"] is enabled
        assert (await admin.delete("/v1/cameras/mk-1")).status_code == 204
        assert (await admin.get("/v1/cameras/mk-1")).json()["deleted_at"] is not None
        assert (await admin.patch("/v1/cameras/mk-1", json={"name": "x"})).status_code == 410
        assert (await admin.post("/v1/cameras", json=BODY)).status_code == 409, "ids are for good"
        events = [event["camera"] for event in await api.events()]
        assert [event["version"] for event in events] == [1, 2, 3, 4, 5]
        assert events[-1]["deleted_at_us"] is not None
        actions = [row["action"] for row in await api.rows(tables.audit)]
        assert actions[2:] == [
            "camera.create",
            "camera.change",
            "camera.disable",
            "camera.enable",
            "camera.delete",
        ]


async def test_etags_save_a_reply_and_protect_a_change(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        admin = await api.person(Role.SYSADMIN)
        await api.cameras("mk-1")
        tag = (await admin.get("/v1/cameras/mk-1")).headers["etag"]
        same = await admin.get("/v1/cameras/mk-1", headers={"If-None-Match": f'"x", {tag}'})
        assert (same.status_code, same.content) == (304, b"")
        change = {"name": "A"}
        first = await admin.patch("/v1/cameras/mk-1", json=change, headers={"If-Match": tag})
        assert first.status_code == 200
        second = await admin.patch("/v1/cameras/mk-1", json=change, headers={"If-Match": tag})
        assert second.status_code == 412
        assert second.json()["version"] == 2
        again = await admin.patch("/v1/cameras/mk-1", json=change)
        assert again.json()["version"] == 2, "a change that changes nothing writes nothing"
        assert len(await api.events()) == 2


async def test_who_may_not_change_a_camera_does_not_see_its_source(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        admin, officer = await api.person(Role.SYSADMIN), await api.person(Role.OPERATOR)
        await api.cameras("mk-1")
        assert (await admin.get("/v1/cameras/mk-1")).json()["source"]["url"].startswith("rtsp")
        assert (await officer.get("/v1/cameras/mk-1")).json()["source"] is None
        assert "rtsp" not in (await officer.get("/v1/cameras")).text


async def test_lists_are_filtered_scoped_and_paged(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        await api.cameras("a", "b", "c")
        await api.cameras("d", district="Sham Shui Po", enabled=False)
        admin = await api.person(Role.SYSADMIN)
        found: list[str] = []
        cursor: str | None = None
        for _ in range(4):
            params: dict[str, Any] = {"limit": 1, **({"cursor": cursor} if cursor else {})}
            page = (await admin.get("/v1/cameras", params=params)).json()
            found += [item["id"] for item in page["items"]]
            cursor = page["next"]
        assert (found, cursor) == (["a", "b", "c", "d"], None)

        async def ids(client: httpx2.AsyncClient, **params: Any) -> list[str]:
            items = (await client.get("/v1/cameras", params=params)).json()["items"]
            return [item["id"] for item in items]

        assert await ids(admin, district="Sham Shui Po") == ["d"]
        assert await ids(admin, enabled=True, name="B") == ["b"]
        assert await ids(admin, name="%") == []
        await admin.delete("/v1/cameras/a")
        assert await ids(admin) == ["b", "c", "d"]
        assert await ids(admin, deleted=True) == ["a", "b", "c", "d"]
        scoped = await api.person(Role.SYSADMIN, districts=["Sham Shui Po"], camera_ids=["b"])
        assert await ids(scoped) == ["b", "d"]
        assert (await scoped.get("/v1/cameras/c")).status_code == 403
        assert (await scoped.patch("/v1/cameras/c", json={"name": "x"})).status_code == 403
        moved = await scoped.patch("/v1/cameras/d", json={"district": "Mong Kok"})
        assert moved.status_code == 403
        assert (await scoped.post("/v1/cameras", json=BODY)).status_code == 403


async def test_sources_reach_only_what_is_configured(tmp_path: Path) -> None:
    footage, outside = tmp_path / "footage", tmp_path / "outside"
    footage.mkdir()
    outside.mkdir()
    (footage / "link").symlink_to(outside)
    settings = Settings.model_validate(
        {
            "state_dir": tmp_path,
            "ingest": {"footage_dirs": [footage], "rtsp_hosts": ["10.20.0.0/16", "cam.example"]},
        }
    )
    for url in (
        f"file://{footage}/a.mp4",
        "rtsp://10.20.3.4:8554/main",
        "rtsps://cam.example/x",
        "rtsp://CAM.example/x",
    ):
        check_url(url, settings)
    for url, hint in (
        (f"file://{footage}/../outside/a.mp4", "footage folder"),
        (f"file://{footage}/%2e%2e/outside/a.mp4", "footage folder"),
        (f"file://{footage}/link/a.mp4", "footage folder"),
        ("file:///etc/passwd", "footage folder"),
        ("file://host/etc/passwd", "not plain"),
        (f"file://{footage}/a.mp4?x", "not plain"),
        ("rtsp://10.21.0.1/main", "may reach"),
        ("rtsp://169.254.169.254/", "may reach"),
        ("rtsp://localhost/", "may reach"),
        ("rtsp://user:secret@10.20.0.1/", "user name or password"),
        ("rtsp://user@10.20.0.1/", "user name or password"),
        ("rtsp:///main", "no host"),
        ("rtsp://10.20.0.1:99999/", "cannot be read"),
        ("rtsp://[::1/", "cannot be read"),
        ("http://10.20.0.1/", "not supported"),
        ("ftp", "not supported"),
    ):
        with pytest.raises(LamppostError, match=hint):
            check_url(url, settings)
    with pytest.raises(LamppostError, match="footage folder"):
        check_url(f"file://{footage}/a.mp4", Settings(state_dir=tmp_path))


async def test_a_password_in_an_address_is_refused_and_not_repeated(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        admin = await api.person(Role.SYSADMIN)
        source = {"url": "rtsp://admin:hunter2@10.0.0.1/main"}
        reply = await admin.post("/v1/cameras", json={**BODY, "source": source})
        assert reply.status_code == 422
        assert "secret" in reply.json()["fix"]
        assert "hunter2" not in reply.text
        assert await api.rows(tables.camera) == []
        assert await api.rows(tables.outbox) == []


async def test_a_mask_that_is_not_built_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        admin = await api.person(Role.SYSADMIN)
        square = [[0.1, 0.1], [0.2, 0.1], [0.2, 0.2]]
        mask = {"polygons": [square], "applied_by": "lamppost"}
        reply = await admin.post("/v1/cameras", json={**BODY, "mask": mask})
        assert reply.status_code == 422
        mask["applied_by"] = "camera"
        reply = await admin.post("/v1/cameras", json={**BODY, "mask": mask})
        assert reply.json()["mask"] == mask


async def test_maintenance_is_planned_in_local_time(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        admin = await api.person(Role.SYSADMIN)
        await api.cameras("mk-1")
        window = {"start": "2026-11-26T09:00", "end": "2026-11-26T10:30", "note": "lens"}
        planned = (await admin.post("/v1/cameras/mk-1/maintenance", json=window)).json()
        assert planned["maintenance"] == [
            {
                "start": "2026-11-26T09:00:00.000+08:00",
                "end": "2026-11-26T10:30:00.000+08:00",
                "note": "lens",
            }
        ]
        back = {"start": window["end"], "end": window["start"]}
        assert (await admin.post("/v1/cameras/mk-1/maintenance", json=back)).status_code == 422
        params = {"start": "2026-11-26T01:00:00Z"}
        gone = await admin.delete("/v1/cameras/mk-1/maintenance", params=params)
        assert gone.json()["maintenance"] == []
        gone = await admin.delete("/v1/cameras/mk-1/maintenance", params=params)
        assert gone.status_code == 404


CSV = """id,name,url,district,purposes,enabled
a,Argyle,rtsp://10.0.0.1/a,Mong Kok,crime_investigation; complaint,
b,"Bute, Street",rtsp://10.0.0.2/b,Mong Kok,,false
"""


async def import_csv(client: httpx2.AsyncClient, text: str, **params: Any) -> httpx2.Response:
    headers = {"content-type": "text/csv"}
    return await client.post(
        "/v1/cameras:import", content=text.encode(), params=params, headers=headers
    )


async def test_an_import_takes_all_rows(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        admin = await api.person(Role.SYSADMIN)
        dry = await import_csv(admin, "\ufeff" + CSV, dry_run=True)
        assert dry.json() == {"imported": 0, "dry_run": True, "camera_ids": ["a", "b"]}
        assert await api.rows(tables.camera) == []
        assert (await import_csv(admin, CSV)).json()["imported"] == 2
        items = (await admin.get("/v1/cameras")).json()["items"]
        assert items[0]["purposes"] == ["crime_investigation", "complaint"]
        assert (items[1]["name"], items[1]["enabled"]) == ("Bute, Street", False)
        assert items[1]["purposes"] == [purpose.value for purpose in Purpose]


async def test_an_import_takes_no_row_when_one_is_wrong(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        admin = await api.person(Role.SYSADMIN)
        wrong = (
            CSV + "a,Twice,rtsp://10.0.0.1/x,,,\nc,C,http://x/,,,\nd d,,rtsp://x/y,,nope,\ne,E\n"
        )
        reply = await import_csv(admin, wrong)
        assert reply.status_code == 422
        found = {(item["row"], item["column"]) for item in reply.json()["errors"]}
        assert {(3, "id"), (4, "url"), (5, "id"), (5, "purposes.0"), (6, "")} <= found
        assert await api.rows(tables.camera) == []
        await api.cameras("b")
        assert (await import_csv(admin, CSV)).status_code == 409
        assert [row["id"] for row in await api.rows(tables.camera)] == ["b"]


async def test_files_that_are_no_camera_list_say_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        admin = await api.person(Role.SYSADMIN)
        for text, hint in (
            ("", "missing columns"),
            ("id,name,url\n", "no rows"),
            ("id,name,url,password\n", "unknown columns"),
            ('id,name,url\n"a', "CSV"),
            ("id,name,url\n" + "a,b,c\n" * 2_001, "at most 2000 rows"),
        ):
            reply = await import_csv(admin, text)
            assert 400 <= reply.status_code < 500, text[:30]
            assert hint in reply.json()["detail"]
        latin = await admin.post("/v1/cameras:import", content="id,name,url\nä".encode("latin-1"))
        assert latin.json()["detail"] == "The file is not UTF-8."


ZONE = {"kind": "zone", "name": "Crossing", "points": [[0, 0], [1, 0], [1, 1], [0, 1]]}


async def test_zones_and_lines(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        admin = await api.person(Role.SYSADMIN)
        await api.cameras("mk-1", "mk-2")
        zones = "/v1/cameras/mk-1/zones"
        made = (await admin.post(zones, json=ZONE)).json()
        api.clock.set_us(api.clock.now_us() + 1)
        line = {
            "kind": "line",
            "name": "Kerb",
            "points": [[0, 0.5], [1, 0.5]],
            "directions": {"left_to_right": "north", "right_to_left": "south"},
        }
        assert (await admin.post(zones, json=line)).status_code == 201
        listed = (await admin.get(zones)).json()["items"]
        assert [item["kind"] for item in listed] == ["zone", "line"]
        one = f"{zones}/{made['id']}"
        tag = (await admin.get(one)).headers["etag"]
        redrawn = await admin.put(one, json={**ZONE, "name": "X"}, headers={"If-Match": tag})
        assert redrawn.json()["version"] == 2
        late = await admin.put(one, json=ZONE, headers={"If-Match": tag})
        assert late.status_code == 412
        assert (await admin.get(f"/v1/cameras/mk-2/zones/{made['id']}")).status_code == 404
        assert (await admin.delete(one)).status_code == 204
        assert (await admin.get(one)).status_code == 404


async def test_shapes_that_are_none_are_refused(tmp_path: Path) -> None:
    bow_tie = [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 0.8)]
    spike = [(0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (0.5, 0.0), (0.5, 0.5)]
    touching = [(0.0, 0.0), (1.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.0, 1.0), (0.5, 0.5)]
    for points in (bow_tie, spike, touching, [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)], [(0.0, 0.0)]):
        with pytest.raises(LamppostError):
            check_polygon(points)
    check_polygon([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.2), (0.0, 1.0)])
    async with opened(tmp_path) as api:
        admin = await api.person(Role.SYSADMIN)
        await api.cameras("mk-1")
        for body in (
            {**ZONE, "points": [[0, 0], [2, 0], [1, 1]]},
            {**ZONE, "points": [[0, 0], [1, 1]]},
            {**ZONE, "kind": "line"},
            {**ZONE, "directions": {"left_to_right": "north"}},
            {"kind": "line", "name": "L", "points": [[0.5, 0.5], [0.5, 0.5]]},
        ):
            assert (await admin.post("/v1/cameras/mk-1/zones", json=body)).status_code == 422, body


def heard(api: Api, camera_id: str, state: RecordingState = RecordingState.RECORDING) -> None:
    """The recorder's word reaches the api."""
    now = api.clock.now_us()
    api.context.recorders.apply(
        StatusChanged(camera_id, state, now, now, "r1", 1, recorder_url="http://recorder.test")
    )
    api.context.recorders.apply(
        RecorderStatus("r1", now, 1, "http://recorder.test", (camera_id,), 0, 0, 0)
    )


async def test_a_state_is_what_was_heard_lately(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        officer = await api.person(Role.OPERATOR)
        await api.cameras("mk-1")
        path = "/v1/cameras/mk-1/state"
        assert (await officer.get(path)).json()["state"] == "unknown"
        heard(api, "mk-1")
        assert (await officer.get(path)).json()["state"] == "recording"
        assert (await officer.get("/v1/cameras")).json()["items"][0]["state"]["recorder"] == "r1"
        api.clock.set_us(api.clock.now_us() + 60_000_000)
        stale = (await officer.get(path)).json()
        assert (stale["state"], stale["heard"]) == ("unknown", "2026-11-25T15:00:00.000+08:00")


async def test_a_connection_test_shows_its_picture_to_those_who_may_see_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"ok": True, "codec": "h264", "width": 640, "height": 480, "jpeg_base64": "AAAA"}
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(200, json=found)

    real = httpx2.AsyncClient

    def client(**options: Any) -> httpx2.AsyncClient:
        return real(transport=httpx2.MockTransport(answer), **options)

    async with opened(tmp_path) as api:
        admin = await api.person(Role.SYSADMIN)
        both = await api.person(Role.SYSADMIN, Role.OPERATOR)
        await api.cameras("mk-1")
        path = "/v1/cameras/mk-1/test"
        assert (await admin.post(path)).json()["reason"] == "no_recorder"
        heard(api, "mk-1")
        why = {"purpose": "maintenance", "reason": "new lens"}
        monkeypatch.setattr(camera_tools.httpx2, "AsyncClient", client)
        pictures = [
            (await who.post(path, params=params)).json()["jpeg_base64"]
            for who, params in ((admin, why), (both, {}), (both, why))
        ]
        assert pictures == [None, None, "AAAA"]
        assert asked[0].headers["authorization"] == f"Bearer {api.platform.internal_key}"
        assert json.loads(asked[0].content)["id"] == "mk-1"
        shown = [row["detail"]["picture"] for row in await api.audited("camera.test")]
        assert shown == [False, False, False, True]
