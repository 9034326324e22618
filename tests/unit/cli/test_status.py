"""The status on a screen and in a pipe: the verdict first, nothing cut without saying so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest

from services.api.status_judge import concerns
from services.api.status_models import StatusOut
from services.cli import app, output, status
from services.cli.remote import Remote
from services.cli.status_view import lines
from shared.clock import SimulatedClock
from shared.errors import LamppostError

AT = "2026-11-25T15:00:00.000+08:00"


def made(**sections: dict[str, Any]) -> dict[str, Any]:
    """A status of fifteen cameras that are all recorded; sections change it."""
    found: dict[str, Any] = {
        "at": AT,
        "site": "Mong Kok",
        "version": "0.1.0",
        "timezone": "Asia/Hong_Kong",
        "well": True,
        "concerns": [],
        "cameras": {
            "total": 15, "enabled": 15, "recording": 15, "away": [], "away_count": 0,
            "holes": [], "holes_count": 0, "holes_seconds": 0, "unaccounted": [],
            "unaccounted_seconds": 0, "unaccounted_cameras_checked": 15,
        },
        "spools": [
            {
                "recorder": "recorder-001", "heard": True, "cameras": 15, "items": 15,
                "size_bytes": 10**8, "free_bytes": 10**11, "lasts_s": 200_000.0,
                "waiting_s": 900.0, "oldest_s": 61.0, "stopped": False, "said_s": 2.0,
            }
        ],
        "analysts": {
            "newest_segment": AT, "segment_age_s": 40.0, "newest_sighting": None,
            "sighting_age_s": None, "hour_looked_share": 0.97, "hour_dropped_share": 0.01,
            "hour_unknown_share": 0.02, "hour_pending_s": 900.0, "detectors": 2,
            "detector_lag_s": 0.4, "detector_detail": "",
        },
        "deletion": {
            "last_run": AT, "last_run_age_s": 20.0, "due_segments": 0, "overdue_segments": 0,
            "purged_segments": 0, "held_segments": 0, "stopped": "", "stopped_detail": "",
            "holds_in_force": 3, "holds_ending_soon": 0,
        },
        "events": {
            "outbox_waiting": 0, "outbox_age_s": None, "outbox_set_aside": 0, "dead_letters": 0,
            "webhooks_waiting": 0, "webhooks_set_aside": 0, "newest_audit": AT,
        },
        "processes": [
            {"name": "local", "service": "api", "version": "0.1.0", "detail": ""},
            {"name": "recorder-001", "service": "ingest", "version": "", "detail": ""},
        ],
        "clock": {"doubt": [], "camera_id": None, "camera_offset_s": None, "cameras_wrong": 0},
        "room": {
            "store_free_bytes": 9 * 10**11, "store_total_bytes": 10**12,
            "disk_free_bytes": 9 * 10**11, "disk_total_bytes": 10**12,
        },
    }  # fmt: skip
    for name, values in sections.items():
        found[name] = values if isinstance(values, list) else {**found[name], **values}
    judged = StatusOut.model_validate(found)
    found["concerns"] = [item.model_dump() for item in concerns(judged)]
    found["well"] = not found["concerns"]
    return found


def hole(number: int, **values: Any) -> dict[str, Any]:
    return {
        "camera_id": f"mk-{number:03}", "name": "", "seconds": 61.0, "count": 1,
        "reason": "silent", "since": "2026-11-25T09:00:00.000+08:00",
        "until": "2026-11-25T09:01:01.000+08:00", **values,
    }  # fmt: skip


def away(number: int, **values: Any) -> dict[str, Any]:
    return {
        "camera_id": f"mk-{number:03}", "name": "", "state": "retrying", "detail": "",
        "reason": "credentials_refused", "since": "2026-11-25T14:02:00.000+08:00",
        "seconds": 3_480.0, **values,
    }  # fmt: skip


def text(found: dict[str, Any], width: int = 80, height: int | None = 24) -> list[str]:
    return [line.plain for line in lines(found, width, height)]


def test_all_well_is_the_first_line_and_fits_a_screen() -> None:
    found = text(made())
    assert found[0] == "All is well."
    assert len(found) <= 24
    assert all(len(line) <= 80 for line in found)
    assert "cameras   15 of 15 recording; 0 s unaccounted in 24 h" in found
    assert "services  0.1.0: 1 api; ?: 1 ingest" in found


def test_fifteen_cameras_with_holes_fit_a_screen_and_say_how_many_more() -> None:
    holes = [hole(number, seconds=100.0 - number) for number in range(15)]
    holes[0] |= {"until": None, "reason": "credentials_refused"}
    cameras = {"holes": holes, "holes_count": 15, "away": [away(0)], "away_count": 1}
    found = text(made(cameras={**cameras, "recording": 14}))
    assert found[0].startswith("Something needs a person. 1 camera is not recorded; longest mk-000")
    assert len(found) <= 24
    shown = [line for line in found if line.startswith("  mk-")]
    assert shown[0].startswith("  mk-000   0:01:40  credentials_refused  retrying since 14:02")
    assert f"  … {15 - len(shown)} more" in found


def test_a_pipe_gets_every_line_whole() -> None:
    holes = [hole(number) for number in range(40)]
    found = text(made(cameras={"holes": holes, "holes_count": 40}), output.WIDE, None)
    assert sum(line.startswith("  mk-") for line in found) == 40
    assert not any("…" in line for line in found)


def test_a_city_in_trouble_fits_a_screen_too() -> None:
    events = {"outbox_set_aside": 1, "dead_letters": 2, "webhooks_set_aside": 3}
    found = made(
        cameras={"holes": [hole(n) for n in range(600)], "holes_count": 600},
        events=events,
        deletion={"overdue_segments": 5, "holds_ending_soon": 1},
        clock={"doubt": ["the database has another time"]},
    )
    shown = text(found)
    assert shown[0].startswith("6 things need a person.")
    assert "  … 2 more (--json has all)" in shown
    assert "  … 598 more" in shown
    assert len(shown) <= 24 + 3
    assert sum(line.startswith("! ") for line in text(found, output.WIDE, None)) == 6


@pytest.mark.parametrize("width", [40, 60, 79])
def test_a_narrow_terminal_cuts_lines_and_shows_that(width: int) -> None:
    found = text(made(cameras={"holes": [hole(1)], "holes_count": 1}), width, 24)
    assert all(len(line) <= width for line in found)
    assert any(line.endswith("…") for line in found)


def test_an_empty_installation_says_what_to_do() -> None:
    cameras = {"total": 0, "enabled": 0, "recording": 0, "unaccounted_cameras_checked": 0}
    found = text(made(cameras=cameras))
    assert found[0] == "All is well."
    assert any("lamppost cameras add" in line for line in found)


def test_a_camera_never_heard_of_and_a_spool_that_is_gone() -> None:
    gone = {
        "recorder": "r2", "heard": False, "cameras": 3, "items": None, "size_bytes": None,
        "free_bytes": None, "lasts_s": None, "waiting_s": 7_200.0, "oldest_s": 9_000.0,
        "stopped": False, "said_s": 9_000.0,
    }  # fmt: skip
    lonely = away(7, state="unknown", reason="", since=None)
    found = text(made(cameras={"away": [lonely], "away_count": 1, "recording": 14}, spools=[gone]))
    assert "  mk-007         -  unknown  never heard of" in found
    assert "  2 h of video pending on r2, not heard of" in found


def test_each_concern_stands_with_what_to_do() -> None:
    found = text(made(deletion={"stopped": "breaker", "stopped_detail": "Too many."}))
    assert "! Deletion is stopped (breaker): Too many." in found
    assert '  Find out why, then lamppost breaker clear --reason "..."' in found


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (httpx2.Response(200, json=made()), 0),
        (httpx2.Response(200, json=made(events={"dead_letters": 2})), 1),
        (httpx2.Response(401, json={"detail": "Nobody is signed in.", "status": 401}), 2),
        (httpx2.Response(404, json={"detail": "Not Found", "status": 404}), 2),
        (httpx2.Response(503, json={"detail": "The database is away.", "status": 503}), 3),
        (httpx2.Response(500, json={"detail": "Oh.", "status": 500}), 3),
        (None, 3),
    ],
)
def test_exit_statuses(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: httpx2.Response | None,
    code: int,
) -> None:
    def reply(request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/v1/status"
        if answer is None:
            raise httpx2.ConnectError("refused")
        return answer

    monkeypatch.setenv("LAMPPOST_KEY", "lp_x_y")
    monkeypatch.setattr(status, "Remote", lambda: Remote(httpx2.MockTransport(reply)))
    assert app.run(["status", "--json"]) == code
    told = capsys.readouterr()
    if code < 2:
        assert json.loads(told.out)["site"] == "Mong Kok"
    else:
        assert told.out == ""
        assert told.err.startswith("lamppost: ")


def test_a_watch_outlives_a_server_that_is_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAMPPOST_KEY", "lp_x_y")
    answers = iter([made(), None, made(events={"dead_letters": 2})])

    def reply(_: httpx2.Request) -> httpx2.Response:
        found = next(answers)  # the end of them is the Ctrl-C
        if found is None:
            raise httpx2.ConnectError("refused")
        return httpx2.Response(200, json=found)

    for as_json in (True, False):
        answers = iter([made(), None, made(events={"dead_letters": 2})])
        with Remote(httpx2.MockTransport(reply)) as remote, pytest.raises(StopIteration):
            status._watch(remote, as_json, SimulatedClock())
    told = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["well"] for line in told[:3]] == [True, False, False]
    assert "Cannot reach" in json.loads(told[1])["error"]
    verdicts = [line for line in told[3:] if line.startswith(("All", "Something", "Cannot"))]
    assert [line.split()[0] for line in verdicts] == ["All", "Cannot", "Something"]


def test_a_watch_ends_where_the_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMPPOST_KEY", "lp_x_y")
    refused = httpx2.MockTransport(lambda _: httpx2.Response(401, json={"status": 401}))
    with Remote(refused) as remote, pytest.raises(LamppostError) as caught:
        status._watch(remote, True, SimulatedClock())
    assert status.exit_code(caught.value.kind) == output.USAGE


def test_without_a_key_it_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAMPPOST_KEY", raising=False)
    assert app.run(["status"]) == 2


def test_every_command_that_is_named_is_one() -> None:
    """What a person is told to do at night can be typed as it stands."""
    root = Path(__file__).parents[3]
    told = (root / "services/api/status_judge.py").read_text("utf-8")
    known = (root / "docs/ref/cli.md").read_text("utf-8")
    commands = set(re.findall(r"lamppost ((?:[a-z]+)(?: (?:list|clear|test|run|archive))?)", told))
    assert {"check", "breaker clear", "cameras test", "letters list"} <= commands
    missing = [
        name for name in commands if not re.search(rf"^## `lamppost {name}[ `]", known, re.M)
    ]
    assert [name for name in missing if name != "run archive"] == []


def test_a_pipe_has_no_colour(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAMPPOST_KEY", "lp_x_y")
    found = made(deletion={"overdue_segments": 2})
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, json=found))
    monkeypatch.setattr(status, "Remote", lambda: Remote(transport))
    assert app.run(["status"]) == 1
    told = capsys.readouterr().out
    assert told.startswith("Something needs a person. 2 segments are over a day overdue")
    assert "\x1b" not in told
