"""What the Dockerfile says, and what its build steps do to a folder. No container, no network."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from shared.settings import Settings
from tests.support.cyclonedx import wrong

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
INSTRUCTIONS = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", DOCKERFILE)).splitlines()


@pytest.fixture
def image(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "setup"))
    return importlib.import_module("image")


@pytest.fixture
def sbom(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "setup"))
    return importlib.import_module("sbom")


def stage(name: str) -> list[str]:
    """The instructions of a stage."""
    starts = [n for n, line in enumerate(INSTRUCTIONS) if line.startswith("FROM ")]
    [start] = [n for n in starts if INSTRUCTIONS[n].endswith(f" AS {name}")]
    end = min([n for n in starts if n > start], default=len(INSTRUCTIONS))
    return [line for line in INSTRUCTIONS[start + 1 : end] if line.strip()]


@pytest.mark.parametrize("name", ["runtime", "core", "detect-gpu"])
def test_final_stages_only_copy(name: str) -> None:
    """So nothing that installs or builds can be left in them."""
    words = {line.split()[0] for line in stage(name)}
    assert not words & {"RUN", "ADD", "SHELL"}, words


@pytest.mark.parametrize("name", ["core", "detect-gpu"])
def test_images_run_as_nobody_in_particular(name: str, image: ModuleType) -> None:
    lines = stage(name)
    assert f"USER {image.UID}:{image.UID}" in lines
    assert f'VOLUME ["{image.STATE}"]' in lines
    licences = " ".join(line for line in lines if line.startswith("LABEL"))
    assert "Apache-2.0" in licences and ("AGPL-3.0" in licences) == (name == "detect-gpu")


def test_core_is_what_a_build_without_a_target_gives() -> None:
    last = [line for line in INSTRUCTIONS if line.startswith("FROM ")][-1]
    assert last.endswith(" AS core")


def test_the_version_is_the_projects() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f'org.opencontainers.image.version="{version}"' in DOCKERFILE


def test_the_build_names_no_registry_and_no_proxy() -> None:
    assert not re.search(r"(?i)https?://|index[-_]url|_proxy|latest", DOCKERFILE)


def test_nothing_unlocked_is_installed() -> None:
    """Every RUN is one of the steps that check hashes."""
    runs = [line for name in ("tools", "packages", "model", "project") for line in stage(name)]
    commands = [
        re.sub(r"--mount=\S+", "", line.removeprefix("RUN ")).split()
        for line in runs
        if line.startswith("RUN ")
    ]
    assert len(commands) == 4
    assert all(words[1] in ("setup/bootstrap.py", "setup/image.py") for words in commands)


def test_the_context_lets_in_what_is_copied_and_nothing_else() -> None:
    lines = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source.partition("/")[0]
        for line in INSTRUCTIONS
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert lines[0] == "*" and copied == allowed


def test_the_built_in_model_is_the_default_one(image: ModuleType) -> None:
    from services.detect import model_fetch

    assert model_fetch.name_of(*image.SIZE) == Settings().detect.model
    assert image.SIZE in model_fetch.KNOWN


def test_unused_parts_go_and_others_stay(tmp_path: Path, image: ModuleType) -> None:
    files = {
        "openvino/libs/libopenvino_intel_gpu_plugin.so": False,
        "openvino/libs/libopenvino_intel_cpu_plugin.so": True,
        "openvino/libs/libopenvino_tensorflow_frontend.so.2641": False,
        "openvino/libs/libopenvino_onnx_frontend.so.2641": True,
        "numpy/linalg/tests/test_linalg.py": False,
        "numpy/testing/__init__.py": True,
        "cv2/__init__.pyi": False,
        "scipy/special/tests/data/x.npz": False,
        "av-18.1.0.dist-info/licenses/LICENSE.txt": True,
    }
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    for path in image.unused(tmp_path):
        if path.is_dir():
            for inner in sorted(path.rglob("*"), reverse=True):
                inner.rmdir() if inner.is_dir() else inner.unlink()
            path.rmdir()
        else:
            path.unlink()
    assert {name: (tmp_path / name).exists() for name in files} == files


def test_byte_code_needs_no_source_time(tmp_path: Path, image: ModuleType) -> None:
    (tmp_path / "one.py").write_text("x = 1\n")
    (tmp_path / "older.py").write_text("print 'for another Python'\n")
    image.compile_code(tmp_path)
    code = Path(importlib.util.cache_from_source(str(tmp_path / "one.py"))).read_bytes()
    assert int.from_bytes(code[4:8], "little") == 0b01, "hashed, and not checked"


def test_the_library_gets_only_the_byte_code_it_lacks(tmp_path: Path, image: ModuleType) -> None:
    stdlib, out = tmp_path / "usr" / "lib" / "python3.11", tmp_path / "out"
    for name in ("has.py", "lacks.py", "test/test_it.py"):
        path = stdlib / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    import py_compile

    py_compile.compile(str(stdlib / "has.py"))
    image.library(stdlib, out)
    found = sorted(path.name.partition(".")[0] for path in out.rglob("*.pyc"))
    assert found == ["lacks"]


def test_the_user_has_a_name_and_cannot_sign_in(tmp_path: Path, image: ModuleType) -> None:
    source = tmp_path / "etc"
    source.mkdir()
    (source / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (source / "group").write_text("root:x:0:\n")
    image.account(source, tmp_path / "out")
    lines = (tmp_path / "out" / "passwd").read_text().splitlines()
    assert lines[0].startswith("root:") and lines[1].startswith("lamppost:x:10001:10001:")
    assert lines[1].endswith(":/usr/sbin/nologin")


def test_the_list_of_parts_is_the_same_for_the_same_parts(tmp_path: Path, sbom: ModuleType) -> None:
    site = tmp_path / "site"
    for name, text in (
        ("lamppost", "License-Expression: Apache-2.0\n"),
        ("av", "License: BSD\n"),
        ("old_one", "License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License\n"),
        ("silent", ""),
        (
            "whole",
            "License: ====\n        Copyright (c) 2013\nClassifier: License :: BSD License\n",
        ),
        ("ruled", "License: ====\n        The Ruled License\n"),
    ):
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{text}")
        (info / "RECORD").write_text("av.libs/libx264-abc.so.1,,\n" if name == "av" else "")
    (site / "av.libs").mkdir()
    (site / "av.libs" / "libx264-abc.so.1").write_text("GPL")
    models = tmp_path / "models"
    models.mkdir()
    (models / "m.json").write_text('{"name": "m", "title": "M", "licence": "Apache-2.0"}')
    (models / "m.onnx").write_text("weights")
    if not Path("/usr/bin/dpkg-query").exists():
        pytest.skip("no Debian: the list names its packages")
    texts = []
    for name in ("one.json", "two.json"):
        sbom.write(tmp_path / name, site, models)
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    found = json.loads(texts[0])
    assert found["metadata"]["component"]["name"] == "lamppost"
    parts = {part["name"]: part for part in found["components"]}
    assert parts["old_one"]["licenses"] == [{"license": {"name": "MIT License"}}]
    assert parts["old_one"]["purl"] == "pkg:pypi/old-one@1.0"
    assert "licenses" not in parts["silent"]
    assert parts["whole"]["licenses"] == [{"license": {"name": "BSD License"}}]
    assert parts["ruled"]["licenses"] == [{"license": {"name": "The Ruled License"}}]
    assert wrong(texts[0]) == ""
    [library] = parts["av"]["components"]
    assert library["licenses"] == [{"license": {"id": "GPL-2.0-or-later"}}]
    assert parts["m"]["type"] == "machine-learning-model"
    assert parts["dpkg"]["purl"].startswith("pkg:deb/debian/dpkg@")


def test_a_wrong_step_is_told_how_to_call_it() -> None:
    done = subprocess.run(
        [sys.executable, "setup/image.py", "everything"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2 and "packages LOCK" in done.stderr


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"licences": []}, "licences"),
        ({"licenses": [{"license": {"id": "GPL-2"}}]}, "GPL-2"),
        ({"licenses": [{"expression": "MIT or so"}]}, "MIT or so"),
        ({"hashes": [{"alg": "SHA-256", "content": "0"}]}, "content"),
        ({"type": "thing"}, "thing"),
    ],
)
def test_a_wrong_list_of_parts_is_noticed(part: dict[str, object], says: str) -> None:
    """As the schema of the list's version has it, and SPDX's own expressions."""
    good = {"type": "library", "name": "x", "licenses": [{"expression": "MIT AND LicenseRef-Own"}]}
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}
    assert wrong(json.dumps({**head, "components": [good]})) == ""
    assert says in wrong(json.dumps({**head, "components": [{**good, **part}]}))
