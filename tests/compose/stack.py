"""docker-compose.yml brought up by Compose under podman, against servers outside.

`Stack` is the project with its override; it starts the servers once `secrets` has made their
passwords, as the file's own order would.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2

from shared.clock import SystemClock
from tests.compose import tool
from tests.compose.stores import Stores
from tests.support.containers.engine import Engine
from tests.support.servers.process import ROOT, free_ports

CLOCK = SystemClock()
FILES = ("docker-compose.yml", "tests/compose/override.yml")
SERVERS = ("kafka", "postgres", "seaweedfs")
UP_WITHIN_S = 480


class Stack:
    """One project. Use as a context manager: everything of it is removed in the end."""

    def __init__(self, folder: Path, engine: Engine, image: str, cameras: int, clip: Path) -> None:
        self.folder, self.engine = folder, engine
        self.name = f"lamppost-test-{folder.name.rpartition('-')[2]}"
        self.port = free_ports(1)[0]
        self.key = ""
        self._program = tool.install()
        self._open = ExitStack()
        doors = folder / "servers" / "doors"
        repository, _, tag = image.rpartition(":")
        self.env = {
            **engine.env,
            "DOCKER_HOST": engine.docker_host,
            "LP_IMAGE": repository,
            "LP_TAG": tag,
            "LP_PORT": str(self.port),
            "LP_DEMO_CAMERAS": str(cameras),
            "LP_FOOTAGE": str(clip.parent),
            "LP_TEST_IMAGE": image,
            "LP_TEST_DOORS": str(doors),
            "COMPOSE_PROJECT_NAME": self.name,
            "COMPOSE_FILE": ":".join(FILES),
            "COMPOSE_PROFILES": "demo",
            "COMPOSE_ANSI": "never",
            "COMPOSE_PROGRESS": "plain",
        }

    def __enter__(self) -> Stack:
        try:
            self._open.callback(self._remove)
            self._open.enter_context(self.engine.service())
            # The override mounts this folder, which the servers' doors come into.
            self.compose("up", "--no-build", "--pull", "never", "secrets")
            names = {name: self.volume(f"{name}-secrets") for name in SERVERS}
            stores = Stores(self.folder / "servers", names)
            self._open.enter_context(stores)
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _remove(self) -> None:
        label = f"label=com.docker.compose.project={self.name}"
        for kind, remove in (
            ("ps", ("rm", "-f", "-v", "-t", "1")),
            ("network", ("network", "rm", "-f")),
            ("volume", ("volume", "rm", "-f")),
        ):
            listing = ("ps", "-a") if kind == "ps" else (kind, "ls")
            found = self.engine.attempt(*listing, "-q", "--filter", label).output.split()
            if found:
                self.engine.attempt(*remove, *found)

    def compose(self, *arguments: str, given: str = "", timeout_s: float = 300) -> str:
        """`docker compose …` to its end; what it prints. AssertionError when it fails."""
        return self._to_end([str(self._program), *arguments], given, timeout_s)

    def script(self, *arguments: str, timeout_s: float = 400, **env: str) -> str:
        """A script of the project that runs Compose."""
        return self._to_end([*arguments], "", timeout_s, COMPOSE=str(self._program), **env)

    def _to_end(self, command: list[str], given: str, timeout_s: float, **env: str) -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**self.env, **env},
            input=given,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        said = " ".join([Path(command[0]).name, *command[1:]])
        assert done.returncode == 0, (
            f"{said}: exit {done.returncode}\n{done.stdout[-2000:]}\n"
            f"{done.stderr[-4000:]}\n{self.logs()}"
        )
        return done.stdout

    def logs(self) -> str:
        """The end of every container's log."""
        listing = self.engine.attempt(
            *("ps", "-a", "--format", "{{.Names}} {{.Status}}"),
            *("--filter", f"label=com.docker.compose.project={self.name}"),
        ).output
        parts = []
        for line in listing.splitlines():
            name = line.partition(" ")[0]
            tail = self.engine.attempt("logs", "--tail", "6", name).output
            parts.append(f"--- {line}\n{tail[-1500:]}")
        return "\n".join(parts)

    def up(self) -> None:
        """Everything, as the guide says; returns when all are healthy or have done their work."""
        self.compose("up", "-d", "--no-build", "--pull", "never", timeout_s=UP_WITHIN_S)

    def volume(self, name: str) -> Path:
        """Where a volume of the project lies on this machine."""
        found = self.engine.podman(
            *("volume", "inspect", "--format", "{{.Mountpoint}}", f"{self.name}_{name}")
        )
        return Path(found.strip())

    def sign_in(self) -> None:
        """The first person, and a key of theirs, by the guide's commands."""
        add = ("lamppost", "user", "add", "tester", "--all-roles")
        self.compose("exec", "-T", "api", *add, given="not a secret of anybody\n")
        made = self.compose("exec", "-T", "api", "lamppost", "key", "create", "tester", "--json")
        self.key = str(json.loads(made)["key"])

    def client(self) -> httpx2.Client:
        """Of that person, on the published port."""
        headers = {"Authorization": f"Bearer {self.key}"}
        base = f"http://127.0.0.1:{self.port}"
        return httpx2.Client(base_url=base, headers=headers, timeout=20, trust_env=False)

    def get(self, path: str, **params: str) -> Any:
        """A page of the api as JSON; None while it is away."""
        try:
            with self.client() as client:
                answer = client.get(path, params=params)
        except httpx2.HTTPError:
            return None
        if answer.status_code >= 500:
            return None
        assert answer.status_code == 200, answer.text
        return answer.json()

    def containers(self, *columns: str) -> dict[str, tuple[str, ...]]:
        """Of each service: fields of podman's inspection."""
        label = f"label=com.docker.compose.project={self.name}"
        names = self.engine.podman("ps", "-a", "-q", "--filter", label).split()
        service = '{{index .Config.Labels "com.docker.compose.service"}}'
        form = "|".join((service, *columns))
        lines = self.engine.podman("inspect", "--format", form, *names).splitlines()
        return {line.split("|")[0]: tuple(line.split("|")[1:]) for line in lines if line}


def seconds(entries: Sequence[dict[str, Any]], kinds: Sequence[str], since: float) -> float:
    """Seconds after `since` (Unix) that a ledger's entries of these kinds cover."""
    from datetime import datetime

    total = 0.0
    for entry in entries:
        if entry["kind"] in kinds:
            begin = datetime.fromisoformat(entry["start"]).timestamp()
            end = datetime.fromisoformat(entry["end"]).timestamp()
            total += max(0.0, end - max(begin, since))
    return total
