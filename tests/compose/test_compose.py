"""`make compose-test`: docker-compose.yml as a stranger runs it, on Compose, podman and servers.

One project lives through all tests of this file, in their order: from nothing to a search hit and
a clip, an upgrade to a second image, a restart of everything, and what `check` says in the end.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import av
import httpx2
import pytest

from services import footage
from shared.clock import SECOND_US
from tests.bench import watching
from tests.compose.stack import CLOCK, Stack, seconds
from tests.support.containers.engine import IMAGE, Engine
from tests.support.wait import until_sync

pytestmark = [pytest.mark.servers, pytest.mark.compose, pytest.mark.timeout(1200)]

CAMERAS = 4
WHY = {"purpose": "crime_investigation", "case_ref": "COMPOSE-1"}
NEXT = f"{IMAGE}-next"
LASTING = {"api", "detect", "index", "ingest", "ingest2", "retention", "spool", "spool2"}
ONCE = {"secrets", "migrate", "demo"}
GAP_S = 2.0
GRACE_S = 45
"""Of a recorder, as in docker-compose.yml (tests/compose/test_file.py)."""
Figure = Callable[[str, object], None]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> footage.Clip:
    """Real people: vtest of LAMPPOST_DATA."""
    try:
        return watching.clip_of(tmp_path_factory.mktemp("footage"), small=False)
    except watching.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def engine() -> Engine:
    """podman with the image of this working tree, and a second one of its next version."""
    engine = Engine()
    engine.socket = engine.home / "compose.sock"
    if not engine.has(IMAGE):
        engine.build()
    engine.install()
    return engine


@pytest.fixture(scope="module")
def began_us() -> list[int]:
    """When `up` was typed."""
    return []


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    engine: Engine,
    clip: footage.Clip,
    began_us: list[int],
) -> Iterator[Stack]:
    clip.path.parent.chmod(0o755)
    with Stack(tmp_path_factory.mktemp("compose"), engine, IMAGE, CAMERAS, clip.path) as stack:
        began_us.append(CLOCK.now_us())
        stack.up()
        stack.sign_in()
        yield stack


def ledgers(stack: Stack) -> dict[str, list[dict[str, Any]]]:
    """Each camera's entries of today; empty while the api is away."""
    page = stack.get("/v1/cameras", limit="200")
    found = {}
    for camera in page["items"] if page else ():
        ledger = stack.get(f"/v1/cameras/{camera['id']}/ledger")
        if ledger is None:
            return {}
        found[camera["id"]] = ledger["entries"]
    return found


def recording(stack: Stack) -> bool:
    """Whether each camera is recorded at this moment."""
    page = stack.get("/v1/cameras", limit="200")
    states = [item["state"]["state"] for item in page["items"]] if page else []
    return states == ["recording"] * CAMERAS


def recorded_until(stack: Stack, until_us: int) -> bool:
    """Whether each camera's ledger has a recorded second after that moment."""
    since = until_us / SECOND_US
    found = ledgers(stack)
    return len(found) == CAMERAS and all(
        seconds(entries, ("recorded",), since) > 0 for entries in found.values()
    )


def test_from_nothing_to_the_first_recorded_second(
    stack: Stack, began_us: list[int], record_property: Figure
) -> None:
    until_sync(lambda: recording(stack), 60, "every demo camera is recorded", every_s=0.5)
    until_sync(lambda: recorded_until(stack, began_us[0]), 60, "it can be found", every_s=0.5)
    found = ledgers(stack)
    first = min(
        _seconds_of(entry["start"])
        for entries in found.values()
        for entry in entries
        if entry["kind"] == "recorded"
    )
    took_s = first - began_us[0] / SECOND_US
    record_property("figure", f"up to first recorded second: {took_s:.1f} s")
    assert took_s > 0


def _seconds_of(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def test_every_service_runs_as_the_file_says(stack: Stack) -> None:
    """Healthy or done, with a root that is read-only and no capability or privilege to gain."""
    state = "{{.State.Status}} {{.State.ExitCode}}"
    health = "{{if .State.Health}}{{.State.Health.Status}}{{end}}"
    locked = "{{.HostConfig.ReadonlyRootfs}} {{.EffectiveCaps}} {{.HostConfig.SecurityOpt}}"
    found: dict[str, tuple[str, ...]] = {}

    def settled() -> bool:
        found.update(stack.containers(state, health, locked))
        done = {name for name in found if found[name][0] == "exited 0"}
        healthy = {name for name in found if found[name][1].lower() == "healthy"}
        return done == ONCE and healthy >= LASTING

    until_sync(settled, 60, "every service is healthy or has done its work", every_s=1)
    for name in LASTING:
        assert found[name][2].startswith("true []"), (name, found[name])
        assert "no-new-privileges" in found[name][2], (name, found[name])


def test_only_the_api_is_reached_from_outside(stack: Stack) -> None:
    ports = stack.containers("{{json .HostConfig.PortBindings}}")
    published = {name: value for name, (value,) in ports.items() if "HostPort" in value}
    assert published.keys() == {"api"} and "127.0.0.1" in published["api"]


def test_a_recording_leads_to_a_hit_and_a_clip(stack: Stack) -> None:
    """The default model of the image sees a person; the hit's clip plays."""
    hits: list[dict[str, Any]] = []

    def searched() -> bool:
        page = stack.get("/v1/sightings", **{"class": "person", **WHY})
        hits[:] = page["items"] if page else []
        return bool(hits)

    until_sync(searched, 90, "a person is found", every_s=1)
    body = hits[0]["links"]["clip"]["body"]

    def played() -> bool:
        with stack.client() as client:
            session = client.post("/v1/clip-sessions", json=body)
            if session.status_code == 404:
                return False
            assert session.status_code == 201, session.text
            return pictures(client, session.json()["parts"][0]["url"]) > 5

    until_sync(played, 60, "the hit's clip is played", every_s=1)


def pictures(client: httpx2.Client, url: str) -> int:
    """How many pictures of an MP4 can be decoded."""
    file = client.get(url)
    assert file.status_code == 200, file.text
    with av.open(io.BytesIO(file.content)) as video:
        return sum(1 for _ in video.decode(video=0))


def worst_gap(stack: Stack, since_us: int) -> float:
    """The most seconds since then that a camera lacks, once what was spooled is filed."""
    recorded_beyond_now(stack)
    found = [float("inf")]

    def settled() -> bool:
        lacking = (
            seconds(entries, ("gap", "unaccounted"), since_us / SECOND_US)
            for entries in ledgers(stack).values()
        )
        found[0] = max(lacking, default=found[0])
        return found[0] <= GAP_S

    with contextlib.suppress(AssertionError):
        until_sync(settled, 60, "what was spooled is filed", every_s=1)
    return found[0]


def holes(stack: Stack, since_us: int) -> str:
    """What each camera lacks since then, and why, for who reads that it was too much."""
    since = since_us / SECOND_US
    return "\n".join(
        f"{camera}: {entry.get('reason', entry['kind'])} {entry['start']} to {entry['end']}"
        for camera, entries in ledgers(stack).items()
        for entry in entries
        if entry["kind"] != "recorded" and _seconds_of(entry["end"]) > since
    )


def recorded_beyond_now(stack: Stack) -> None:
    now_us = CLOCK.now_us()
    until_sync(lambda: recorded_until(stack, now_us), 120, "recorded beyond now", every_s=1)


def test_an_upgrade_loses_two_seconds_at_most(
    stack: Stack, engine: Engine, record_property: Figure
) -> None:
    """Another image, service by service, recorders one at a time."""
    engine.podman("tag", IMAGE, NEXT)
    since_us = CLOCK.now_us()
    repository, _, tag = NEXT.rpartition(":")
    stack.env |= {"LP_IMAGE": repository, "LP_TAG": tag}
    stack.script("compose/roll.sh")
    took_s = (CLOCK.now_us() - since_us) / SECOND_US
    until_sync(lambda: recording(stack), 60, "every camera is recorded", every_s=0.5)
    gap_s = worst_gap(stack, since_us)
    record_property("figure", f"upgrade: {took_s:.0f} s, most lost by a camera {gap_s:.2f} s")
    images = stack.containers("{{.ImageName}}")
    assert {name for name in LASTING if images[name] == (NEXT,)} == LASTING
    assert gap_s <= GAP_S, holes(stack, since_us)


def test_a_recorder_restarts_without_loss(stack: Stack, record_property: Figure) -> None:
    """`docker compose restart` of one recorder: the other has its cameras meanwhile.

    With the time that it has for that: without it podman kills after ten seconds, whatever the
    file's `stop_grace_period` says, which Docker keeps to."""
    since_us = CLOCK.now_us()
    stack.compose("restart", "--timeout", str(GRACE_S), "ingest")
    until_sync(lambda: recording(stack), 60, "every camera is recorded", every_s=0.5)
    gap_s = worst_gap(stack, since_us)
    record_property("figure", f"restart of a recorder: most lost by a camera {gap_s:.2f} s")
    assert gap_s <= GAP_S, holes(stack, since_us)


def test_everything_stopped_and_started_accounts_for_every_second(stack: Stack) -> None:
    """What nobody could record is a gap with its reason; accounts and recordings are there."""
    before = {name: _recorded(entries) for name, entries in ledgers(stack).items()}
    since_us = CLOCK.now_us()
    stack.compose("stop", timeout_s=200)
    stack.up()
    until_sync(lambda: recording(stack), 90, "every camera is recorded", every_s=0.5)
    recorded_beyond_now(stack)
    unaccounted = [
        seconds(entries, ("unaccounted",), since_us / SECOND_US)
        for entries in ledgers(stack).values()
    ]
    assert unaccounted == [0.0] * CAMERAS
    for name, entries in ledgers(stack).items():
        assert _recorded(entries) > before[name], name


def _recorded(entries: list[dict[str, Any]]) -> float:
    return seconds(entries, ("recorded",), 0.0)


def test_in_the_end_nothing_is_wrong(stack: Stack) -> None:
    """Every invariant, every byte, by the command that the guide names."""

    def clean() -> bool:
        command = ("lamppost", "check", "--depth", "hash", "--json")
        try:
            stack.compose("exec", "-T", "retention", *command)
        except AssertionError:
            return False
        return True

    until_sync(clean, 60, "check finds nothing", every_s=5)
