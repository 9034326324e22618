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
PACKAGES = ("ca-certificates", "netbase", "tzdata", "python3.11", "python3.11-venv")
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
    root = folder / "rootfs"
    shutil.rmtree(root, ignore_errors=True)
    mirror = next(mirrors(), "")
    # Without a mirror, debootstrap takes Debian's.
    run(
        [
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            SUITE,
            root,
            *([mirror] if mirror else []),
        ],
        env=env,
    )
    # In /usr/local as in the official image, and without Debian's mark that forbids pip.
    run(["chroot", root, f"python{VERSION}", "-m", "venv", "/usr/local"], env=env)
    for name in UNUSED:
        for path in (root / name).glob("*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    _import(root, podman, env)
    shutil.rmtree(root)


def _import(root: Path, podman: str, env: Mapping[str, str]) -> None:
    changes = [part for line in CONFIG for part in ("--change", line)]
    with subprocess.Popen(
        ["tar", "-C", str(root), "--numeric-owner", "-c", "."], stdout=subprocess.PIPE
    ) as tar:
        run([podman, "import", "-q", *changes, "-", NAME], stdin=tar.stdout, env=env)
    assert tar.returncode == 0, "the base image's files cannot be read"
