"""`make stack-test`: fifteen cameras, every service a process of its own, real servers that die.

One city lives through all tests of this file, in their order; the last one ends it and judges what
was recorded: nothing lost beyond two seconds of a killed recorder, no event lost or doubled, every
invariant of `check` at full depth. See docs/guide/scale.md.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import av
import httpx2
import pytest

from shared import civil
from shared.clock import SECOND_US
from shared.domain import GapReason
from tests.monitoring import asking
from tests.monitoring.rules import FOLDER
from tests.stack import life as lives
from tests.stack.city import CLOCK
from tests.stack.footage import RATE_FPS
from tests.stack.life import CAMERAS, DRAINED_WITHIN_S, WATCHED, Life, gaps
from tests.stack.servers import NAMES
from tests.support.servers import certificates
from tests.support.servers.promtool import Prometheus
from tests.support.wait import until_sync
from tests.torture.judge import judge
from tests.torture.world import rest

pytestmark = [pytest.mark.servers, pytest.mark.stack, pytest.mark.timeout(600)]

WHY = {"purpose": "crime_investigation", "case_ref": "STACK-1"}
SEEN_S = 2.0
AWAY_S = 20.0
QUIET_S = 16
SETTLED_WITHIN_S = 90.0
TAKEN_OVER_WITHIN_S = 15.0
DETECTED = (
    "lamppost:looked:ratio > 0",
    "lamppost:frame_age:p95 > 0",
    "lamppost:sighting_age:p95 > 0",
    "sum(lamppost_sightings_indexed_total) > 0",
    'lamppost:bus:p95{operation="commit"} > 0',
    'lamppost_expiry_timestamp_seconds{what="kafka.server"} > time()',
    'lamppost_expiry_timestamp_seconds{what="kafka.ca_file"} > time()',
    "count(count by (service) (lamppost_build_info)) > 4",
)
"""What the stack's city has beyond what any installation has."""


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """Everything up, fifteen cameras recording."""
    with lives.begin(tmp_path_factory.mktemp("stack")) as begun:
        yield begun


def test_what_is_recorded_is_found_and_played(life: Life) -> None:
    """A person at cam-01, found by search through one replica, its clip through the other.

    One that was seen for as long as the clip must have pictures: of who came into a city that began
    this moment, less is recorded."""
    city = life.city
    found: list[dict[str, object]] = []

    def searched() -> bool:
        with city.client(0) as client:
            params = {"class": "person", "camera": WATCHED[0], "min_dwell_s": f"{SEEN_S:g}", **WHY}
            answer = client.get("/v1/sightings", params=params)
        assert answer.status_code == 200, answer.text
        found[:] = answer.json()["items"]
        return bool(found)

    until_sync(searched, 60, f"a sighting of {SEEN_S:g} s is found", every_s=0.5)
    hit = found[0]
    with city.client(1) as client:
        data = clip(client, hit["links"]["clip"]["body"])  # type: ignore[index]
        assert pictures(data) > RATE_FPS
        thumbnail = client.get(str(hit["links"]["thumbnail"]), params=WHY)  # type: ignore[index]
        assert thumbnail.status_code == 200 and thumbnail.content[:2] == b"\xff\xd8"


def pictures(data: bytes) -> int:
    """How many pictures of an MP4 can be decoded."""
    with av.open(io.BytesIO(data)) as file:
        return sum(1 for _ in file.decode(video=0))


@pytest.mark.parametrize("replica", [0, 1])
def test_each_replica_plays_what_is_five_seconds_old(life: Life, replica: int) -> None:
    """From the volume of a recorder that neither of them shares."""

    def played() -> bool:
        end_us = CLOCK.now_us() - 5 * SECOND_US
        body = {
            "camera": CAMERAS[7],
            "start": civil.rfc3339(end_us - 6 * SECOND_US),
            "end": civil.rfc3339(end_us),
            **WHY,
        }
        with life.city.client(replica) as client:
            if client.post("/v1/clip-sessions", json=body).status_code == 404:
                return False  # Recording began only just now.
            return pictures(clip(client, body)) >= 6 * RATE_FPS

    until_sync(played, 30, "six seconds up to five seconds ago are played", every_s=1)


def test_prometheus_answers_every_query(life: Life, record_property: object) -> None:
    """Of the dashboards and rules; each process is scraped by itself, as in Kubernetes."""
    rules = tuple(sorted(FOLDER.glob("*.yaml")))
    targets = tuple(life.city.targets)
    with Prometheus(life.folder / "prometheus", targets, rules) as prometheus:
        answered = asking.check(prometheus.url, DETECTED, busy=life.city.states)
        down = asking.ask(prometheus.url, 'up{job="lamppost"} == 0')
    asked = len(list(asking.everything()))
    record_property("figure", f"{answered} of {asked} queries gave data")  # type: ignore[operator]
    assert down == []


def clip(client: httpx2.Client, body: object) -> bytes:
    """The only file of a new clip session."""
    session = client.post("/v1/clip-sessions", json=body)
    assert session.status_code == 201, session.text
    [part] = session.json()["parts"]
    file = client.get(part["url"])
    assert file.status_code == 200, file.text
    return file.content


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_server_costs_nothing(life: Life, name: str) -> None:
    """kill -9, away for a while, back: no service ends, all cameras record, the backlog drains."""
    before_us = CLOCK.now_us()
    server = life.servers.by_name(name)
    server.kill()
    rest(AWAY_S)
    server.start()
    life.city.wait_recording(CAMERAS)
    until_sync(life.drained, DRAINED_WITHIN_S, "the backlog is drained", every_s=1)
    assert life.city.running() == life.born, "services outlive their servers"
    assert gaps(life, before_us) == {}


@pytest.mark.parametrize("fault", ["slow", "resets", "half_open"])
def test_a_bad_network_costs_nothing(life: Life, fault: str, record_property: object) -> None:
    """Every connection to every server slow, or reset again and again, or open and silent."""
    before_us = CLOCK.now_us()
    doors = list(life.servers.doors.values())
    renewed = sum(door.renewed for door in doors)
    with ExitStack() as faults:
        for door in doors:
            if fault == "slow":
                faults.enter_context(door.latency(300, jitter_ms=200))
            elif fault == "resets":
                faults.enter_context(door.resets(after_ms=500))
            else:
                faults.enter_context(door.half_open())
        rest(AWAY_S)
    life.city.wait_recording(CAMERAS)
    # A move that ends later would be blamed on what the next test does.
    until_sync(lambda: settled(life), SETTLED_WITHIN_S, "cameras move no more", every_s=1)
    until_sync(life.drained, DRAINED_WITHIN_S, "the backlog is drained", every_s=1)
    assert life.city.running() == life.born, "services outlive a bad network"
    # A recorder that nobody hears for so long has its cameras moved, which may cost two seconds.
    lost = gaps(life, before_us)
    renewed = sum(door.renewed for door in doors) - renewed
    record_property(  # type: ignore[operator]
        "figure", f"gaps by a bad network ({fault}): {lost}; doors made anew: {renewed}"
    )
    assert lost.keys() <= {GapReason.MOVED.value} and sum(lost.values()) <= 2.0 * len(CAMERAS)


def test_a_revoked_key_is_named_and_costs_nothing(life: Life) -> None:
    """The store refuses the key: recordings wait, the log says why, and all is filed afterwards."""
    before_us = CLOCK.now_us()
    log = life.folder / "city" / "logs" / "rec-1-spool.log"
    life.servers.seaweed.revoke()
    try:
        refused = "refuses this access key"
        until_sync(lambda: refused in new_lines(log, before_us), 60, "the log names the key")
    finally:
        life.servers.seaweed.allow()
    until_sync(life.drained, DRAINED_WITHIN_S, "the backlog is drained", every_s=1)
    assert gaps(life, before_us) == {}


def settled(life: Life) -> bool:
    """Whether the recorders have heard of each other, and moved nothing, for longer than a new
    owner is given to say that it records."""
    since_us = CLOCK.now_us() - QUIET_S * SECOND_US
    logs = [life.folder / "city" / "logs" / f"{name}.log" for name in life.city.recorders]
    restless = ("camera let go", "assignment unknown")
    return not any(word in new_lines(log, since_us) for log in logs for word in restless)


def new_lines(log: Path, since_us: int) -> str:
    """What was logged since then."""
    since = civil.rfc3339(since_us)
    lines = log.read_text("utf-8", "replace").splitlines()
    return "\n".join(line for line in lines if _time_of(line) >= since)


def _time_of(line: str) -> str:
    try:
        return str(json.loads(line).get("timestamp", ""))
    except json.JSONDecodeError:
        return ""


def test_wrong_credentials_are_named(life: Life) -> None:
    """A service with a wrong password says which it is, without a traceback."""
    wrong = life.folder / "wrong.password"
    wrong.write_text("not the password")
    said = life.city.command_fails("migrate", env={"LAMPPOST_POSTGRES__PASSWORD_FILE": str(wrong)})
    assert "password" in said and "Traceback" not in said


def test_a_wrong_way_to_the_broker_is_named_and_costs_nothing(life: Life) -> None:
    """An index started with a wrong password, and an archive and a detector that trust another
    authority: each says why and waits, recording goes on, and once the files are right they do."""
    before_us = CLOCK.now_us()
    city, broker = life.city, life.servers.kafka.environment()
    password = life.folder / "wrong.password"
    authority = life.folder / "wrong-ca.pem"
    password.write_text("not the password")
    authority.write_bytes(certificates.make(life.folder / "stranger").ca.read_bytes())
    wrong = {
        "index-1": ({"LAMPPOST_KAFKA__PASSWORD_FILE": str(password)}, "password is wrong"),
        "rec-2-spool": ({"LAMPPOST_KAFKA__CA_FILE": str(authority)}, "certificate is not trusted"),
        "detect-1": ({"LAMPPOST_KAFKA__CA_FILE": str(authority)}, "certificate is not trusted"),
    }
    for name, (more, _) in wrong.items():
        city.services[name].stop()
        city.services[name].start(**more)
    born = city.running()
    for name, (_, cause) in wrong.items():
        log = life.folder / "city" / "logs" / f"{name}.log"
        until_sync(
            lambda log=log, cause=cause: cause in new_lines(log, before_us),  # type: ignore[misc]
            60,
            f"the log of {name} names the cause",
        )
        assert "Traceback" not in new_lines(log, before_us)
    rest(AWAY_S / 2)
    city.wait_recording(CAMERAS)
    corrected_us = CLOCK.now_us()
    password.write_bytes(Path(broker["LAMPPOST_KAFKA__PASSWORD_FILE"]).read_bytes())
    authority.write_bytes(Path(broker["LAMPPOST_KAFKA__CA_FILE"]).read_bytes())
    until_sync(life.drained, DRAINED_WITHIN_S, "the backlog is drained", every_s=1)
    until_sync(lambda: sighted(life, corrected_us), 60, "what is seen now is found", every_s=0.5)
    assert city.running() == born, "a corrected file costs no start"
    assert gaps(life, before_us) == {}
    life.born = born


def sighted(life: Life, since_us: int) -> bool:
    """Whether a search finds a sighting of a watched camera since then."""
    params = {"class": "person", "camera": WATCHED[0], "since": civil.rfc3339(since_us), **WHY}
    with life.city.client() as client:
        answer = client.get("/v1/sightings", params=params)
    assert answer.status_code == 200, answer.text
    return bool(answer.json()["items"])


def test_a_recorder_that_starts_without_kafka_records_what_it_had(life: Life) -> None:
    """kill -9 of it while Kafka is away: nobody can take its cameras over, so it does itself."""
    city, victim = life.city, "rec-2"
    theirs = [name for name, (_, by) in city.states().items() if by == victim]
    assert theirs, "the victim records something"
    growing = life.folder / "city" / victim / "spool" / victim / "tmp"
    life.servers.kafka.kill()
    try:
        at_us = CLOCK.now_us()
        city.services[victim].kill()
        life.kills.append((at_us, CLOCK.now_us()))
        city.services[victim].start()

        def records() -> bool:
            found = {path.name[21:-41] for path in growing.glob("*.mp4") if path.name[20] == "-"
                     and int(path.name[:20]) > at_us}  # fmt: skip
            return found >= set(theirs)

        until_sync(records, 60, "its cameras are recorded", every_s=0.25)
    finally:
        life.servers.kafka.start()
    city.wait_recording(CAMERAS)
    until_sync(life.drained, DRAINED_WITHIN_S, "the backlog is drained", every_s=1)
    life.born = city.running()


def test_a_dead_recorder_is_replaced(life: Life, record_property: object) -> None:
    """kill -9 of a recorder and its archive: the other has its cameras within fifteen seconds."""
    city = life.city
    victim = "rec-1"
    theirs = [name for name, (_, by) in city.states().items() if by == victim]
    assert theirs, "the victim records something"
    at_us = CLOCK.now_us()
    city.services[victim].kill()
    city.services[f"{victim}-spool"].kill()
    life.kills.append((at_us, CLOCK.now_us()))
    city.wait_recording(theirs, TAKEN_OVER_WITHIN_S + 5, by=lambda name: name != victim)
    took_s = (CLOCK.now_us() - at_us) / SECOND_US
    record_property("figure", f"taken over {took_s:.1f} s after the kill")  # type: ignore[operator]
    assert took_s <= TAKEN_OVER_WITHIN_S
    city.services[victim].start()
    city.services[f"{victim}-spool"].start()
    city.wait_recording(CAMERAS)
    life.born = city.running()


def test_a_rolling_restart_loses_two_seconds_at_most(life: Life, record_property: object) -> None:
    """SIGTERM and start again, one recorder after the other, as an update does."""
    since_us = CLOCK.now_us()
    # Of recorders that both have cameras: who starts has its share only after a moment.
    life.city.wait_ready(*life.city.recorders)
    for name in life.city.recorders:
        life.city.restart(name)
        life.city.wait_recording(CAMERAS)
    life.born = life.city.running()
    until_sync(life.drained, DRAINED_WITHIN_S, "the backlog is drained", every_s=1)
    lost = gaps(life, since_us)
    record_property("figure", f"gaps of a rolling restart: {lost}")  # type: ignore[operator]
    assert sum(lost.values()) <= 2.0 * len(CAMERAS) * 2


def test_in_the_end_nothing_is_missing_or_double(life: Life, record_property: object) -> None:
    """The cameras' own logs against rows and objects; events; `check` at full depth."""
    city = life.city
    # What was lost after the last kill is judged like what was lost by it.
    life.kills.append((CLOCK.now_us(), CLOCK.now_us()))
    lives.end(life)
    verdict = asyncio.run(judge(city.settings, life.folder / "sent", CAMERAS, life.kills, RATE_FPS))
    worst = max((loss.seconds for loss in verdict.losses), default=0.0)
    record_property(  # type: ignore[operator]
        "figure",
        f"pictures sent {verdict.sent}, stored {verdict.stored}; most lost by a kill {worst:.1f} s",
    )
    assert verdict.stored > 0
    assert not verdict.wrong, "\n".join(verdict.wrong)
