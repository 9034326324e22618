"""The chart as rendered, for the tests of it: each value set, and what is off by default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from tests.support import helm_tools

SERVERS = ("settings.kafka.servers=[\"kafka:9092\"]", "settings.postgres.host=db",
           "settings.s3.endpoint=http://s3:8333", "secrets.postgres.existingSecret=db",
           "secrets.s3.existingSecret=s3")  # fmt: skip


class Case(NamedTuple):
    """Value files and single values."""

    values: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()


CASES = {
    "dev": Case(("values-dev.yaml",)),
    "small": Case(("values-small.yaml",)),
    "city": Case(("values-city.yaml",)),
    "relaying": Case(
        ("values-small.yaml",),
        ('settings.relay.webhook_hosts=["hooks.example"]', "settings.relay.mqtt_host=mqtt"),
    ),
    "least": Case((), SERVERS),
    "everything": Case(
        ("values-city.yaml",),
        (
            "detect.gpu.enabled=true",
            "detect.gpu.runtimeClassName=nvidia",
            "ingress.enabled=true",
            "ingress.tlsSecret=tls",
            "ingress.className=traefik",
            "monitoring.serviceMonitor.enabled=true",
            "monitoring.labels.release=prometheus",
            "monitoring.rules.enabled=true",
            "monitoring.runbookBaseUrl=https://docs.example/lamppost/",
            'settings.relay.webhook_hosts=["hooks.example"]',
            "settings.relay.mqtt_host=mqtt",
            "settings.ingest.rtsp_hosts=[\"10.0.0.0/8\"]",
            "settings.tracing.endpoint=http://otel:4318",
            "secrets.mqtt.existingSecret=mqtt",
            "secrets.mqttCa.existingSecret=mqtt",
            "secrets.webhookCa.existingSecret=receivers",
            "secrets.webhookCa.key=bundle.pem",
            "secrets.camerasCa.existingSecret=cameras-ca",
            "image.digest=sha256:" + "0" * 64,
            "recorder.spool.storageClass=local",
            "podAnnotations.a=b",
            'extraEnv=[{"name":"TZ","value":"UTC"}]',
        ),
    ),
    "dev-open": Case(
        ("values-dev.yaml",),
        ("ingress.enabled=true", "monitoring.podMonitor.enabled=true",
         "monitoring.serviceMonitor.enabled=true", "secrets.cameras.existingSecret=cameras"),
    ),
}  # fmt: skip


@cache
def text(case: str) -> str:
    """The manifests of a case."""
    found = CASES[case]
    return helm_tools.render(*found.values, sets=found.sets)


@cache
def objects(case: str) -> tuple[dict[str, Any], ...]:
    """The same as values."""
    return tuple(helm_tools.objects(text(case)))


def of_kind(case: str, *kinds: str) -> list[dict[str, Any]]:
    return [one for one in objects(case) if one["kind"] in kinds]


def pod_of(one: Mapping[str, Any]) -> dict[str, Any] | None:
    """The pod that an object makes, as metadata and spec."""
    if one["kind"] == "Pod":
        return dict(one)
    return one["spec"]["template"] if "template" in one.get("spec", {}) else None


class Pod(NamedTuple):
    """A workload and the pod that it makes."""

    name: str
    component: str
    owner: dict[str, Any]
    spec: dict[str, Any]


def pods(case: str) -> Iterator[Pod]:
    for one in objects(case):
        if (pod := pod_of(one)) is not None:
            labels = pod["metadata"].get("labels") or {}
            component = labels.get("app.kubernetes.io/component", "")
            name = f"{one['kind']}/{one['metadata']['name']}"
            yield Pod(name, component, one, pod["spec"])


class Container(NamedTuple):
    """One container of a pod."""

    name: str
    pod: Pod
    spec: dict[str, Any]

    @property
    def env(self) -> dict[str, str]:
        """Its environment, references as `$FIELD`."""
        return {
            one["name"]: one.get("value", "$" + one.get("valueFrom", {}).get("fieldRef", {}).get(
                "fieldPath", ""))
            for one in self.spec.get("env", [])
        }  # fmt: skip


def containers(case: str) -> Iterator[Container]:
    for pod in pods(case):
        assert "initContainers" not in pod.spec
        for spec in pod.spec["containers"]:
            yield Container(f"{pod.name}/{spec['name']}", pod, spec)
