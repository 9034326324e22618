"""The rendered network policies allow what the services do, and nothing else.

No cluster enforces them in these tests: they are read as Kubernetes reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
import yaml

from services import one
from tests.chart import rendered
from tests.support.helm_tools import CHART

pytestmark = [pytest.mark.servers, pytest.mark.chart]
CASES = ("city", "everything", "dev", "small")
NAMES = {"app.kubernetes.io/name": "lamppost", "app.kubernetes.io/instance": "lamppost"}
STRANGER = {"app": "stranger"}
OUTSIDE = {
    "kafka": 9093, "postgres": 5432, "s3": 443, "cameras": 554, "mqtt": 1883, "webhooks": 443,
    "collector": 4318,
}  # fmt: skip


def labels_of(component: str) -> dict[str, str]:
    return {**NAMES, "app.kubernetes.io/component": component}


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in selector["matchLabels"].items())


def rules(case: str, component: str, way: str) -> Iterator[dict[str, Any]]:
    """What policies allow the pods of a component in one direction. At least one must select them,
    or everything is allowed."""
    found = [
        policy["spec"]
        for policy in rendered.of_kind(case, "NetworkPolicy")
        if selects(policy["spec"]["podSelector"], labels_of(component))
    ]
    assert found and all(way.title() in spec["policyTypes"] for spec in found), component
    for spec in found:
        yield from spec.get(way) or ()


def allows(rule: Mapping[str, Any], peers: str, labels: Mapping[str, str], port: str | int) -> bool:
    """Whether a rule lets pods of this namespace with these labels use the port."""
    if port not in [one["port"] for one in rule["ports"]]:
        return False
    if peers not in rule:
        return True
    return any(
        "podSelector" in peer
        and "namespaceSelector" not in peer
        and selects(peer["podSelector"], labels)
        for peer in rule[peers]
    )


class Listener(NamedTuple):
    component: str
    port: str


def components(case: str) -> set[str]:
    return {pod.component for pod in rendered.pods(case)}


def listeners(case: str) -> set[Listener]:
    return {
        Listener(container.pod.component, port["name"])
        for container in rendered.containers(case)
        for port in container.spec.get("ports", ())
    }


def table() -> list[dict[str, str]]:
    found: list[dict[str, str]] = yaml.safe_load((CHART / "files" / "connections.yaml").read_text())
    return found


@pytest.mark.parametrize("case", CASES)
def test_inside_exactly_the_tables_connections_are_allowed(case: str) -> None:
    wanted = {(line["from"], line["to"], line.get("port")) for line in table()}
    for source in components(case):
        for target in listeners(case):
            out = any(
                allows(rule, "to", labels_of(target.component), target.port)
                for rule in rules(case, source, "egress")
            )
            into = any(
                allows(rule, "from", labels_of(source), target.port)
                for rule in rules(case, target.component, "ingress")
                if "from" in rule
            )
            expected = (source, *target) in wanted
            assert (out, into) == (expected, expected), (source, target)


@pytest.mark.parametrize("case", CASES)
def test_strangers_reach_only_the_api_and_the_metrics(case: str) -> None:
    for target in listeners(case):
        open_to_all = any(
            allows(rule, "from", STRANGER, target.port)
            for rule in rules(case, target.component, "ingress")
        )
        assert open_to_all <= (target.port in ("http", "metrics", "metrics-spool")), target
        assert target.port != "internal" or not open_to_all


def _outside(case: str, component: str) -> set[int]:
    """The numbers of ports outside that a component may use."""
    return {
        port["port"]
        for rule in rules(case, component, "egress")
        for port in rule["ports"]
        if isinstance(port["port"], int) and port["port"] != 53
    }


def test_outside_each_reaches_what_its_process_opens() -> None:
    """The list comes from the processes: their credentials say which server they use."""
    for component in components("everything") - {"test"}:
        mine = [c for c in rendered.containers("everything") if c.pod.component == component]
        env = {name for container in mine for name in container.env}
        wanted = {OUTSIDE["kafka"]} | ({OUTSIDE["collector"]} if component != "migrate" else set())
        if "LAMPPOST_POSTGRES__PASSWORD_FILE" in env:
            wanted.add(OUTSIDE["postgres"])
        if "LAMPPOST_S3__ACCESS_KEY_FILE" in env:
            wanted.add(OUTSIDE["s3"])
        if "LAMPPOST_INGEST__SECRETS_DIR" in env:
            wanted |= {554, 322}
        if component == "relay":
            wanted |= {OUTSIDE["mqtt"], OUTSIDE["webhooks"]}
        if component == "api":  # It sends a receiver the event of its test.
            wanted.add(OUTSIDE["webhooks"])
        assert _outside("everything", component) == wanted, component


def test_who_has_no_database_in_the_code_has_none_here() -> None:
    """services/one.py opens neither database nor object store for its `CHILDREN`."""
    storeless = {container.spec["name"] for container in rendered.containers("city")
                 if container.spec["args"][:1] == ["run"]
                 and "LAMPPOST_POSTGRES__PASSWORD_FILE" not in container.env}  # fmt: skip
    assert storeless == set(one.CHILDREN)
    assert 5432 not in _outside("city", "detect") and 443 not in _outside("city", "detect")


def test_a_port_follows_from_the_settings() -> None:
    assert _outside("small", "detect") == {9092}
    assert _outside("small", "index") == {9092, 5432, 8333}
    assert _outside("dev", "all") == {554, 8554}


def test_receivers_are_reached_where_there_are_any() -> None:
    """By the relay, and by the api, which sends a receiver the event of its test."""
    for component, more in (("api", set()), ("relay", {1883})):
        assert _outside("relaying", component) == {9092, 5432, 8333, 443} | more
    assert _outside("small", "api") == {9092, 5432, 8333}


def test_peers_narrow_what_is_outside() -> None:
    for rule in rules("city", "index", "egress"):
        ports = [port["port"] for port in rule["ports"]]
        assert 53 in ports or rule["to"], "the city names everybody"
    assert not any(
        allows(rule, "to", STRANGER, OUTSIDE["kafka"]) for rule in rules("city", "index", "egress")
    )
