"""The chart renders to what Kubernetes takes: every value set, and what is off by default."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart import rendered
from tests.support import helm_tools

pytestmark = [pytest.mark.servers, pytest.mark.chart]
EXAMPLES = sorted((helm_tools.CHART.parent / "examples").glob("*.yaml"))


@pytest.mark.parametrize("case", rendered.CASES)
def test_what_is_rendered_is_what_kubernetes_takes(case: str) -> None:
    assert helm_tools.conforms(rendered.text(case)) == ""


@pytest.mark.parametrize("values", ["values-dev.yaml", "values-small.yaml", "values-city.yaml"])
def test_helm_finds_nothing_to_complain_of(values: str) -> None:
    command = [helm_tools.helm(), "lint", "--strict", helm_tools.CHART, "--values"]
    done = subprocess.run(
        [*command, helm_tools.CHART / values], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_what_their_operators_take(path: Path) -> None:
    assert helm_tools.conforms(path.read_text("utf-8")) == ""


def test_the_checker_sees_a_wrong_key_a_wrong_kind_and_an_unknown_one() -> None:
    text = rendered.text("city")
    assert "podManagementPolicy" in helm_tools.conforms(
        text.replace("podManagementPolicy: Parallel", "podManagementPolicy: 1")
    )
    assert helm_tools.conforms(text.replace("minReplicaCount", "minReplicas"))
    assert helm_tools.conforms("apiVersion: v9\nkind: Nothing\nmetadata: {name: x}\n")


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        ((), "settings.kafka.servers"),
        (rendered.SERVERS[:1], "settings.postgres.host"),
        (rendered.SERVERS[:3], "secrets.postgres.existingSecret"),
        ((*rendered.SERVERS, "settings.kafka.sasl=PLAIN"), "secrets.kafka.existingSecret"),
        ((*rendered.SERVERS, "detect.autoscaling.enabled=true"), "detect.autoscaling.prometheus"),
        ((*rendered.SERVERS, "recorders.replicas=3"), "recorders"),
        ((*rendered.SERVERS, "settings.spool.max_byte=3"), "max_byte"),
        ((*rendered.SERVERS, "settings.retention.days=31"), "days"),
        ((*rendered.SERVERS, "settings.api.port=80"), "port"),
        ((*rendered.SERVERS, "monitoring.runbookBaseUrl=docs.example"), "runbookBaseUrl"),
        ((*rendered.SERVERS, "fullnameOverride=a-very-long-name-of-a-city"), "fullnameOverride"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(sets: tuple[str, ...], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        helm_tools.render(sets=sets)


def runbooks(*sets: str) -> set[str]:
    """Where each alert's page is said to be."""
    return {
        rule["annotations"]["runbook_url"]
        for one in helm_tools.template(
            "values-small.yaml", sets=("monitoring.rules.enabled=true", *sets)
        )
        if one["kind"] == "PrometheusRule"
        for group in one["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }


@pytest.mark.parametrize("base", ["https://docs.example/lamppost", "http://10.0.0.1:8080/a/"])
def test_runbooks_are_at_the_address_that_the_values_say(base: str) -> None:
    """By default the paths that they have in the repository."""
    paths = runbooks()
    assert len(paths) > 20 and all(path.startswith("docs/runbooks/") for path in paths)
    told = runbooks(f"monitoring.runbookBaseUrl={base}")
    assert told == {f"{base.rstrip('/')}/{path}" for path in paths}


def test_names_fit_whatever_the_release_is_called() -> None:
    for release in ("lamppost", "cameras", "test-release", "city-lamppost"):
        for one in helm_tools.template("values-small.yaml", release=release):
            if one["kind"] == "Deployment":
                name: Any = one["metadata"]
                assert len(name["name"] + "-7d9f8b6c5d-abcde") <= 40


def test_settings_come_through_as_they_were_written() -> None:
    from shared.settings import load

    ingest = next(one for one in rendered.containers("everything") if one.spec["name"] == "ingest")
    settings = load({**ingest.env, "LAMPPOST_INSTANCE": "lamppost-recorder-0"})
    assert settings.s3.capacity_bytes == 1_000_000_000_000_000, "no exponent"
    assert settings.kafka.servers == ("kafka-kafka-bootstrap:9093",) and settings.kafka.tls
    assert settings.ingest.rtsp_hosts == ("10.0.0.0/8",)
    assert settings.stores.bus_partitions == 64 and settings.kafka.min_in_sync == 2


def test_an_example_names_what_the_city_asks_for() -> None:
    """Hosts and Secrets of values-city.yaml are those that the examples make."""
    values = yaml.safe_load((helm_tools.CHART / "values-city.yaml").read_text("utf-8"))
    made = {
        (one["kind"], one["metadata"]["name"])
        for path in EXAMPLES
        for one in helm_tools.objects(path.read_text("utf-8"))
    }
    kafka = values["settings"]["kafka"]["servers"][0].split("-kafka-bootstrap")[0]
    assert ("Kafka", kafka) in made
    assert values["secrets"]["kafkaCa"]["existingSecret"] == f"{kafka}-cluster-ca-cert"
    assert ("KafkaUser", values["secrets"]["kafka"]["existingSecret"]) in made
    database = values["settings"]["postgres"]["host"].removesuffix("-rw")
    assert ("Cluster", database) in made
    assert values["secrets"]["postgres"]["existingSecret"] == f"{database}-app"
    assert values["secrets"]["postgresCa"]["existingSecret"] == f"{database}-ca"
    store = values["settings"]["s3"]["endpoint"].split("rook-ceph-rgw-")[1].split(".")[0]
    assert ("CephObjectStore", store) in made
