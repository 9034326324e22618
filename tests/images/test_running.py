"""The image run as Kubernetes runs it: everything in one container, a recorder alone, and the end
of both by SIGTERM, after which nothing that was recorded is missing."""

from __future__ import annotations

from typing import Any

import pytest

from shared.clock import SECOND_US, SystemClock
from tests.images.conftest import STATE, Place, Running
from tests.support.containers.engine import IMAGE
from tests.support.wait import until_sync

OPEN = f"find {STATE}/spool -path '*/tmp/*' -type f"
"""Segments that nobody finished."""


def add(running: Running, camera: str, clip: str) -> None:
    running.well("cameras", "add", camera, f"file:///footage/{clip}", "--json")
    running.until_recording(camera)


def left_open(place: Place) -> str:
    options = [*place.options(), "--entrypoint", "sh"]
    done = place.engine.once(IMAGE, "-c", OPEN, options=options)
    assert done.status == 0, done.output
    return done.output.strip()


NEWEST = """\
import json, pathlib, sqlite3, sys
state, camera = pathlib.Path(sys.argv[1]), sys.argv[2]
filed = [json.loads(path.read_text()) for path in state.glob("spool/*/new/*.json")
         if not path.name.endswith(".gap.json")]
ends = [one["end_us"] for one in filed if one["camera_id"] == camera]
database = sqlite3.connect(state / "lamppost.db")
found = database.execute("SELECT max(end_us) FROM segment WHERE camera_id = ?", (camera,))
print(max([*ends, found.fetchone()[0] or 0]))
"""


def last_recorded_us(place: Place, camera: str) -> int:
    """Where the camera's newest segment ends, by what lies on the volume."""
    options = [*place.options(), "--entrypoint", "python"]
    done = place.engine.once(IMAGE, "-c", NEWEST, STATE, camera, options=options)
    assert done.status == 0, done.output
    return int(done.output)


def test_everything_in_one_container(place: Place, record_property: Any) -> None:
    clock = SystemClock()
    began_us = clock.monotonic_us()
    with place.run() as running:
        running.until_healthy("--ready")
        ready_s = (clock.monotonic_us() - began_us) / SECOND_US
        running.sign_in()
        people = "people.mp4" in running.container.exec("ls", "/footage").output
        add(running, "people", "people.mp4" if people else "street.mp4")
        add(running, "street", "street.mp4")
        recording_s = (clock.monotonic_us() - began_us) / SECOND_US
        until_sync(
            lambda: running.metric("lamppost_frames_analysed_total") >= 5, 240, "frames analysed", 1
        )
        if people:
            until_sync(
                lambda: running.metric("lamppost_sightings_sent_total") > 0, 240, "a sighting", 1
            )
        seen_s = (clock.monotonic_us() - began_us) / SECOND_US
        check = place.engine.attempt("healthcheck", "run", running.container.id)
        assert check.status == 0, check.output
        assert "coco-ssd-480x640" in running.well("model", "list")
        running.well("model", "verify")
        stopped_us = clock.now_us()
        status, took_s = running.container.stop(40)
    assert status == 0, "ended by a kill"
    assert left_open(place) == ""
    assert last_recorded_us(place, "street") > stopped_us - SECOND_US, "the last second is missing"
    report = place.once("check", "--depth", "hash", "--json")
    assert report.status == 0, report.output
    record_property(
        "figure",
        f"ready {ready_s:.1f} s, two cameras recording {recording_s:.1f} s, first sighting "
        f"{seen_s:.1f} s after the start; SIGTERM to the end {took_s:.1f} s",
    )


def test_a_recorder_alone_hands_in_what_it_has(place: Place, record_property: Any) -> None:
    """`run ingest` on the same volume, as in a recorder's pod: probes, then an update's SIGTERM."""
    clock = SystemClock()
    settings = {
        "LAMPPOST_INSTANCE": "recorder-0",
        "LAMPPOST_METRICS__PORT": "9100",
        "LAMPPOST_INGEST__HANDOVER_S": "2",
    }
    with place.run("run", "ingest", **settings) as running:
        running.until_healthy("--startup")
        running.until_healthy()
        running.until_healthy("--ready")
        until_sync(
            lambda: running.metric("lamppost_recorded_seconds_total", 9100) > 0,
            240,
            "a segment is filed",
            1,
        )
        stopped_us = clock.now_us()
        status, took_s = running.container.stop(40)
    assert status == 0, "ended by a kill"
    assert left_open(place) == ""
    assert last_recorded_us(place, "street") > stopped_us - SECOND_US, "the last second is missing"
    record_property("figure", f"a recorder alone: SIGTERM to the end {took_s:.1f} s")


def test_a_killed_container_is_repaired_by_the_next(place: Place) -> None:
    with place.run() as running:
        running.until_healthy("--ready")
        running.use_key()
        running.until_recording("street")
        running.container.kill()
    with place.run() as running:
        running.until_healthy("--ready")
        status, _ = running.container.stop(40)
        assert status == 0
    assert left_open(place) == ""


def test_health_tells_that_nothing_runs(place: Place) -> None:
    done = place.once("health")
    assert done.status == 1 and "nobody listens on port 8600" in done.output


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (("--version",), 0, "0.1.0"),
        (("run", "nothing"), 2, "There is no service"),
        (("model", "list", "--json"), 0, "coco-ssd-480x640"),
    ],
)
def test_commands_without_a_server(
    place: Place, command: tuple[str, ...], status: int, said: str
) -> None:
    done = place.once(*command)
    assert done.status == status, done.output
    assert said in done.output


def test_a_state_folder_that_is_not_writable_is_told(place: Place) -> None:
    options = place.options(LAMPPOST_STATE_DIR="/opt/lamppost/state")
    done = place.engine.once(IMAGE, options=options)
    assert done.status != 0 and "lamppost:" in done.output and "Traceback" not in done.output
