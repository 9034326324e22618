"""How the chart's workloads behave: updates, evictions, spreading, scaling."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.archive import boxes, index
from shared import messages, metrics
from shared.settings import load
from tests.chart import rendered
from tests.support import helm_tools

pytestmark = [pytest.mark.servers, pytest.mark.chart]


def recorder(case: str) -> dict[str, Any]:
    [found] = [
        one
        for one in rendered.of_kind(case, "StatefulSet")
        if one["metadata"]["name"].endswith("-recorder")
    ]
    return found


def container(case: str, name: str) -> rendered.Container:
    [found] = [one for one in rendered.containers(case) if one.spec["name"] == name]
    return found


def test_recorders_begin_together_and_are_updated_one_after_the_other() -> None:
    spec = recorder("city")["spec"]
    assert spec["podManagementPolicy"] == "Parallel"
    assert spec["updateStrategy"] == {"type": "RollingUpdate"}, "no partition, one at a time"
    assert spec["minReadySeconds"] > 0


def test_a_recorder_has_time_to_hand_over_and_to_store_what_it_filed() -> None:
    pod = recorder("small")["spec"]["template"]["spec"]
    settings = load({**container("small", "ingest").env, "LAMPPOST_INSTANCE": "x",
                     "LAMPPOST_INTERNAL__ADVERTISED": "x"})  # fmt: skip
    stop = container("small", "spool").spec["lifecycle"]["preStop"]["exec"]["command"]
    assert stop[:3] == ["lamppost", "drain", "--for"]
    waits_s = int(stop[3].removesuffix("s"))
    assert waits_s > settings.ingest.handover_s
    assert pod["terminationGracePeriodSeconds"] >= waits_s + 10


def test_both_containers_of_a_recorder_share_its_name_and_its_volume() -> None:
    ingest, spool = container("city", "ingest"), container("city", "spool")
    mounts = [
        [one["name"] for one in found.spec["volumeMounts"] if one["mountPath"].endswith("lamppost")]
        for found in (ingest, spool)
    ]
    assert mounts == [["spool"], ["spool"]]
    for name in ("LAMPPOST_INSTANCE", "LAMPPOST_STATE_DIR"):
        assert ingest.env.get(name) == spool.env.get(name)
    assert ingest.env["LAMPPOST_INSTANCE"] == "$metadata.name"


def test_others_find_a_recorder_by_a_name_that_its_service_has() -> None:
    [service] = [
        one
        for one in rendered.of_kind("city", "Service")
        if one["metadata"]["name"].endswith("-recorder")
    ]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"]
    assert recorder("city")["spec"]["serviceName"] == service["metadata"]["name"]
    advertised = container("city", "ingest").env["LAMPPOST_INTERNAL__ADVERTISED"]
    assert advertised == f"$(LAMPPOST_INSTANCE).{service['metadata']['name']}.cameras.svc"


def test_the_api_answers_until_every_proxy_knows_that_it_goes() -> None:
    assert container("city", "api").spec["lifecycle"] == {"preStop": {"sleep": {"seconds": 2}}}
    [api] = [
        one
        for one in rendered.of_kind("city", "Deployment")
        if one["metadata"]["name"].endswith("-api")
    ]
    assert api["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_every_workload_of_replicas_has_a_budget_that_lets_a_node_be_drained() -> None:
    budgets = {
        json.dumps(one["spec"]["selector"]["matchLabels"], sort_keys=True): one["spec"]
        for one in rendered.of_kind("everything", "PodDisruptionBudget")
    }
    for one in rendered.of_kind("everything", "StatefulSet", "Deployment"):
        spec = budgets[json.dumps(one["spec"]["selector"]["matchLabels"], sort_keys=True)]
        assert spec["maxUnavailable"] in (1, "25%"), one["metadata"]["name"]
        waits = spec["unhealthyPodEvictionPolicy"] == "IfHealthyBudget"
        assert waits == one["metadata"]["name"].endswith("-recorder")


@pytest.mark.parametrize("kind", ["StatefulSet", "Deployment"])
def test_replicas_are_spread_over_nodes_and_zones(kind: str) -> None:
    for one in rendered.of_kind("city", kind):
        spec = one["spec"]["template"]["spec"]
        found = {item["topologyKey"]: item for item in spec["topologySpreadConstraints"]}
        assert set(found) == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
        for item in found.values():
            assert item["labelSelector"]["matchLabels"] == one["spec"]["selector"]["matchLabels"]


def test_load_never_scales_recording() -> None:
    targets = {
        one["spec"]["scaleTargetRef"]["name"]: one["spec"]
        for one in rendered.of_kind("everything", "ScaledObject")
    }
    assert set(targets) == {"lamppost-detect", "lamppost-index"}
    assert not rendered.of_kind("everything", "HorizontalPodAutoscaler")
    scaled = {
        one["metadata"]["name"]: one["spec"] for one in rendered.of_kind("everything", "Deployment")
    }
    assert all("replicas" not in scaled[name] for name in targets), "helm would undo KEDA's work"
    assert "replicas" in recorder("everything")["spec"]


def test_keda_asks_for_groups_topics_and_metrics_that_there_are() -> None:
    [by_lag, by_load] = sorted(
        rendered.of_kind("city", "ScaledObject"),
        key=lambda one: one["metadata"]["name"],
        reverse=True,
    )
    asked = {
        (one["metadata"]["consumerGroup"], one["metadata"]["topic"])
        for one in by_lag["spec"]["triggers"]
    }
    assert asked == {
        (index.GROUP, messages.SIGHTINGS.name),
        (boxes.GROUP, messages.DETECTIONS.name),
    }
    queries = " ".join(one["metadata"]["query"] for one in by_load["spec"]["triggers"])
    for metric in (metrics.FRAMES_SKIPPED, metrics.FRAMES_RECEIVED, metrics.FRAME_AGE_SECONDS):
        assert metric.describe()[0].name in queries
    partitions = load({"LAMPPOST_STORES__BUS_PARTITIONS": "64"}).stores.bus_partitions
    assert by_load["spec"]["maxReplicaCount"] <= partitions


def test_a_gpu_is_asked_for_and_used() -> None:
    detect = container("everything", "detect")
    assert detect.spec["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert detect.env["LAMPPOST_DETECT__ADAPTER"] == "yolo"
    assert detect.pod.spec["runtimeClassName"] == "nvidia"
    assert detect.spec["image"].startswith("lamppost-detect-gpu:")


def test_what_an_upgrade_cannot_change_does_not_depend_on_the_values() -> None:
    """Selectors, names of volumes and services: one release's are the next one's."""

    def fixed(*sets: str) -> dict[str, Any]:
        return {
            f"{one['kind']}/{one['metadata']['name']}": (
                one["spec"]["selector"],
                one["spec"].get("serviceName"),
                one["spec"].get("podManagementPolicy"),
                [claim["metadata"] for claim in one["spec"].get("volumeClaimTemplates", [])],
            )
            for one in helm_tools.template("values-small.yaml", sets=sets)
            if one["kind"] in ("StatefulSet", "Deployment")
        }

    changed = fixed(
        "image.tag=9.9.9", "recorder.replicas=9", "podAnnotations.a=b", "settings.log.level=debug"
    )
    assert changed == fixed()


def test_the_rules_and_dashboards_of_the_project_are_all_there() -> None:
    files = helm_tools.CHART / "files"
    rules = rendered.of_kind("city", "PrometheusRule")
    assert len(rules) == len(list((files / "rules").glob("*.yaml"))) > 0
    dashboards = [
        one
        for one in rendered.of_kind("city", "ConfigMap")
        if "dashboard" in one["metadata"]["name"]
    ]
    assert len(dashboards) == len(list((files / "dashboards").glob("*.json"))) > 0
    for one in dashboards:
        [(name, text)] = one["data"].items()
        assert json.loads(text) == json.loads((files / "dashboards" / name).read_text("utf-8"))


def test_nothing_is_scraped_at_a_port_that_is_not_there() -> None:
    for case in ("city", "dev-open"):
        there = {
            port["name"] for one in rendered.containers(case) for port in one.spec.get("ports", [])
        }
        [monitor] = rendered.of_kind(case, "PodMonitor")
        scraped = {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]}
        assert scraped <= there
        metered = {port for port in there if port.startswith("metrics")} or {"http"}
        assert scraped == metered
