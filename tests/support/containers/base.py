"""The base image under its official name, made where no image registry can be reached.

Debian's own bootstrap gives the same distribution and the same Python minor version as the official
`python:3.11-slim-bookworm`, with `python` and `pip` in /usr/local as there. Who has a registry uses
the official image; the Dockerfile does not know the difference (docs/guide/images.md).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.servers.process import run

NAME = "docker.io/library/python:3.11-slim-bookworm"
SUITE, VERSION = "bookworm", "3.11"
SOURCES = Path("/etc/apt")
PACKAGES = (
    *("ca-certificates", "netbase", "tzdata", "python3.11", "python3.11-venv"),
    # A dependency of the last by a virtual name, which the bootstrap does not follow.
    "python3-distutils",
)
UNUSED = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"),
    *("var/cache/apt", "var/lib/apt/lists", "var/log"),
)
"""What the official image leaves out as well; the folders themselves stay."""
CONFIG = (
    "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
    "ENV LANG=C.UTF-8",
    'CMD ["python3"]',
)


def mirrors(folder: Path = SOURCES) -> Iterator[str]:
    """Where this machine gets Debian from, in both forms of apt's files."""
    files = [*folder.glob("sources.list.d/*.sources"), folder / "sources.list"]
    for path in files:
        if not path.is_file():
            continue
        for line in path.read_text("utf-8").splitlines():
            found = re.match(r"(?:URIs:|deb(?: \[[^\]]*\])?)\s+(\S+)(.*)", line)
            if found and found[1].rstrip("/").endswith("/debian"):
                yield found[1]


def make(folder: Path, podman: str, env: Mapping[str, str]) -> None:
    """Bootstrap the files below `folder`, import them as the image, and remove them."""
    root, packages = folder / "rootfs", folder / "debs"
    shutil.rmtree(root, ignore_errors=True)
    packages.mkdir(exist_ok=True)
    bootstrap(root, packages, env)
    strip(root)
    _import(root, podman, env)
    shutil.rmtree(root)
    shutil.rmtree(packages)


def bootstrap(root: Path, packages: Path, env: Mapping[str, str]) -> None:
    """Debian with Python; what was fetched stays in `packages` for another attempt."""
    options = [f"--cache-dir={packages}", f"--include={','.join(PACKAGES)}"]
    # Without a mirror, debootstrap takes Debian's.
    mirror = list(mirrors())[:1]
    run(
        ["debootstrap", "--variant=minbase", *options, SUITE, root, *mirror],
        # What is thrown away at a power cut need not be synced file by file.
        env={**env, "DPKG_FORCE": "unsafe-io"},
    )
    # In /usr/local as in the official image, and without Debian's mark that forbids pip.
    run(["chroot", root, f"python{VERSION}", "-m", "venv", "/usr/local"], env=env)


def strip(root: Path) -> None:
    """Remove what the official image has not either."""
    for name in UNUSED:
        for path in (root / name).glob("*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _import(root: Path, podman: str, env: Mapping[str, str]) -> None:
    changes = [part for line in CONFIG for part in ("--change", line)]
    with subprocess.Popen(
        ["tar", "-C", str(root), "--numeric-owner", "-c", "."], stdout=subprocess.PIPE
    ) as tar:
        run([podman, "import", "-q", *changes, "-", NAME], stdin=tar.stdout, env=env)
    assert tar.returncode == 0, "the base image's files cannot be read"
