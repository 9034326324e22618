"""The `city` set on forty pretended nodes of three zones: what the real scheduler makes of it.

Spread, budgets and priorities are only as good as the scheduler's reading of them. kwok pretends
the nodes; API, controllers and scheduler are the real ones (tests/support/kubernetes/kwok.py).
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from shared.clock import SystemClock
from tests.k8s.release import NAMESPACE, RELEASE
from tests.support.helm_tools import template
from tests.support.kubernetes.kwok import ZONE, Pretended
from tests.support.wait import until_sync

pytestmark = [pytest.mark.servers, pytest.mark.long, pytest.mark.k8s, pytest.mark.timeout(600)]

CLOCK = SystemClock()
NODES, ZONES = 40, ("a", "b", "c")
ROOM = {"cpu": "16", "memory": "64Gi", "ephemeral-storage": "500Gi", "nvidia.com/gpu": "1"}
PLACED_WITHIN_S = 120.0
TOO_MANY = 429
Item = dict[str, Any]


class City:
    """The rendered set as it stands in the pretended cluster."""

    def __init__(self, plane: Pretended, rendered: list[Item]) -> None:
        self.plane, self.rendered = plane, rendered

    def of_kind(self, kind: str) -> list[Item]:
        return [item for item in self.rendered if item["kind"] == kind]

    def items(self, kind: str, *more: str) -> list[Item]:
        return self.plane.items(kind, "--namespace", NAMESPACE, *more)

    def pods(self, component: str = "") -> list[Item]:
        """Living ones, of one workload or of all."""
        wanted = f"app.kubernetes.io/instance={RELEASE}"
        wanted += f",app.kubernetes.io/component={component}" if component else ""
        found = self.items("pods", "--selector", wanted)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def zones(self) -> dict[str, str]:
        nodes = self.plane.items("nodes")
        return {node["metadata"]["name"]: node["metadata"]["labels"][ZONE] for node in nodes}

    def workloads(self) -> list[Item]:
        return self.items("deployments") + self.items("statefulsets")

    def settled(self) -> bool:
        """Every wanted replica runs."""
        return all(
            item["status"].get("readyReplicas", 0) == item["spec"]["replicas"]
            for item in self.workloads()
        )

    def evict(self, pod: str) -> int:
        """Ask as a drain does; the status of the answer."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": NAMESPACE},
        }
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
        with self.plane.client() as client:
            return client.post(path, json=body).status_code


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Iterator[City]:
    """Everything of the set whose kind the API knows, placed."""
    with Pretended(tmp_path_factory.mktemp("kwok")) as plane:
        plane.add_nodes(NODES, ZONES, ROOM)
        plane.kubectl("create", "namespace", NAMESPACE)
        known = _kinds(plane)
        everything: list[Item] = template("values-city.yaml", release=RELEASE)
        wanted = [
            item
            for item in everything
            if (item["apiVersion"], item["kind"]) in known and not _is_hook(item)
        ]
        volumes = [_volume(number, claim) for number, claim in enumerate(_claims(wanted), 1)]
        plane.apply("\n---\n".join(map(json.dumps, [*volumes, *wanted])))
        for item in everything:
            if item["kind"] == "ScaledObject":
                _scale_up(plane, item["spec"])
        found = City(plane, wanted)
        until_sync(found.settled, PLACED_WITHIN_S, "every replica is placed", every_s=1)
        yield found


def _is_hook(item: Item) -> bool:
    """Helm runs these by themselves, before or after the rest."""
    return "helm.sh/hook" in item["metadata"].get("annotations", {})


def _scale_up(plane: Pretended, scaled: Item) -> None:
    """As far as KEDA may: the largest that the set can become must find room too."""
    name = scaled["scaleTargetRef"]["name"]
    replicas = f"--replicas={scaled['maxReplicaCount']}"
    plane.kubectl("scale", "deployment", name, replicas, "--namespace", NAMESPACE)


def _kinds(plane: Pretended) -> set[tuple[str, str]]:
    """Version and kind of whatever may be applied; a kind of an operator is not among them."""
    lines = plane.kubectl("api-resources", "--no-headers").splitlines()
    return {(words[-3], words[-1]) for line in lines if len(words := line.split()) >= 4}


def _claims(items: list[Item]) -> Iterator[Item]:
    """What will be asked of storage: each replica's own claims, and those that stand alone."""
    for item in items:
        if item["kind"] == "PersistentVolumeClaim":
            yield item["spec"]
        elif item["kind"] == "StatefulSet":
            for claim in item["spec"].get("volumeClaimTemplates", []):
                yield from [claim["spec"]] * (item["spec"]["replicas"] + 1)


def _volume(number: int, claim: Item) -> Item:
    """A volume that any node reaches, for one claim."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"volume-{number}"},
        "spec": {
            "capacity": {"storage": claim["resources"]["requests"]["storage"]},
            "accessModes": claim["accessModes"],
            "storageClassName": claim.get("storageClassName", ""),
            "hostPath": {"path": f"/pretended/{number}"},
        },
    }


def test_hard_spread_holds(city: City) -> None:
    """No constraint that must hold is broken, and no service stands in one zone or on one node."""
    zones = city.zones()
    for workload in city.workloads():
        name, component = _names(workload)
        nodes = [pod["spec"]["nodeName"] for pod in city.pods(component)]
        assert len(nodes) == workload["spec"]["replicas"], name
        if len(nodes) > 1:
            assert len(set(nodes)) > 1, f"{name}: all on {nodes[0]}"
            assert len({zones[node] for node in nodes}) > 1, f"{name}: all in one zone"
        assert broken(workload, nodes, zones) == [], name


def _names(workload: Item) -> tuple[str, str]:
    labels = workload["spec"]["template"]["metadata"]["labels"]
    return workload["metadata"]["name"], labels["app.kubernetes.io/component"]


def broken(workload: Item, nodes: list[str], zones: dict[str, str]) -> list[str]:
    """Constraints of a workload that its pods' nodes break, although they are hard."""
    found = []
    for rule in workload["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
        if rule["whenUnsatisfiable"] != "DoNotSchedule":
            continue
        domain = zones if rule["topologyKey"] == ZONE else {node: node for node in zones}
        counts = Counter(dict.fromkeys(domain.values(), 0))
        counts.update(domain[node] for node in nodes)
        if max(counts.values()) - min(counts.values()) > rule["maxSkew"]:
            found.append(f"{rule['topologyKey']}: {dict(counts)}")
    return found


def test_no_two_recorders_share_a_node(city: City) -> None:
    """A node that goes takes one recorder's cameras with it, not two's."""
    nodes = Counter(pod["spec"]["nodeName"] for pod in city.pods("recorder"))
    assert nodes and max(nodes.values()) == 1, nodes


def test_recording_comes_before_analysis(city: City) -> None:
    """The API turned the classes into numbers: who gives way when a node is full."""

    def priorities(component: str) -> set[int]:
        return {pod["spec"].get("priority", 0) for pod in city.pods(component)}

    assert min(priorities("recorder")) > max(priorities("detect"))


def test_a_budget_refuses_what_would_be_too_much(city: City) -> None:
    """With no node to go to, evictions of each service are allowed once and then refused."""
    names = [f"node-{number}" for number in range(1, NODES + 1)]
    city.plane.kubectl("cordon", *names)
    try:
        for workload in city.workloads():
            name, component = _names(workload)
            if workload["spec"]["replicas"] < 2:
                continue
            answers = [city.evict(pod["metadata"]["name"]) for pod in city.pods(component)]
            assert TOO_MANY in answers, f"{name}: every eviction was allowed: {answers}"
            allowed = [answer for answer in answers if answer != TOO_MANY]
            assert allowed, f"{name}: no eviction is ever allowed, so no node can be drained"
    finally:
        city.plane.kubectl("uncordon", *names)
    until_sync(city.settled, PLACED_WITHIN_S, "every replica is placed again", every_s=1)


def test_a_drain_keeps_to_the_budgets(city: City, record_property: object) -> None:
    """A node with a recorder is emptied; at no moment is a budget broken."""
    node = city.pods("recorder")[0]["spec"]["nodeName"]
    there = [pod for pod in city.pods() if pod["spec"]["nodeName"] == node]
    ended, broken_budgets = threading.Event(), list[str]()
    watcher = threading.Thread(target=_watch, args=(city, ended, broken_budgets), daemon=True)
    watcher.start()
    try:
        words = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s")
        city.plane.kubectl("drain", node, *words, timeout_s=150)
        until_sync(city.settled, PLACED_WITHIN_S, "every replica is placed again", every_s=1)
    finally:
        ended.set()
        watcher.join(30)
        city.plane.kubectl("uncordon", node)
    assert broken_budgets == []
    assert not [pod for pod in city.pods() if pod["spec"]["nodeName"] == node]
    record_property("figure", f"{len(there)} pods drained from {node}")  # type: ignore[operator]


def _watch(city: City, ended: threading.Event, broken_budgets: list[str]) -> None:
    """Note each budget that is broken at any look."""
    while not CLOCK.wait(ended, 0.2):
        for budget in city.items("poddisruptionbudgets"):
            status = budget["status"]
            if status["currentHealthy"] < status["desiredHealthy"]:
                broken_budgets.append(f"{budget['metadata']['name']}: {status}")
