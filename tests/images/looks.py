"""What is asked of every image, whichever target of the Dockerfile it is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.markers import Marker

from tests.images.conftest import ROOT, STATE
from tests.support.containers.engine import UID, Container, Engine
from tests.support.cyclonedx import wrong

NOT_THERE = (
    *("gcc", "cc", "g++", "ld", "as", "make", "cpp", "rustc", "node", "npm", "uv", "git"),
    *("curl", "wget", "ssh"),
)
Part = dict[str, Any]


def runs_as_told(facts: dict[str, Any]) -> None:
    """User, entry, signal, volume, ports and health of an image, by what it says of itself."""
    config = facts["Config"]
    assert config["User"] == f"{UID}:{UID}"
    assert config["Entrypoint"] == ["lamppost"] and config["Cmd"] == ["run"]
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert list(config["Volumes"]) == [STATE]
    assert {"8600/tcp", "8610/tcp", "9100/tcp"} == set(config["ExposedPorts"])
    health = facts.get("Healthcheck") or config["Healthcheck"]
    assert health["Test"] == ["CMD", "lamppost", "health"]


def size(engine: Engine, image: str, folder: Path) -> tuple[int, int]:
    """Bytes as a registry holds it, each layer compressed; and unpacked."""
    place = folder / "image"
    save = ("save", "--format", "docker-dir", "--compress", "-o")
    engine.podman(*save, place, image, timeout_s=1800)
    try:
        compressed = sum(path.stat().st_size for path in place.iterdir())
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return compressed, int(json.loads(engine.podman("image", "inspect", image))[0]["Size"])


def leftovers(inside: Container) -> list[str]:
    """Compilers, installers, and what they cached or were told, that are there."""
    script = (
        f"for name in {' '.join(NOT_THERE)}; do command -v $name; done; "
        "ls -d /opt/lamppost/venv/bin/pip* /opt/lamppost/venv/lib/*/site-packages/pip /src /out "
        "/etc/pip.conf /etc/npmrc 2>/dev/null; "
        "find /var/cache/uv /var/lib/apt/lists /var/cache/apt/archives /var/log /root /home /tmp "
        "-type f -size +0 2>/dev/null; true"
    )
    return inside.exec("sh", "-c", script).output.split()


def writable(inside: Container) -> list[str]:
    """What can be written but for the state's volume and /tmp."""
    script = "find / -xdev -writable ! -type l -not -path '/proc/*' -not -path '/sys/*' 2>/dev/null"
    found = inside.exec("sh", "-c", f"{script}; true").output.splitlines()
    if inside.exec("touch", "/opt/lamppost/x").status == 0:
        found.append("/opt/lamppost")
    return [path for path in found if not path.startswith(("/dev", "/tmp", STATE))]


def locked(lock: str) -> Iterator[tuple[str, str]]:
    """Name and version of what a lock installs on this platform."""
    environment = {"python_version": "3.11", "python_full_version": "3.11.2"}
    for line in (ROOT / "requirements" / lock).read_text().splitlines():
        found = re.match(r"([a-z0-9._-]+)==(\S+)\s*(?:;\s*(.*?))?\s*\\?$", line)
        if found and (not found[3] or Marker(found[3]).evaluate(environment)):
            yield re.sub(r"[-_.]+", "-", found[1]), found[2]


def parts(inside: Container, lock: str) -> list[Part]:
    """The image's list of parts: as its schema has it, and of Python what `lock` says."""
    text = inside.exec("cat", "/opt/lamppost/sbom.json").output
    assert wrong(text) == ""
    document = json.loads(text)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["component"]["purl"] == "pkg:pypi/lamppost@0.1.0"
    found: list[Part] = document["components"]
    refs = [part["bom-ref"] for part in found]
    assert len(refs) == len(set(refs)) and document["dependencies"][0]["dependsOn"] == refs
    python = {
        (re.sub(r"[-_.]+", "-", part["name"]).lower(), part["version"])
        for part in found
        if part.get("purl", "").startswith("pkg:pypi/")
    }
    assert python == set(locked(lock))
    return found


def unlicensed(found: list[Part]) -> list[str]:
    """Parts that are not Debian's and name no licence."""
    return [
        part["name"]
        for part in found
        if not part.get("licenses") and not part.get("purl", "").startswith("pkg:deb/")
    ]
