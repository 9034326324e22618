"""The api's side of a replay, against a scripted api."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from services.cli.remote import Remote
from services.replay.archive import Account, Archive, Sightings
from shared.clock import SystemClock
from shared.errors import Kind, LamppostError
from tests.support.wait import until_sync

Handler = Callable[[httpx2.Request], httpx2.Response]
HOUR = 3_600_000_000
DAY_US = 1_764_028_800_000_000
"""2025-11-25T00:00Z."""


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Callable[[Handler], Remote]:
    monkeypatch.setenv("LAMPPOST_URL", "http://lamppost.test")
    monkeypatch.setenv("LAMPPOST_KEY", "lp_x_y")
    return lambda handler: Remote(httpx2.MockTransport(handler))


def problem(status: int, kind: str) -> httpx2.Response:
    return httpx2.Response(status, json={"kind": kind, "detail": "No."})


class Cameras:
    """The camera routes."""

    def __init__(self, **there: str) -> None:
        self.names = there
        self.asked: list[tuple[str, str, Any]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content) if request.content else None
        self.asked.append((request.method, request.url.path, body))
        camera_id = request.url.path.split("/")[3] if request.url.path.count("/") > 2 else ""
        if request.method == "POST" and request.url.path == "/v1/cameras":
            if body["id"] in self.names:
                return problem(409, "conflict")
            return httpx2.Response(201, json=body)
        if request.method == "GET":
            return httpx2.Response(200, json={"id": camera_id, "name": self.names[camera_id]})
        return httpx2.Response(200, json={})


def test_a_camera_is_added_with_both_its_streams(remote: Callable[[Handler], Remote]) -> None:
    api = Cameras()
    Archive(remote(api)).register("replay-cam-001", "rtsp://h/a", "rtsp://h/a/sub", "gate")
    ((method, path, body),) = api.asked
    assert (method, path) == ("POST", "/v1/cameras")
    assert body["source"] == {"url": "rtsp://h/a", "sub_url": "rtsp://h/a/sub", "secret": "gate"}


def test_what_an_earlier_replay_left_is_taken_up(remote: Callable[[Handler], Remote]) -> None:
    api = Cameras(**{"replay-1": "Replayed camera replay-1"})
    Archive(remote(api)).register("replay-1", "rtsp://h/new")
    assert [(m, p) for m, p, _ in api.asked[2:]] == [
        ("PATCH", "/v1/cameras/replay-1"),
        ("POST", "/v1/cameras/replay-1/enable"),
    ]
    assert api.asked[2][2]["source"]["url"] == "rtsp://h/new"


def test_a_real_camera_is_never_taken_over(remote: Callable[[Handler], Remote]) -> None:
    api = Cameras(gate="Argyle Street")
    with pytest.raises(LamppostError, match="no replay has made") as raised:
        Archive(remote(api)).register("gate", "rtsp://h/new")
    assert raised.value.kind is Kind.CONFLICT and "--prefix" in raised.value.fix
    assert [method for method, *_ in api.asked] == ["POST", "GET"]


@pytest.mark.parametrize("roles", [["analyst"], []])
def test_a_key_that_may_not_add_cameras_is_refused_at_once(
    remote: Callable[[Handler], Remote], roles: list[str]
) -> None:
    archive = Archive(remote(lambda _: httpx2.Response(200, json={"roles": roles})))
    with pytest.raises(LamppostError, match="may not add cameras"):
        archive.check()


def entry(start_h: float, end_h: float, kind: str, reason: str = "") -> dict[str, str]:
    def text(hours: float) -> str:
        total = round(hours * 3600)
        return f"2025-11-25T{total // 3600:02}:{total // 60 % 60:02}:{total % 60:02}+00:00"

    return {"start": text(start_h), "end": text(end_h), "kind": kind, "reason": reason}


def ledgers(request: httpx2.Request) -> httpx2.Response:
    """Today, and the day before with an hour recorded at its end."""
    date = request.url.params.get("date", "2025-11-25")
    if date == "2025-11-25":
        entries = [
            entry(0, 1, "recorded"),
            entry(1, 1.5, "gap", "silent"),
            entry(1.5, 2, "gap", "frozen"),
            entry(2, 3, "held"),
            entry(3, 4, "pending"),
            entry(4, 5, "unaccounted"),
        ]
    else:
        entries = [
            {"start": "2025-11-24T23:00:00Z", "end": "2025-11-25T00:00:00Z", "kind": "recorded"}
        ]
    body = {"date": date, "start": f"{date}T00:00:00Z", "entries": entries, "truncated": False}
    return httpx2.Response(200, json=body)


def test_an_account_is_of_the_stretch_alone(remote: Callable[[Handler], Remote]) -> None:
    archive = Archive(remote(ledgers))
    found = archive.account("cam", DAY_US + HOUR // 2, DAY_US + 7 * HOUR // 2)
    assert found == Account(
        [(DAY_US, DAY_US + HOUR), (DAY_US + 2 * HOUR, DAY_US + 3 * HOUR)],
        {"frozen": HOUR // 2, "silent": HOUR // 2},
        HOUR // 2,
        0,
        False,
    )
    assert archive.newest_us("cam") == DAY_US + 3 * HOUR


def test_an_account_over_midnight_asks_both_days(remote: Callable[[Handler], Remote]) -> None:
    found = Archive(remote(ledgers)).account("cam", DAY_US - HOUR, DAY_US + HOUR)
    assert sorted(found.recorded)[0] == (DAY_US - HOUR, DAY_US)
    assert found.gaps_us == {} and found.pending_us == 0


def hit(camera_id: str, end: str, *, ended: bool = False) -> str:
    data = json.dumps({"camera_id": camera_id, "end": end, "ended": ended})
    return f"event: sighting\ndata: {data}\n\n"


def test_events_of_replayed_cameras_are_aged_by_their_last_frame(
    remote: Callable[[Handler], Remote],
) -> None:
    clock = SystemClock()
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        text = ": hello\n\n" + hit("replay-1", "2026-01-01T00:00:00Z")
        text += hit("other", "2026-01-01T00:00:00Z")
        text += hit("replay-1", "2026-01-01T00:00:05Z", ended=True)
        return httpx2.Response(200, text=text)

    why = {"purpose": "maintenance", "reason": "load test"}
    found = Sightings(remote(answer), why, frozenset({"replay-1"}), clock)
    found.start()
    until_sync(lambda: found.events >= 2, 5)
    found.stop()
    assert len(found.ages_s) >= 1 and found.ages_s[0] > 0
    assert dict(asked[0].url.params) == why


def test_a_refusal_of_events_is_said_and_not_repeated(
    remote: Callable[[Handler], Remote],
) -> None:
    asked: list[int] = []

    def answer(_: httpx2.Request) -> httpx2.Response:
        asked.append(1)
        return problem(403, "forbidden")

    found = Sightings(remote(answer), {}, frozenset(), SystemClock())
    found.start()
    until_sync(lambda: bool(found.trouble), 5)
    assert asked == [1] and found.events == 0
