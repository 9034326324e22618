"""Cameras over RTSP and the services as processes of their own, joined by servers alone.

Each recorder has a state folder of its own with an `archive --spool` beside it, as a recorder's pod
has; the others share nothing but the servers. `Service` restarts nothing: who kills starts again,
as Kubernetes would.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2

from shared.clock import SystemClock
from shared.settings import Settings, load
from tests.support.servers.process import ROOT, ServerProcess, free_ports
from tests.support.wait import until_sync

CLOCK = SystemClock()
READY_WITHIN_S = 180.0
"""Ten processes start at once, on two cores."""
ENDED_WITHIN_S = 30.0
MOST_PROCESSES = 48
RECORDING_WITHIN_S = 60.0
MALLOC = {"MALLOC_ARENA_MAX": "2"}
FIRST = ("nice", "-n", "-5")


class Service:
    """One process of ours."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        before: Sequence[str] = (),
    ) -> None:
        """`before` is what runs the program, such as `nice`."""
        self.name = name
        self.command = tuple(command)
        self.before = tuple(before)
        self.env = dict(env)
        self.process = ServerProcess(name, log)

    def start(self, **more: str) -> None:
        """`more` are further variables of this start alone."""
        self.process.start(
            [*self.before, sys.executable, "-m", "services", *self.command],
            lambda: True,
            env={**self.env, **more},
            cwd=ROOT,
        )

    def stop(self) -> None:
        """SIGTERM, as Kubernetes ends a pod."""
        self.process.stop(timeout_s=ENDED_WITHIN_S)

    def kill(self) -> None:
        self.process.kill()


class City:
    """The services of one installation. `environment` joins them to their servers."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        *,
        recorders: int = 2,
        detectors: int = 1,
        apis: int = 2,
        settings: Mapping[str, str] | None = None,
        recorders_first: bool = False,
    ) -> None:
        """`recorders_first`: with the weight that docs/guide/scale.md gives them; needs root."""
        self.folder = folder
        self._weight = FIRST if recorders_first else ()
        key = folder / "internal.key"
        key.write_text(secrets.token_urlsafe(32))
        self.base = {
            **{k: v for k, v in os.environ.items() if not k.startswith("LAMPPOST_")},
            **MALLOC,
            "LAMPPOST_STORES__INTERNAL_KEY_FILE": str(key),
            "LAMPPOST_SPOOL__MIN_FREE_RATIO": "0",
            "LAMPPOST_LOG__FORMAT": "json",
            **environment,
            **(settings or {}),
        }
        self.services: dict[str, Service] = {}
        self.targets: list[str] = []
        """Where each process has its metrics."""
        self._probes: dict[str, int] = {}
        self._monitors = iter(free_ports(MOST_PROCESSES))
        self.recorders: list[str] = []
        self.key = ""
        self.ports = free_ports(apis)
        for number in range(1, recorders + 1):
            self.add_recorder(f"rec-{number}")
        self._add("index-1", ("archive", "--index"))
        for number in range(1, detectors + 1):
            self._add(f"detect-{number}", ("detect",))
        for number in (1, 2):
            self._add(f"retention-{number}", ("retention",))
        for number, port in enumerate(self.ports, start=1):
            self._add(f"api-{number}", ("api",), {"LAMPPOST_API__PORT": str(port)})

    def add_recorder(self, name: str) -> None:
        """A recorder and the archive of its spool, on a volume of their own."""
        self.recorders.append(name)
        volume = {"LAMPPOST_STATE_DIR": str(self.folder / name), "LAMPPOST_INSTANCE": name}
        self._add(name, ("ingest",), volume, self._weight)
        self._add(f"{name}-spool", ("archive", "--spool"), volume, self._weight)

    def _add(
        self,
        name: str,
        command: tuple[str, ...],
        more: Mapping[str, str] = {},
        before: Sequence[str] = (),
    ) -> None:
        port = next(self._monitors)
        self.targets.append(f"127.0.0.1:{port}")
        self._probes[name] = port
        env = {
            **self.base,
            "LAMPPOST_STATE_DIR": str(self.folder / "rest"),
            "LAMPPOST_INSTANCE": name,
            "LAMPPOST_METRICS__PORT": str(port),
            **more,
        }
        self.services[name] = Service(
            name, ("run", *command), env, self.folder / "logs" / f"{name}.log", before
        )

    @property
    def settings(self) -> Settings:
        """As a service sees them that is no recorder."""
        return load(self.services["index-1"].env)

    def __enter__(self) -> City:
        try:
            self.command("migrate")
            for service in self.services.values():
                service.start()
            until_sync(
                lambda: all(map(self.ready, self.ports)), READY_WITHIN_S, "every api is ready"
            )
            self.command("user", "add", "tester", "--all-roles", given="not a secret\n")
            self.key = str(json.loads(self.command("key", "create", "tester", "--json"))["key"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for service in reversed(list(self.services.values())):
            if service.process.running:
                os.kill(service.process.pid, signal.SIGTERM)
        for service in self.services.values():
            service.stop()

    def command(self, *arguments: str, given: str = "", timeout_s: float = 120) -> str:
        """The command line, run to its end; what it prints."""
        done = self._run(arguments, given, timeout_s, {})
        assert done.returncode == 0, f"{arguments}: exit {done.returncode}: {done.stderr[-3000:]}"
        return done.stdout

    def command_fails(self, *arguments: str, env: Mapping[str, str]) -> str:
        """The same in another environment, where it must fail; what it says."""
        done = self._run(arguments, "", 120, env)
        assert done.returncode != 0, f"{arguments} should have failed: {done.stdout}"
        return done.stderr

    def _run(
        self, arguments: Sequence[str], given: str, timeout_s: float, env: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        here = {"LAMPPOST_URL": self.url(), "LAMPPOST_KEY": self.key}
        return subprocess.run(
            [sys.executable, "-m", "services", *arguments],
            cwd=ROOT,
            env={**self.services["index-1"].env, **here, **env},
            input=given,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def url(self, replica: int = 0) -> str:
        return f"http://127.0.0.1:{self.ports[replica]}"

    def ready(self, port: int) -> bool:
        try:
            found = httpx2.get(f"http://127.0.0.1:{port}/readyz", timeout=5, trust_env=False)
        except httpx2.HTTPError:
            return False
        return found.status_code == 200

    def client(self, replica: int = 0) -> httpx2.Client:
        """Of a person who may do everything."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx2.Client(
            base_url=self.url(replica), headers=headers, timeout=20, trust_env=False
        )

    def add_camera(self, name: str, url: str, **more: Any) -> None:
        """Through the api."""
        body = {"id": name, "name": name, "source": {"url": url}, **more}
        with self.client() as client:
            answer = client.post("/v1/cameras", json=body)
        assert answer.status_code == 201, f"{name}: {answer.status_code} {answer.text}"

    def states(self, replica: int = 0) -> dict[str, tuple[str, str]]:
        """Each camera's state and recorder as an api replica knows them; empty where it is away."""
        try:
            with self.client(replica) as client:
                answer = client.get("/v1/cameras", params={"limit": 200})
        except httpx2.HTTPError:
            return {}
        if answer.status_code != 200:
            return {}
        return {
            item["id"]: (item["state"]["state"], item["state"]["recorder"])
            for item in answer.json()["items"]
        }

    def wait_recording(
        self,
        cameras: Sequence[str],
        timeout_s: float = RECORDING_WITHIN_S,
        *,
        by: Callable[[str], bool] = bool,
    ) -> None:
        """Until each of them is recorded, by a recorder that `by` accepts."""

        def all_recording() -> bool:
            states = self.states()
            return all(
                states.get(name, ("", ""))[0] == "recording" and by(states[name][1])
                for name in cameras
            )

        until_sync(all_recording, timeout_s, "every camera is recorded", every_s=0.25)

    def restart(self, name: str) -> None:
        """End a recorder and its archive, and start them again, as an update does: who updates
        goes on to the next one only when this one says that it is ready."""
        for part in (name, f"{name}-spool"):
            self.services[part].stop()
            self.services[part].start()
        self.wait_ready(name)

    def wait_ready(self, *names: str) -> None:
        """Until each of these services says so on its probe port."""
        until_sync(
            lambda: all(self.ready(self._probes[name]) for name in names),
            READY_WITHIN_S,
            f"ready: {', '.join(names)}",
            every_s=0.25,
        )

    def running(self) -> dict[str, int]:
        """Name and process id of what runs now."""
        return {
            name: service.process.pid
            for name, service in self.services.items()
            if service.process.running
        }

    def keep_running(self) -> None:
        """Start what has ended, as Kubernetes would."""
        for service in self.services.values():
            if not service.process.running:
                service.kill()  # forgets the dead process
                service.start()
