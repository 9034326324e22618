"""The list of an image's parts (CycloneDX 1.6, JSON): Python packages with the libraries that their
wheels bundle, Debian's packages, and the models. The same parts give the same bytes.

Read out of what is installed, not out of a lock: a test of the image compares the two.
docs/guide/images.md.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import uuid
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageMetadata, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

SCHEMA, SPEC = "http://cyclonedx.org/schema/bom-1.6.schema.json", "1.6"
PROJECT = "lamppost"
MAX_NAME = 120
"""Letters of a licence that is no expression: some packages give the whole text."""
BUNDLED = {
    "av": {
        **dict.fromkeys(("libx264", "libx265"), "GPL-2.0-or-later"),
        **dict.fromkeys(("libavcodec", "libavdevice", "libavfilter"), "LGPL-3.0-or-later"),
        **dict.fromkeys(("libavformat", "libavutil"), "LGPL-3.0-or-later"),
        **dict.fromkeys(("libswresample", "libswscale"), "LGPL-3.0-or-later"),
    }
}
"""Licences of bundled libraries that are not those of the package around them."""

Part = dict[str, Any]


def write(path: Path, site: Path, models: Path) -> None:
    """The list of what lies in `site`, in `models` and on this Debian."""
    found = sorted(distributions(path=[str(site)]), key=lambda one: str(one.name).lower())
    own = [package(one, site) for one in found if one.name == PROJECT]
    parts = [package(one, site) for one in found if one.name != PROJECT]
    parts += [*debian(), *trained(models)]
    path.write_text(json.dumps(document(own[0], parts), indent=1, ensure_ascii=False) + "\n")


def document(project: Part, parts: list[Part]) -> Part:
    """The whole document; its serial number says what is in it."""
    said = json.dumps([project, parts], sort_keys=True).encode()
    serial = uuid.UUID(bytes=hashlib.sha256(said).digest()[:16], version=4)
    return {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": {**project, "type": "application"}},
        "components": parts,
        "dependencies": [
            {"ref": project["bom-ref"], "dependsOn": [part["bom-ref"] for part in parts]}
        ],
    }


def package(distribution: Distribution, site: Path) -> Part:
    """A Python package, and the libraries in its wheel."""
    metadata = distribution.metadata
    name, version = str(metadata["Name"]), distribution.version
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe='')}"
    part: Part = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }
    if licence := licence_of(metadata):
        part["licenses"] = [licence]
    if inner := list(bundled(distribution, name, site, purl)):
        part["components"] = inner
    return part


def licence_of(metadata: PackageMetadata) -> Part | None:
    """An SPDX expression where the package gives one, else what it says in its own words."""
    if expression := _first(metadata, "License-Expression"):
        return {"expression": expression}
    said = _first(metadata, "License")
    if "\n" in said or not said or said.upper() == "UNKNOWN":
        # A whole text begins with whose it is, or with a ruled line: the classifier names it.
        classified = [
            line.rpartition(" :: ")[2]
            for line in metadata.get_all("Classifier") or ()
            if line.startswith("License ::")
        ]
        said = ", ".join(classified) or next(filter(_has_letters, said.splitlines()), "").strip()
        said = "" if said.upper() == "UNKNOWN" else said
    return {"license": {"name": said[:MAX_NAME]}} if said else None


def _has_letters(line: str) -> bool:
    return any(letter.isalpha() for letter in line)


def _first(metadata: PackageMetadata, name: str) -> str:
    return str((metadata.get_all(name) or [""])[0]).strip()


def bundled(distribution: Distribution, name: str, site: Path, owner: str) -> Iterator[Part]:
    """Shared libraries that came in a package's wheel from elsewhere (`NAME.libs/`)."""
    for file in sorted(distribution.files or ()):
        path = site / file
        if not file.parts[0].endswith(".libs") or not path.is_file():
            continue
        part: Part = {
            "type": "library",
            "bom-ref": f"{owner}#{path.name}",
            "name": path.name,
            "hashes": [sha256(path)],
        }
        plain = path.name.partition("-")[0].partition(".")[0]
        if licence := BUNDLED.get(name, {}).get(plain):
            part["licenses"] = [{"license": {"id": licence}}]
        yield part


def debian() -> Iterator[Part]:
    """The packages of this Debian."""
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package}\t${Version}\t${Architecture}\n"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    for line in sorted(done.stdout.splitlines()):
        name, version, architecture = line.split("\t")
        purl = f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={architecture}"
        yield {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "purl": purl,
        }


def trained(models: Path) -> Iterator[Part]:
    """The models, by their cards."""
    for path in sorted(models.glob("*.json")):
        card = json.loads(path.read_text("utf-8"))
        yield {
            "type": "machine-learning-model",
            "bom-ref": f"model:{card['name']}",
            "name": card["name"],
            "description": card["title"],
            "hashes": [sha256(path.with_suffix(".onnx"))],
            "licenses": [{"expression": card["licence"]}],
        }


def sha256(path: Path) -> Part:
    return {"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}
