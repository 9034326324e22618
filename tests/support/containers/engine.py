"""podman, buildah and runc in place of Docker, with their own storage below `.tools/containers/`.

Nothing of the machine's own containers is touched. Needs root and Debian 12's packages; where they
cannot be had the tests are skipped with the reason, and fail where CI is true. Without systemd,
podman's health timers never fire: `Engine.service` runs the checks as Docker would.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from shared.clock import SECOND_US, SystemClock
from tests.support.containers import base
from tests.support.servers.process import HOME as SERVERS
from tests.support.servers.process import (
    ROOT,
    ServerProcess,
    apt_install,
    installing,
    missing,
    run,
)

HOME = SERVERS.parent / "containers"
IMAGE = "localhost/lamppost:ci"
PROGRAMS = ("podman", "buildah", "runc", "conmon", "debootstrap", "iptables")
PACKAGES = (*PROGRAMS, "netavark", "aardvark-dns", "ca-certificates")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
UID = 10001
AS_KUBERNETES = (
    "--read-only",
    "--read-only-tmpfs=false",
    *("--user", f"{UID}:{UID}"),
    *("--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges"),
    *("--tmpfs", "/tmp:rw,size=256m,mode=1777"),
)
"""What `restricted` pod security and a read-only root leave to a container."""
HEALTH_EVERY_S, HEALTHY_EVERY_S = 1.0, 10.0
BUILT_WITHIN_S = {"core": 1800.0, "detect-gpu": 7200.0}
"""The second one fetches and unpacks gigabytes."""
STORAGE = """\
[storage]
driver = "overlay"
runroot = "{home}/run"
graphroot = "{home}/graph"
"""
REGISTRIES = """\
unqualified-search-registries = ["docker.io"]
short-name-mode = "permissive"
"""
# runc, because Debian's crun stops where cgroups are hybrid. The limits are low because root may
# lack the right to raise them.
CONTAINERS = """\
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
"""
_clock = SystemClock()


class Done(NamedTuple):
    """A command in a container that has ended."""

    status: int
    output: str


class Engine:
    """One storage of images and containers, and the commands on it."""

    def __init__(self, home: Path = HOME) -> None:
        self.home = home
        self.socket = home / "podman.sock"
        self.env = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(home / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(home / "registries.conf"),
            "CONTAINERS_CONF": str(home / "containers.conf"),
            "TMPDIR": str(home / "tmp"),
        }
        self._service = ServerProcess("podman's service", home / "logs" / "service.log")

    @property
    def docker_host(self) -> str:
        """What `DOCKER_HOST` must be for Docker's own clients, while `service` runs."""
        return f"unix://{self.socket}"

    def install(self) -> None:
        """The programs and this storage's settings."""
        if any(shutil.which(name) is None for name in PROGRAMS):
            apt_install(*PACKAGES)
        if os.geteuid() != 0:
            missing("containers need root here")
        for name in ("tmp", "logs", "build"):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("storage", STORAGE),
            ("registries", REGISTRIES),
            ("containers", CONTAINERS),
        ):
            (self.home / f"{name}.conf").write_text(text.format(home=self.home), "utf-8")

    def podman(self, *arguments: str | Path, timeout_s: float = 120) -> str:
        """A command of podman to its end; its output. AssertionError when it fails."""
        return run(["podman", *arguments], timeout_s=timeout_s, env=self.env)

    def attempt(self, *arguments: str | Path, timeout_s: float = 120, given: str = "") -> Done:
        """The same, and failing is an answer."""
        done = subprocess.run(
            ["podman", *map(str, arguments)],
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
            env=self.env,
        )
        return Done(done.returncode, done.stdout)

    def has(self, image: str) -> bool:
        return self.attempt("image", "exists", image).status == 0

    def base(self) -> None:
        """The base image, pulled nowhere: made, unless it is there."""
        with installing("containers"):
            self.install()
            if not self.has(base.NAME):
                base.make(self.home, "podman", self.env)

    def build(self, target: str = "core", tag: str = IMAGE) -> None:
        """A target of the Dockerfile, out of the working tree."""
        self.base()
        with installing("containers"):
            revision = run(["git", "rev-parse", "HEAD"], cwd=ROOT).strip()
            run(
                [
                    *("podman", "build", "--pull=never", "--layers", "--format", "docker"),
                    *("--network", "host", *self._machine()),
                    *("--build-arg", f"REVISION={revision}"),
                    *("--target", target, "-t", tag, "."),
                ],
                timeout_s=BUILT_WITHIN_S[target],
                cwd=ROOT,
                env=self.env,
            )

    def _machine(self) -> Sequence[str]:
        """This machine's certificates and registries, as secrets: in the build, in no layer."""
        secrets = self.home / "build"
        found = {"ca": CERTIFICATES} if CERTIFICATES.is_file() else {}
        settings = {
            "pip": _pip_settings() + (f"cert = {CERTIFICATES}\n" if found else ""),
            "npm": _npm_settings() + (f"cafile={CERTIFICATES}\n" if found else ""),
        }
        for name, text in settings.items():
            found[name] = secrets / name
            found[name].write_text(("[global]\n" if name == "pip" else "") + text, "utf-8")
        return [
            part for name, path in found.items() for part in ("--secret", f"id={name},src={path}")
        ]

    @contextmanager
    def service(self) -> Iterator[str]:
        """Docker's API for Compose, and health checks that run; `DOCKER_HOST` of it."""
        self.install()
        self.socket.unlink(missing_ok=True)
        command = ["podman", "system", "service", "--time=0", f"unix://{self.socket}"]
        ended = threading.Event()
        checks = threading.Thread(target=self.check_health, args=(ended,), daemon=True)
        self._service.start(command, self.socket.exists, env=self.env)
        checks.start()
        try:
            yield self.docker_host
        finally:
            ended.set()
            checks.join(30)
            self._service.stop()
            self.socket.unlink(missing_ok=True)

    def check_health(self, ended: threading.Event) -> None:
        """Those that are not healthy every second, the others more rarely."""
        looked_us: dict[str, int] = {}
        while not _clock.wait(ended, HEALTH_EVERY_S):
            # A machine so busy that podman does not answer makes checks late, and must end none.
            with suppress(subprocess.TimeoutExpired):
                self._check_those_due(ended, looked_us)

    def _check_those_due(self, ended: threading.Event, looked_us: dict[str, int]) -> None:
        listing = self.attempt("ps", "--format", "{{.ID}} {{.Status}}").output
        for line in listing.splitlines():
            name, _, status = line.partition(" ")
            calm = status.endswith("(healthy)")
            due_us = looked_us.get(name, 0) + round(HEALTHY_EVERY_S * SECOND_US) * calm
            if not ended.is_set() and _clock.monotonic_us() >= due_us:
                # Noted before it is asked: one that hangs is not the first to be asked again.
                looked_us[name] = _clock.monotonic_us()
                self.attempt("healthcheck", "run", name, timeout_s=30)

    @contextmanager
    def container(
        self, image: str, *command: str, options: Sequence[str] = ()
    ) -> Iterator[Container]:
        """A container that runs meanwhile, and nothing of it afterwards."""
        container = Container(self, self.start(image, *command, options=options))
        try:
            yield container
        finally:
            self.attempt("rm", "-f", "-v", "-t", "2", container.id)

    def start(self, image: str, *command: str, options: Sequence[str] = ()) -> str:
        """Start a container and leave it; its id."""
        return self.podman("run", "-d", "--pull=never", *options, image, *command).strip()[-64:]

    def once(self, image: str, *command: str, options: Sequence[str] = ()) -> Done:
        """Run a container to its end."""
        words = ("run", "--rm", "--pull=never", "--no-healthcheck")
        return self.attempt(*words, *options, image, *command)

    def clean(self) -> None:
        """Every container, image and file of this storage."""
        if not self.home.exists():
            return
        self.attempt("rm", "-f", "-a", "-t", "2")
        self.attempt("system", "reset", "-f")
        shutil.rmtree(self.home, ignore_errors=True)


class Container:
    """A running container by its id."""

    def __init__(self, engine: Engine, identity: str) -> None:
        self.id = identity
        self._engine = engine

    def exec(self, *command: str, given: str = "", timeout_s: float = 120) -> Done:
        """A command in it, as its user."""
        words = ("exec", "-i", self.id, *command)
        return self._engine.attempt(*words, given=given, timeout_s=timeout_s)

    def logs(self) -> str:
        return self._engine.attempt("logs", self.id).output

    def state(self) -> dict[str, object]:
        """podman's word for it: `Status`, `ExitCode`, `OOMKilled`, …"""
        found: dict[str, object] = json.loads(
            self._engine.podman("inspect", "--format", "{{json .State}}", self.id)
        )
        return found

    def stop(self, within_s: int) -> tuple[int, float]:
        """Its stop signal, and a kill after so long; its exit status and the seconds it took."""
        began_us = _clock.monotonic_us()
        self._engine.podman("stop", "-t", str(within_s), self.id, timeout_s=within_s + 60)
        took_s = (_clock.monotonic_us() - began_us) / SECOND_US
        return int(str(self.state()["ExitCode"])), took_s

    def kill(self, signal: str = "KILL") -> None:
        self._engine.podman("kill", "-s", signal, self.id)


def _pip_settings() -> str:
    """What pip is told on this machine of its index."""
    from setup.bootstrap import pip_settings

    names = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")
    return "".join(f"{k} = {v}\n" for k, v in pip_settings().items() if k in names and v.strip())


def _npm_settings() -> str:
    """What npm, where there is one, is told of its registry."""
    npm = shutil.which("npm")
    if npm is None:
        return ""
    done = subprocess.run([npm, "config", "list"], capture_output=True, text=True, timeout=60)
    lines = (line.partition("=") for line in done.stdout.splitlines())
    names = ("registry", "proxy", "https-proxy")
    return "".join(f"{k.strip()}={v.strip()}\n" for k, _, v in lines if k.strip() in names)
