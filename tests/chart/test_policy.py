"""What is demanded of every pod and container: no rights, no surprises, and probes that differ."""

from __future__ import annotations

import re

import pytest

from shared.settings import NOT_SETTINGS, load
from tests.chart import rendered
from tests.chart.rendered import Container, Pod

pytestmark = [pytest.mark.servers, pytest.mark.chart]
CASES = tuple(rendered.CASES)
OWN_FIELDS = {"$metadata.name": "lamppost-x-0", "$status.podIP": "10.1.2.3"}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _wrong(case: str, fine: object) -> list[str]:
    assert callable(fine)
    return [one.name for one in rendered.containers(case) if not fine(one)]


def test_every_container_has_requests_and_limits_of_both(case: str) -> None:
    def fine(one: Container) -> bool:
        found = one.spec["resources"]
        return all({"cpu", "memory"} <= set(found[word]) for word in ("requests", "limits"))

    assert _wrong(case, fine) == []


def test_no_container_has_any_right(case: str) -> None:
    def fine(one: Container) -> bool:
        context = one.spec["securityContext"]
        return (
            context["allowPrivilegeEscalation"] is False
            and context["readOnlyRootFilesystem"] is True
            and context["capabilities"] == {"drop": ["ALL"]}
            and not context.get("privileged")
        )

    assert _wrong(case, fine) == []


def test_every_pod_meets_the_restricted_standard_and_has_no_token(case: str) -> None:
    def fine(pod: Pod) -> bool:
        context = pod.spec["securityContext"]
        return (
            context["runAsNonRoot"] is True
            and context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == 10001
            and context["seccompProfile"] == {"type": "RuntimeDefault"}
            and pod.spec["automountServiceAccountToken"] is False
            and not {"hostNetwork", "hostPID", "hostIPC"} & set(pod.spec)
            and not any("hostPath" in volume for volume in pod.spec["volumes"] or ())
        )

    found = [pod for pod in rendered.pods(case) if pod.component != "test"]
    assert [pod.name for pod in found if not fine(pod)] == []


def test_images_have_a_version_or_a_digest(case: str) -> None:
    def fine(one: Container) -> bool:
        return bool(re.search(r"(:\d+\.\d+\.\d+|@sha256:[0-9a-f]{64})$", one.spec["image"]))

    assert _wrong(case, fine) == []


def test_long_running_containers_are_asked_three_different_questions(case: str) -> None:
    def fine(one: Container) -> bool:
        if one.pod.owner["kind"] in ("Job", "Pod"):
            return True
        probes = [one.spec[f"{word}Probe"] for word in ("startup", "liveness", "readiness")]
        asked = [(probe["httpGet"]["path"], probe["httpGet"]["port"]) for probe in probes]
        named = {port["name"] for port in one.spec["ports"]}
        return (
            [path for path, _ in asked] == ["/startupz", "/healthz", "/readyz"]
            and {port for _, port in asked} <= named
            and probes[1]["failureThreshold"] * probes[1]["periodSeconds"] >= 60
        )

    assert _wrong(case, fine) == []


def test_ports_of_a_pod_differ_in_name_and_number(case: str) -> None:
    for pod in rendered.pods(case):
        ports = [port for one in pod.spec["containers"] for port in one.get("ports", [])]
        assert len({port["name"] for port in ports}) == len(ports), pod.name
        assert len({port["containerPort"] for port in ports}) == len(ports), pod.name


def test_every_variable_is_a_setting_and_together_they_are_settings(case: str) -> None:
    for one in rendered.containers(case):
        env = {
            name: OWN_FIELDS.get(value, value)
            for name, value in one.env.items()
            if name.startswith("LAMPPOST_")
        }
        assert not set(env) & NOT_SETTINGS, one.name
        load(env)  # INVALID names an unknown one
        assert len(one.spec.get("env", [])) == len(one.env), f"{one.name}: one is there twice"


def test_mounts_and_volumes_match(case: str) -> None:
    for pod in rendered.pods(case):
        claims = pod.owner["spec"].get("volumeClaimTemplates", [])
        there = {one["name"] for one in pod.spec.get("volumes") or ()}
        there |= {one["metadata"]["name"] for one in claims}
        used = {m["name"] for one in pod.spec["containers"] for m in one.get("volumeMounts", [])}
        assert used == there, pod.name


def test_files_that_settings_name_are_mounted_and_no_other_credential_is(case: str) -> None:
    for one in rendered.containers(case):
        volumes = {volume["name"]: volume for volume in one.pod.spec.get("volumes") or ()}
        there = {
            item["path"]
            for mount in one.spec.get("volumeMounts", [])
            if mount["mountPath"] == "/etc/lamppost/secrets"
            for source in volumes[mount["name"]]["projected"]["sources"]
            for item in source["secret"]["items"]
        }
        prefix = "/etc/lamppost/secrets/"
        named = {v.removeprefix(prefix) for v in one.env.values() if v.startswith(prefix)}
        assert named == there, one.name


@pytest.mark.parametrize(
    ("container", "has_not"),
    [
        ("ingest", ("postgres", "s3")),
        ("detect", ("postgres", "s3", "cameras")),
        ("api", ("cameras", "mqtt")),
        ("spool", ("internal", "cameras")),
        ("retention", ("internal", "cameras")),
    ],
)
def test_a_process_has_no_credential_that_it_does_not_need(
    container: str, has_not: tuple[str, ...]
) -> None:
    [one] = [one for one in rendered.containers("everything") if one.spec["name"] == container]
    named = " ".join(mount["mountPath"] for mount in one.spec["volumeMounts"])
    named += " ".join(one.env.values())
    assert not [word for word in has_not if f"/{word}" in named]


def test_the_authority_of_receivers_is_known_to_who_sends_to_them() -> None:
    """The relay sends events, and the api the event of a test."""
    name, path = "LAMPPOST_RELAY__WEBHOOK_CA_FILE", "/etc/lamppost/secrets/webhook.ca.pem"
    told = {one.spec["name"]: one.env.get(name) for one in rendered.containers("everything")}
    assert {who for who, file in told.items() if file is not None} == {"api", "relay"}
    assert told["api"] == told["relay"] == path
    for one in rendered.containers("everything"):
        if one.spec["name"] in ("api", "relay"):
            [source] = [
                source["secret"]
                for volume in one.pod.spec["volumes"]
                for source in volume.get("projected", {}).get("sources", [])
                if source["secret"]["items"][0]["path"] == "webhook.ca.pem"
            ]
            assert source["name"] == "receivers"
            assert source["items"][0]["key"] == "bundle.pem"
    assert all(name not in one.env for one in rendered.containers("relaying"))


def test_recording_outlives_analysis() -> None:
    values = {
        one["metadata"]["name"].removeprefix("lamppost-"): one["value"]
        for one in rendered.of_kind("city", "PriorityClass")
    }
    assert values["recording"] > values["serving"] > values["analysis"]
    classes = {pod.component: pod.spec.get("priorityClassName") for pod in rendered.pods("city")}
    assert classes["recorder"] == "lamppost-recording" and classes["detect"] == "lamppost-analysis"
    assert all(classes[name] == "lamppost-serving" for name in ("api", "index", "retention"))


def test_hooks_need_nothing_that_the_chart_makes() -> None:
    """They run before it is there, at the first install."""
    made = {one["metadata"]["name"] for one in rendered.of_kind("everything", "Secret")}
    [job] = [pod for pod in rendered.pods("everything") if pod.component == "migrate"]
    assert job.owner["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert job.spec["serviceAccountName"] == "default" and "priorityClassName" not in job.spec
    secrets = {
        source["secret"]["name"]
        for volume in job.spec["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
    }
    assert secrets and not secrets & made
