"""The chart's `small` set on a real Kubernetes: installed, upgraded, rolled back, and hurt.

One installation lives through all tests of this file, in their order; the last one removes it and
compares what the cameras sent with what is stored. See docs/guide/kubernetes.md.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import av
import pytest

from shared.clock import SECOND_US, SystemClock
from tests.k8s import ledger
from tests.k8s.cluster import CAMERAS, NEXT_IMAGE, RATE_FPS, Servers, load_images
from tests.k8s.release import NAMESPACE, RELEASE, WHY, Release
from tests.k8s.steady import RATE_HZ, steady
from tests.support.containers.engine import IMAGE
from tests.support.helm_tools import CHART
from tests.support.kubernetes.node import FOLDER, Node
from tests.support.wait import until_sync
from tests.torture.judge import judge
from tests.torture.world import rest

pytestmark = [pytest.mark.servers, pytest.mark.long, pytest.mark.k8s, pytest.mark.timeout(900)]

CLOCK = SystemClock()
Note = Callable[[str, str], None]
LOST_S = 2.0
"""Of a camera, by a change of version."""
TAKEN_OVER_WITHIN_S = 15.0
DRAINED_WITHIN_S = 90.0
ENDED_WITHIN_S = 120.0


class Life:
    """The installation, its servers, and what was done to it."""

    def __init__(self, node: Node, servers: Servers, release: Release) -> None:
        self.node, self.servers, self.release = node, servers, release
        self.marks: list[tuple[int, int]] = []

    def mark(self, since_us: int) -> None:
        """Something was done from then until now: its loss is judged by itself."""
        self.marks.append((since_us, CLOCK.now_us()))

    def drained(self) -> bool:
        """No finished recording waits on a volume, no event in an outbox."""
        if any((FOLDER / "volumes").glob("**/new/*.mp4")):
            return False
        return ledger.waiting_events(self.servers.settings) == 0

    def lost(self, since_us: int) -> dict[str, float]:
        """Seconds of each camera since then, once everything recorded until now is filed."""
        now_us = CLOCK.now_us()

        def filed() -> bool:
            found = ledger.recorded_us(self.servers.settings)
            return all(found.get(name, (0, 0))[1] >= now_us for name in CAMERAS)

        until_sync(filed, DRAINED_WITHIN_S, "what is recorded now is filed", every_s=1)
        return ledger.lost(self.servers.settings, since_us)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """The node, the servers and both images; nothing is installed yet."""
    folder = tmp_path_factory.mktemp("k8s")
    with Node() as node, Servers(folder) as servers:
        load_images(node, folder)
        values = folder / "values.json"
        values.write_text(json.dumps(servers.values()), "utf-8")
        release = Release(node, [CHART / "values-small.yaml", values])
        release.prepare(servers.secrets())
        yield Life(node, servers, release)


def test_installs_and_records(life: Life, record_property: Note) -> None:
    """`helm install --wait` ends well under restricted pod security, and four cameras record."""
    began_us = CLOCK.now_us()
    took_s = life.release.deploy("install", IMAGE)
    life.release.add_user()
    for name in CAMERAS:
        watched = {"sample_fps": 2.0} if name == CAMERAS[0] else {}
        life.release.add_camera(name, life.servers.cameras.url(name), **watched)
    life.release.wait_recording(CAMERAS)
    until_sync(
        lambda: ledger.recorded_us(life.servers.settings).keys() == set(CAMERAS),
        DRAINED_WITHIN_S,
        "each camera's first recording is filed",
        every_s=1,
    )
    first = {name: ends[0] for name, ends in ledger.recorded_us(life.servers.settings).items()}
    record_property(
        "figure",
        f"helm install --wait {took_s:.0f} s; first recorded second "
        f"{(min(first.values()) - began_us) / SECOND_US:.0f} s, of every camera "
        f"{(max(first.values()) - began_us) / SECOND_US:.0f} s after its begin",
    )


def test_what_is_recorded_is_found_and_played(life: Life) -> None:
    """A person at cam-1, by the model that the image carries: a search, and the hit's clip."""
    found: list[dict[str, Any]] = []

    def searched() -> bool:
        with life.release.client() as client:
            params = {"class": "person", "camera": CAMERAS[0], "min_dwell_s": "2", **WHY}
            answer = client.get("/v1/sightings", params=params)
        assert answer.status_code == 200, answer.text
        found[:] = answer.json()["items"]
        return bool(found)

    until_sync(searched, 120, "a sighting is found", every_s=1)
    with life.release.client() as client:
        session = client.post("/v1/clip-sessions", json=found[0]["links"]["clip"]["body"])
        assert session.status_code == 201, session.text
        clip = client.get(session.json()["parts"][0]["url"])
    assert clip.status_code == 200, clip.text
    with av.open(io.BytesIO(clip.content)) as file:
        assert sum(1 for _ in file.decode(video=0)) > RATE_FPS


def test_helm_test_passes(life: Life) -> None:
    """The chart's own test, as an operator runs it after an install."""
    said = life.release.helm("test", RELEASE, "--timeout=120s")
    assert "Succeeded" in said


def test_an_upgrade_drops_nothing(life: Life, record_property: Note) -> None:
    """Another version under load: no request fails, no camera loses more than two seconds."""
    _roll(life, record_property, "upgrade", lambda: life.release.deploy("upgrade", NEXT_IMAGE))
    assert life.release.images() == {NEXT_IMAGE}


def test_a_rollback_drops_nothing(life: Life, record_property: Note) -> None:
    """And back to the version before, the same way."""
    _roll(life, record_property, "rollback", life.release.rollback)
    assert life.release.images() == {IMAGE}


def _roll(life: Life, record_property: Note, what: str, change: Callable[[], float]) -> None:
    since_us = CLOCK.now_us()
    with steady(f"{life.release.url}/v1/cameras?limit=10", life.release.headers) as asked:
        rest(2)
        took_s = change()
        life.release.wait_recording(CAMERAS)
        rest(2)
    life.mark(since_us)
    lost = life.lost(since_us)
    record_property(
        "figure",
        f"{what} {took_s:.0f} s; {asked.asked} requests, {len(asked.failed)} failed, slowest "
        f"{asked.slowest_s:.2f} s; lost at most {max(lost.values(), default=0.0):.2f} s a camera",
    )
    assert asked.asked >= took_s * RATE_HZ / 2, "the client was too slow to prove anything"
    assert not asked.failed, "\n".join(asked.failed[:20])
    assert all(seconds <= LOST_S for seconds in lost.values()), lost


def test_a_killed_recorder_is_replaced(life: Life, record_property: Note) -> None:
    """Its pod killed without a grace: each of its cameras is recorded again within 15 s."""
    states = life.release.states()
    victim = states[CAMERAS[0]][1]
    assert victim in {pod["metadata"]["name"] for pod in life.release.pods("recorder")}
    since_us = CLOCK.now_us()
    life.release.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
    life.mark(since_us)
    until_sync(life.release.recorders_ready, 120, "every recorder is ready again", every_s=0.5)
    life.release.wait_recording(CAMERAS)
    lost = life.lost(since_us - 5 * SECOND_US)
    longest_s = max(lost.values(), default=0.0)
    record_property("figure", f"recorder pod killed: at most {longest_s:.1f} s not recorded")
    assert longest_s <= TAKEN_OVER_WITHIN_S, lost


@pytest.mark.parametrize("name", ["kubelet", "containerd", "kube-proxy"])
def test_a_service_of_the_node_restarts_unnoticed(
    life: Life, name: str, record_property: Note
) -> None:
    """Pods live on, cameras are recorded, requests are answered."""
    before, since_us = life.release.containers(), CLOCK.now_us()
    with steady(f"{life.release.url}/v1/cameras?limit=10", life.release.headers) as asked:
        life.node.restart(name)
        until_sync(life.node.is_ready, 60, "the node is ready again", every_s=0.5)
        until_sync(life.release.all_ready, 60, "every pod is ready", every_s=0.5)
        rest(5)
    assert not asked.failed, "\n".join(asked.failed[:20])
    assert life.release.containers() == before, "no container was started again"
    lost = life.lost(since_us)
    record_property("figure", f"{name} restarted: {asked.asked} requests, lost {lost}")
    assert not any(lost.values()), lost


def test_in_the_end_nothing_is_missing_or_double(life: Life, record_property: Note) -> None:
    """The release removed; the cameras' own logs against rows, objects, events; `check`."""
    life.mark(CLOCK.now_us())
    life.release.kubectl("scale", "statefulset", "--all", "--replicas=0")
    # A recorder that is ending closes its segments and hands them in: only then is a look the last.
    ended = partial(life.release.gone, "recorder")
    until_sync(ended, ENDED_WITHIN_S, "every recorder has ended", every_s=1)
    until_sync(life.drained, DRAINED_WITHIN_S, "the backlog is drained", every_s=1)
    life.release.helm("uninstall", RELEASE, "--wait")
    kinds = "services,deployments,statefulsets,jobs,networkpolicies,poddisruptionbudgets"
    left = life.node.items(kinds, "--namespace", NAMESPACE)
    assert left == [], [f"{one['kind']} {one['metadata']['name']}" for one in left]
    # Helm does not wait for pods: one that is ending may still hand in what it has.
    until_sync(life.release.gone, ENDED_WITHIN_S, "every pod has ended", every_s=1)
    settings, sent = life.servers.settings, life.servers.folder / "sent"
    verdict = asyncio.run(judge(settings, sent, CAMERAS, life.marks, RATE_FPS))
    worst = max((loss.seconds for loss in verdict.losses), default=0.0)
    record_property(
        "figure",
        f"pictures sent {verdict.sent}, stored {verdict.stored}; most lost at once {worst:.1f} s",
    )
    assert verdict.stored > 0
    assert not verdict.wrong, "\n".join(verdict.wrong)
