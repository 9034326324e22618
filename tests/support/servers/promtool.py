"""Prometheus and promtool out of Debian's package, unpacked beside the other servers.

The package is not installed: it would start a service of its own on this machine.
"""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.servers.process import ServerProcess, free_ports, installing, missing, run

PACKAGE = "prometheus"


def install() -> Path:
    """The folder with both programs, fetched at the first use; skips where it cannot be."""
    with installing(PACKAGE) as folder:
        programs = folder / "usr" / "bin"
        if all((programs / name).exists() for name in ("prometheus", "promtool")):
            return programs
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            missing("needs Debian's prometheus, and this is no Debian")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _unpack(folder)
        except AssertionError as error:
            missing(f"Prometheus could not be fetched: {error}")
        return programs


def _unpack(folder: Path) -> None:
    fetch = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", PACKAGE]
    try:
        run(fetch, cwd=folder)
    except AssertionError:
        run(["apt-get", "-qq", "update"])  # the lists may be older than the package
        run(fetch, cwd=folder)
    [package] = folder.glob(f"{PACKAGE}_*.deb")
    run(["dpkg-deb", "-x", package, folder])
    package.unlink()


def promtool(*arguments: str | Path, cwd: Path | None = None) -> str:
    """What it prints; AssertionError with it where it finds fault."""
    return run([install() / "promtool", *arguments], cwd=cwd, timeout_s=120)


@dataclass
class Prometheus:
    """One server that scrapes `targets` (host:port) and knows the rule files `rules`."""

    folder: Path
    targets: tuple[str, ...]
    rules: tuple[Path, ...] = ()
    port: int = field(default_factory=lambda: free_ports(1)[0])

    def __post_init__(self) -> None:
        self._programs = install()
        self._process = ServerProcess("prometheus", self.folder / "prometheus.log")

    def __enter__(self) -> Prometheus:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process.start(
            [
                self._programs / "prometheus",
                f"--config.file={self._config()}",
                f"--storage.tsdb.path={self.folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--log.level=warn",
            ],
            self._ready,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def _config(self) -> Path:
        """Rules every two seconds: a test has no half minute to wait for each."""
        lines = ["global: {scrape_interval: 1s, evaluation_interval: 2s}", "rule_files:"]
        lines += [f"  - {path}" for path in self.rules]
        lines += ["scrape_configs:", "  - job_name: lamppost", "    static_configs:"]
        lines.append(f"      - targets: [{', '.join(repr(one) for one in self.targets)}]")
        path = self.folder / "prometheus.yaml"
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return path
