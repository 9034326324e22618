"""What all real servers of the tests share: where they are installed, ports, and their process.

A server module (`kafka.py`, `postgres.py`, …) has a class with `install`, `start`, `stop`, `kill`
and `environment` (the `LAMPPOST_*` variables that join it), used as a context manager. A server
whose machine lacks what it needs skips its tests with the reason; where CI is true it fails.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.wait import until_sync

ROOT = Path(__file__).resolve().parents[3]
HOME = ROOT / ".tools" / "servers"
"""Programs of servers, kept between runs; `make clean` removes them. Data lies elsewhere."""
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def missing(reason: str) -> None:
    """Skip the test with the reason, or fail it where CI says that everything must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


@contextmanager
def installing(name: str) -> Iterator[Path]:
    """The folder of a server's programs, alone: two test processes install one after the other."""
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield HOME / name


def built_by_go(name: str, module: str, version: str, *, folder: str = "") -> Path:
    """A program of the Go proxy, built at the first use; skips where there is no Go.

    It lies under its version, so that another one is built and not taken for this."""
    with installing(folder or name) as home:
        program = home / f"{name}-{version}"
        if program.exists():
            return program
        go = shutil.which("go")
        if go is None:
            missing(f"needs Go to build {name}")
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as built:
            environment = {**os.environ, "GOBIN": built, "CGO_ENABLED": "0"}
            try:
                run([str(go), "install", f"{module}@{version}"], env=environment, cwd=built)
            except AssertionError as error:
                missing(f"{name} could not be built: {error}")
            [made] = Path(built).iterdir()
            made.rename(program)
        return program


def run(command: Sequence[str | Path], *, timeout_s: float = 600, **options: object) -> str:
    """Run a program to its end; its output. AssertionError with the output when it fails."""
    done = subprocess.run(  # type: ignore[call-overload]
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
        **options,
    )
    assert done.returncode == 0, (
        f"{command[0]} ended with {done.returncode}:\n{done.stdout[-4000:]}"
    )
    return str(done.stdout)


def apt_install(*packages: str) -> None:
    """Install Debian packages as root; skip or fail where that cannot be."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        missing(f"needs Debian's {', '.join(packages)}, which only root can install")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    run(["apt-get", "-qq", "update"], env=environment)
    lock = ("-o", "DPkg::Lock::Timeout=300")
    run(
        ["apt-get", *lock, "-qq", "-y", "install", "--no-install-recommends", *packages],
        env=environment,
    )


def _end_with_parent() -> None:
    """In the child before it becomes the server: no server outlives its test run."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class ServerProcess:
    """One process of a server, its output in a file."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(
        self,
        command: Sequence[str | Path],
        ready: Callable[[], bool],
        *,
        timeout_s: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start it and wait until it is ready."""
        assert not self.running, f"{self.name} runs already"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=None if env is None else dict(env),
                cwd=cwd,
                preexec_fn=_end_with_parent,
            )

        def looked() -> bool:
            assert self.running, f"{self.name} ended at its start:\n{self.tail()}"
            return ready()

        until_sync(looked, timeout_s, f"{self.name} is ready", every_s=0.05)

    def stop(self, *, timeout_s: float = 30) -> None:
        """Ask it to end, and kill it when it lingers."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def kill(self) -> None:
        """`kill -9`."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)

    def pause(self) -> None:
        """SIGSTOP: it is there and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def tail(self, count: int = 30) -> str:
        """The end of its output."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-count:])
