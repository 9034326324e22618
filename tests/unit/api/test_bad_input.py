"""What nobody should send is answered with a 4xx that says what to do, never a 5xx."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.api import pagination, times
from shared import log
from shared.domain import Role
from shared.errors import Kind, LamppostError
from shared.settings import Log
from tests.support.api import EVERY_ROLE, HONG_KONG, WHY, opened

NASTY_TEXT = ["", " ", "\0", "a\0b", "\x7f", "é" * 300, "x" * 5_000, "../../etc/passwd", "%00", "'"]
NASTY_TIMES = [
    "now",
    "",
    "9999-12-31T23:59:59-12:00",
    "0001-01-01T00:00:00+14:00",
    "0001-01-01",
    "2026-13-01T00:00",
    "2026-11-25T25:00",
    "1969-12-31T23:59:59Z",
    "9" * 30,
    "2026-11-25T14:00+99:99",
    "\0",
]
BASE: dict[str, Any] = {"id": "mk-9", "name": "x", "source": {"url": "rtsp://10.0.0.1/x"}}


async def test_bodies_with_wrong_values(tmp_path: Path) -> None:
    raw = [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"id": "mk-9", "name": "\\ud800", "source": {"url": "rtsp://h/x"}}',
        b'{"id": "mk-9", "name": "a\\u0000b", "source": {"url": "rtsp://h/x"}}',
        b'{"id": "mk-9", "name": "x", "source": {"url": "rtsp://h/\\ud800"}}',
        b'{"id": "mk-9", "name": "x", "source": {"url": "rtsp://h/x"}, "\\ud800": 1}',
        json.dumps(BASE | {"latitude": float("nan"), "longitude": 0}).encode(),
        json.dumps(BASE | {"latitude": float("inf"), "longitude": 0}).encode(),
        json.dumps(BASE | {"sample_fps": 10**400}).encode(),
        b'{"id": "mk-9", "name": "x", "sample_fps": 1' + b"0" * 5_000 + b"}",
        json.dumps(BASE | {"latitude": "x" * 10_000, "longitude": 1e400}).encode(),
        json.dumps(BASE | {"unknown": 1}).encode(),
        json.dumps(BASE | {"id": "mk-9\n"}).encode(),
        json.dumps(BASE | {"purposes": ["nosiness"]}).encode(),
    ]
    async with opened(tmp_path) as api:
        admin = await api.person(Role.SYSADMIN)
        headers = {"content-type": "application/json"}
        for body in raw:
            reply = await admin.post("/v1/cameras", content=body, headers=headers)
            assert 400 <= reply.status_code < 500, (body[:80], reply.text)
            assert reply.headers["content-type"] == "application/problem+json"
            problem = reply.json()
            assert problem["status"] == reply.status_code
            assert problem["request_id"] == reply.headers["x-request-id"]
        large = await admin.post("/v1/cameras", content=b" " * 3_000_000, headers=headers)
        assert large.status_code == 413

        async def pieces() -> Any:
            for _ in range(50):
                yield b" " * 65_536

        for path in ("/v1/cameras:import", "/v1/cameras"):
            streamed = await admin.post(path, content=pieces(), headers=headers)
            assert streamed.status_code == 413, "a body that does not state its length is counted"


async def test_queries_with_wrong_values(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        await api.cameras("mk-1")
        person = await api.person(*EVERY_ROLE)
        search = {"camera": "mk-1", "start": "2026-11-25T14:00", "end": "2026-11-25T15:00", **WHY}
        for value in NASTY_TIMES:
            for name in ("start", "end"):
                reply = await person.get("/v1/segments", params={**search, name: value})
                assert reply.status_code == 422, (name, value)
            ledger = await person.get("/v1/cameras/mk-1/ledger", params={"date": value or "x"})
            assert ledger.status_code in (200, 422), value
        for value in ("0001-01-01", "9999-12-31", "2026-02-30"):
            ledger = await person.get("/v1/cameras/mk-1/ledger", params={"date": value})
            assert ledger.status_code == 422
        for value in ("0", "-1", "501", "1e3", "9" * 5_000, "NaN", "\0"):
            reply = await person.get("/v1/cameras", params={"limit": value})
            assert reply.status_code == 422, value
        for value in NASTY_TEXT:
            for path, name in (("/v1/cameras", "district"), ("/v1/audit", "actor_id")):
                reply = await person.get(path, params={name: value})
                assert reply.status_code in (200, 422), (path, value)
            reply = await person.get("/v1/cameras", params={"cursor": value})
            assert reply.status_code == 422, value
            reply = await person.get("/v1/events/camera-status", headers={"Last-Event-ID": "0-x"})
            assert reply.status_code == 422


async def test_paths_with_wrong_values(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        person = await api.person(*EVERY_ROLE)
        for part in ("%00", "A", "%ED%A0%80", "a%0A", "x" * 2_000, "..%2f..", "%F0%9F%98%80"):
            for path in (
                f"/v1/cameras/{part}",
                f"/v1/cameras/{part}/ledger",
                f"/v1/segments/{part}?purpose=audit&reason=x",
                f"/v1/holds/{part}",
                f"/v1/users/{part}",
                f"/notices/{part}",
                f"/{part}",
            ):
                reply = await person.get(path)
                assert reply.status_code in (404, 422), (path[:60], reply.text)


async def test_unknown_paths_methods_and_ids_are_problems_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        client = await api.client()
        for method, path, status in (("GET", "/v1/nothing", 404), ("PUT", "/healthz", 405)):
            reply = await client.request(method, path, headers={"X-Request-ID": "abcdef-123"})
            assert reply.status_code == status
            assert reply.headers["content-type"] == "application/problem+json"
            assert reply.json()["request_id"] == reply.headers["x-request-id"] == "abcdef-123"
        reply = await client.get("/healthz", headers={"X-Request-ID": "bad id\ttext"})
        assert len(reply.headers["x-request-id"]) == 36, "an unusable id is replaced"


async def test_an_unexpected_error_tells_its_request_id_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as api:
        person = await api.person(Role.ANALYST)

        def broken(*args: Any) -> Any:
            raise RuntimeError("secret internals")

        monkeypatch.setattr("services.api.queries.cameras", broken)
        written = io.StringIO()
        log.configure(Log(format="json"), stream=written)
        try:
            reply = await person.get("/v1/cameras")
        finally:
            structlog.reset_defaults()
        assert reply.status_code == 500
        assert reply.json()["request_id"] in written.getvalue()
        assert "secret internals" in written.getvalue(), "the cause is in the log"
        assert "internals" not in reply.text
        assert reply.json()["request_id"] == reply.headers["x-request-id"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=60))
def test_any_text_is_a_cursor_of_ours_or_refused(text: str) -> None:
    try:
        key = pagination.decode("segments", text, int, str)
    except LamppostError as error:
        assert error.kind is Kind.INVALID
    else:
        assert key is not None
        assert pagination.decode("segments", pagination.encode("segments", *key), int, str) == key


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=30) | st.datetimes().map(str))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    try:
        us = times.instant(text, HONG_KONG)
    except LamppostError as error:
        assert error.kind is Kind.INVALID
    else:
        assert times.instant(times.text(us, HONG_KONG), HONG_KONG) == us


def test_cursors_are_bound_to_their_list() -> None:
    cursor = pagination.encode("cameras", "mk-1")
    assert pagination.decode("cameras", cursor, str) == ["mk-1"]
    for kind, types in (("users", (str,)), ("cameras", (int,)), ("cameras", (str, str))):
        with pytest.raises(LamppostError):
            pagination.decode(kind, cursor, *types)
    with pytest.raises(LamppostError):
        pagination.decode("audit", pagination.encode("audit", 2**70), int)
