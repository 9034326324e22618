"""An installation by the chart, driven as its operator would: helm, kubectl, the api's Service."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2

from shared.clock import SECOND_US, SystemClock
from tests.support.helm_tools import CHART, helm
from tests.support.kubernetes.node import Node
from tests.support.servers.process import run
from tests.support.wait import until_sync

CLOCK = SystemClock()
NAMESPACE = "cameras"
RELEASE = "lamppost"
API_PORT = 8600
WHY = {"purpose": "crime_investigation", "case_ref": "K8S-1"}
RECORDING_WITHIN_S = 90.0
WAIT_S = 300


class Release:
    """The chart in one namespace. `values` are files, the last wins."""

    def __init__(self, node: Node, values: Sequence[Path]) -> None:
        self.node, self.helm_program, self.values = node, helm(), tuple(values)
        self.key = ""

    def prepare(self, secrets: Mapping[str, Mapping[str, str]]) -> None:
        """The namespace, where only restricted pods are let in, and the Secrets in it."""
        namespace = _object("Namespace", NAMESPACE)
        namespace["metadata"]["labels"] = {"pod-security.kubernetes.io/enforce": "restricted"}
        made = [{**_object("Secret", name), "stringData": dict(d)} for name, d in secrets.items()]
        self.node.apply("\n---\n".join(map(json.dumps, (namespace, *made))))

    # -- the operator's programs

    def helm(self, *arguments: str, timeout_s: float = WAIT_S + 60) -> str:
        command: list[str | Path] = [self.helm_program, "--namespace", NAMESPACE, *arguments]
        try:
            return run(command, timeout_s=timeout_s, env=self.node.environment())
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.state()}") from None

    def deploy(self, verb: str, image: str) -> float:
        """`install` or `upgrade` with this image, waited for; the seconds that it took."""
        repository, tag = image.rsplit(":", 1)
        files = [word for file in self.values for word in ("--values", str(file))]
        chosen = ["--set", f"image.repository={repository}", "--set-string", f"image.tag={tag}"]
        return self._timed(verb, RELEASE, str(CHART), *files, *chosen, *self._waiting())

    def rollback(self) -> float:
        """To the revision before."""
        return self._timed("rollback", RELEASE, *self._waiting())

    def _timed(self, *arguments: str) -> float:
        began_us = CLOCK.now_us()
        self.helm(*arguments)
        return (CLOCK.now_us() - began_us) / SECOND_US

    @staticmethod
    def _waiting() -> tuple[str, ...]:
        return ("--wait", "--wait-for-jobs", f"--timeout={WAIT_S}s")

    def kubectl(self, *arguments: str, given: str | None = None, timeout_s: float = 60) -> str:
        words = ("--namespace", NAMESPACE, *arguments)
        return self.node.kubectl(*words, given=given, timeout_s=timeout_s)

    def pods(self, component: str = "") -> list[dict[str, Any]]:
        """Of one workload, or of all; those on their way out, and those done, left out."""
        return [pod for pod in self._every_pod(component) if _stays(pod)]

    def _every_pod(self, component: str) -> list[dict[str, Any]]:
        wanted = f"app.kubernetes.io/instance={RELEASE}"
        wanted += f",app.kubernetes.io/component={component}" if component else ""
        return self.node.items("pods", "--namespace", NAMESPACE, "--selector", wanted)

    def gone(self, component: str = "") -> bool:
        """No pod is left that could still write: none runs, none is on its way out."""
        done = ("Succeeded", "Failed")
        return all(pod["status"]["phase"] in done for pod in self._every_pod(component))

    def inside(self, component: str, *command: str, given: str | None = None) -> str:
        """A command in the first pod of a workload."""
        pod = self.pods(component)[0]["metadata"]["name"]
        return self.kubectl("exec", "-i", pod, "--", *command, given=given or "", timeout_s=120)

    def state(self) -> str:
        """What an operator would look at when it does not come up."""
        parts = [self._try("get", "pods", "-o", "wide"), self._try("get", "events")[-3000:]]
        for pod in self.pods():
            ready = all(one["ready"] for one in pod["status"].get("containerStatuses", []))
            if not ready:
                name = pod["metadata"]["name"]
                parts.append(self._try("logs", name, "--all-containers", "--tail=15"))
        return "\n".join(parts)

    def _try(self, *arguments: str) -> str:
        try:
            return self.kubectl(*arguments)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            return f"{error}"

    def images(self) -> set[str]:
        """What every pod of the release runs."""
        return {one["image"] for pod in self.pods() for one in pod["spec"]["containers"]}

    def all_ready(self) -> bool:
        return all(_is_ready(pod) for pod in self.pods())

    def recorders_ready(self) -> bool:
        wanted = self.node.get("statefulset", f"{RELEASE}-recorder", "-n", NAMESPACE)
        found = self.pods("recorder")
        return len(found) == wanted["spec"]["replicas"] and all(map(_is_ready, found))

    def containers(self) -> set[str]:
        """The identity of each running container: another one after each start."""
        return {
            one["containerID"] for pod in self.pods() for one in pod["status"]["containerStatuses"]
        }

    # -- the api, through its Service

    @property
    def url(self) -> str:
        service = self.node.get("service", f"{RELEASE}-api", "--namespace", NAMESPACE)
        return f"http://{service['spec']['clusterIP']}:{API_PORT}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def client(self) -> httpx2.Client:
        """Of a person who may do everything."""
        return httpx2.Client(base_url=self.url, headers=self.headers, timeout=30, trust_env=False)

    def add_user(self) -> None:
        """The first person and their key, by the command line in a pod of the api."""
        self.inside("api", "lamppost", "user", "add", "tester", "--all-roles", given="not secret\n")
        made = self.inside("api", "lamppost", "key", "create", "tester", "--json")
        self.key = str(json.loads(made)["key"])

    def add_camera(self, name: str, url: str, **more: Any) -> None:
        body = {"id": name, "name": name, "source": {"url": url}, **more}
        with self.client() as client:
            answer = client.post("/v1/cameras", json=body)
        assert answer.status_code == 201, f"{name}: {answer.status_code} {answer.text}"

    def states(self) -> dict[str, tuple[str, str]]:
        """Each camera's state and recorder."""
        with self.client() as client:
            answer = client.get("/v1/cameras", params={"limit": 200})
        assert answer.status_code == 200, answer.text
        return {
            item["id"]: (item["state"]["state"], item["state"]["recorder"])
            for item in answer.json()["items"]
        }

    def wait_recording(self, cameras: Sequence[str], timeout_s: float = RECORDING_WITHIN_S) -> None:
        """Until each of them is recorded."""

        def recording() -> bool:
            states = self.states()
            return all(states.get(name, ("", ""))[0] == "recording" for name in cameras)

        until_sync(recording, timeout_s, "every camera is recorded", every_s=0.25)


def _object(kind: str, name: str) -> dict[str, Any]:
    place = {} if kind == "Namespace" else {"namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, **place}}


def _stays(pod: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] != "Succeeded"


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
