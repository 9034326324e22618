"""Every container of the chart starts in the image as it is rendered: command, environment, mounts,
rights. Servers are not there: what waits for them must live, and say what it waits for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chart import rendered
from tests.support.containers.engine import IMAGE, Container, Engine
from tests.support.wait import until_sync

FIELDS = {"metadata.name": "lamppost-recorder-0", "status.podIP": "127.0.0.1"}
SECRET = "no-secret-and-more-than-thirty-two-characters"
GROUP = 10001
STARTS_WITHIN_S, ENDS_WITHIN_S = 120.0, 40
ASKING = """\
import sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(sys.argv[1], timeout=10)
except urllib.error.HTTPError as error:
    answer = error
except OSError:
    sys.exit("0")
print(answer.status, answer.read().decode())
"""


def containers(case: str) -> list[rendered.Container]:
    return [one for one in rendered.containers(case) if one.pod.owner["kind"] != "Pod"]


def environment(one: rendered.Container) -> Iterator[str]:
    for variable in one.spec["env"]:
        field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        value = FIELDS[field] if field else variable["value"]
        value = value.replace("$(LAMPPOST_INSTANCE)", FIELDS["metadata.name"])
        yield from ("-e", f"{variable['name']}={value}")


def rights(one: rendered.Container) -> Iterator[str]:
    """The security context in podman's words; its default seccomp profile is the runtime's."""
    pod, own = one.pod.spec["securityContext"], one.spec["securityContext"]
    yield from ("--user", f"{pod['runAsUser']}:{pod['runAsGroup']}")
    if own["readOnlyRootFilesystem"]:
        yield from ("--read-only", "--read-only-tmpfs=false")
    if not own["allowPrivilegeEscalation"]:
        yield from ("--security-opt", "no-new-privileges")
    for name in own["capabilities"]["drop"]:
        yield from ("--cap-drop", name)


def mounts(one: rendered.Container, folder: Path) -> Iterator[str]:
    """Volumes as kubelet makes them: Secrets as files of the group, 0440; the rest to write to."""
    volumes = {volume["name"]: volume for volume in one.pod.spec["volumes"]}
    for mount in one.spec["volumeMounts"]:
        name, path = mount["name"], mount["mountPath"]
        volume = volumes.get(name, {"claim": {}})
        if path == "/tmp":
            yield from ("--tmpfs", f"{path}:rw,mode=1777")
            continue
        place = folder / name
        place.mkdir()
        for source in volume.get("projected", {}).get("sources", ()):
            for item in source["secret"]["items"]:
                secret = place / item["path"]
                secret.write_text(SECRET, "utf-8")
                secret.chmod(volume["projected"]["defaultMode"])
                os.chown(secret, 0, GROUP)
        os.chown(place, 0, GROUP)
        place.chmod(0o2777 if "emptyDir" in volume else 0o2770)
        yield from ("-v", f"{place}:{path}{':ro' if mount.get('readOnly') else ''}")


def options(one: rendered.Container, folder: Path) -> list[str]:
    command = one.spec.get("command")
    entry = ["--entrypoint", json.dumps(command)] if command else []
    return [
        *rights(one), *mounts(one, folder), *environment(one), *entry, "--network", "none"
    ]  # fmt: skip


def ask(container: Container, one: rendered.Container, probe: str) -> tuple[int, dict[str, Any]]:
    """What kubelet would be told; 0 where nobody listens."""
    asked = one.spec[probe]["httpGet"]
    ports = {port["name"]: port["containerPort"] for port in one.spec["ports"]}
    url = f"http://127.0.0.1:{ports[asked['port']]}{asked['path']}"
    status, _, body = container.exec("python", "-c", ASKING, url).output.strip().partition(" ")
    return int(status or 0), json.loads(body or "{}")


@pytest.mark.parametrize(
    "name", ["ingest", "spool", "detect", "index", "retention", "api", "relay"]
)
def test_a_service_starts_lives_and_says_what_it_waits_for(
    engine: Engine, tmp_path: Path, name: str
) -> None:
    [one] = [found for found in containers("relaying") if found.spec["name"] == name]
    chosen = options(one, tmp_path)
    with engine.container(IMAGE, *one.spec["args"], options=chosen) as container:

        def waits() -> bool:
            assert container.state()["Status"] == "running", container.logs()[-3000:]
            status, body = ask(container, one, "startupProbe")
            if name == "ingest":  # It begins without its bus, with what it recorded last.
                return status == 200
            return status == 503 and "bus" in body["checks"]

        until_sync(waits, STARTS_WITHIN_S, f"{name} begins", every_s=0.5)
        assert ask(container, one, "livenessProbe")[0] == 200, "no server, and it lives"
        status, body = ask(container, one, "readinessProbe")
        said = body["checks"]["service" if name == "ingest" else "bus"]
        assert status == 503 and said != "ok", body
        exit_status, took_s = container.stop(ENDS_WITHIN_S)
        assert exit_status == 0 and took_s < ENDS_WITHIN_S, container.logs()[-3000:]


def test_the_job_says_in_one_sentence_what_it_cannot_reach(engine: Engine, tmp_path: Path) -> None:
    [one] = [found for found in containers("small") if found.spec["name"] == "migrate"]
    done = engine.once(IMAGE, *one.spec["args"], options=options(one, tmp_path))
    assert done.status == 3, done.output
    assert "Traceback" not in done.output and "postgres.host" in done.output, done.output


def test_one_pod_alone_becomes_ready(engine: Engine, tmp_path: Path) -> None:
    [one] = containers("dev")
    with engine.container(IMAGE, *one.spec["args"], options=options(one, tmp_path)) as container:

        def ready() -> bool:
            assert container.state()["Status"] == "running", container.logs()[-3000:]
            return ask(container, one, "readinessProbe")[0] == 200

        until_sync(ready, STARTS_WITHIN_S, "everything is ready", every_s=0.5)
        assert ask(container, one, "startupProbe")[0] == ask(container, one, "livenessProbe")[0]


def test_before_its_end_a_recorders_pod_can_be_drained(engine: Engine, tmp_path: Path) -> None:
    [one] = [found for found in containers("small") if found.spec["name"] == "spool"]
    stop = one.spec["lifecycle"]["preStop"]["exec"]["command"]
    with engine.container(IMAGE, *one.spec["args"], options=options(one, tmp_path)) as container:
        done = container.exec(*stop)
        assert done.status == 0, done.output


def test_helms_test_says_what_it_was_told(engine: Engine, tmp_path: Path) -> None:
    """Nobody answers here: it must fail, and not for its command."""
    [one] = [one for one in rendered.containers("small") if one.pod.owner["kind"] == "Pod"]
    command, *more = one.spec["command"]
    done = engine.once(
        IMAGE, *more, *one.spec["args"],
        options=[*rights(one), "--entrypoint", command, "--network", "none"],
    )  # fmt: skip
    assert done.status == 1 and "URLError" in done.output, done.output
