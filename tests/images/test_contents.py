"""What is in the `core` image and what is not: its face, its size, its files, its list of parts."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.images import looks
from tests.images.conftest import ROOT, STATE
from tests.support.containers.engine import AS_KUBERNETES, IMAGE, UID, Container, Engine
from tests.support.servers.process import installing, run

MAX_COMPRESSED_BYTES = 600_000_000
IMPORT_ALL = """\
import importlib, pkgutil, services, shared
names = [m.name for p in (services, shared)
         for m in pkgutil.walk_packages(p.__path__, p.__name__ + ".")]
skipped = ("services.__main__", "shared.db.migrations.env")
for name in names:
    if name not in skipped:
        importlib.import_module(name)
print(len(names))
"""
WITHOUT_BYTE_CODE = """\
import importlib.util, pathlib, sys, sysconfig
folders = [pathlib.Path(sysconfig.get_path("purelib")), pathlib.Path(sysconfig.get_path("stdlib"))]
sources = [p for f in folders for n in ("services", "shared", "fastapi", "numpy", "asyncio", "json")
           for p in (f / n).rglob("*.py")]
def stale(path):
    code = pathlib.Path(importlib.util.cache_from_source(str(path)))
    if not code.is_file():
        return True
    head = code.read_bytes()[:16]
    flags = int.from_bytes(head[4:8], "little")
    return not flags and int.from_bytes(head[8:12], "little") != int(path.stat().st_mtime)
print(len(sources), [str(p) for p in sources if stale(p)])
"""
EVERY_HELP = """\
import contextlib, io, typer
from services.cli import run
from services.cli.app import app
def walk(command, words):
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, [*words, name])
asked = list(walk(typer.main.get_command(app), []))
wrong = []
for words in asked:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = run([*words, "--help"])
    if status or "Usage" not in said.getvalue():
        wrong.append(words)
print(len(asked), wrong)
"""


def test_the_image_says_how_it_runs(facts: dict[str, Any]) -> None:
    config = facts["Config"]
    looks.runs_as_told(facts)
    env = dict(line.split("=", 1) for line in config["Env"])
    assert env["LAMPPOST_STATE_DIR"] == STATE and env["LAMPPOST_LOG__FORMAT"] == "json"
    assert not [name for name in env if re.search(r"(?i)proxy|pip_|npm_|uv_|ssl", name)]


def test_the_labels_name_version_and_licences(facts: dict[str, Any]) -> None:
    labels = facts["Config"]["Labels"]
    told = {name.removeprefix("org.opencontainers.image."): text for name, text in labels.items()}
    assert told["version"] == "0.1.0"
    assert told["licenses"] == "Apache-2.0 AND GPL-2.0-or-later AND LGPL-3.0-or-later"
    assert re.fullmatch("[0-9a-f]{40}", told["revision"])


def test_the_size_is_within_its_bound(engine: Engine, tmp_path: Path, record_property: Any) -> None:
    """As a registry holds it: each layer compressed."""
    compressed, plain = looks.size(engine, IMAGE, tmp_path)
    record_property("figure", f"core: {compressed / 1e6:.0f} MB compressed, {plain / 1e6:.0f} MB")
    assert compressed < MAX_COMPRESSED_BYTES


def test_no_compiler_and_no_leftovers(inside: Container) -> None:
    assert looks.leftovers(inside) == []


def test_only_state_and_tmp_can_be_written(inside: Container) -> None:
    assert looks.writable(inside) == []


def test_byte_code_is_there_and_used(inside: Container) -> None:
    count, stale = inside.exec("python", "-c", WITHOUT_BYTE_CODE).output.split(" ", 1)
    assert int(count) > 500 and stale.strip() == "[]"


def test_every_module_can_be_imported(inside: Container) -> None:
    """So nothing that was left out is needed."""
    done = inside.exec("python", "-W", "ignore", "-c", IMPORT_ALL, timeout_s=300)
    assert done.status == 0 and int(done.output) > 150, done.output


def test_every_command_has_its_help(inside: Container) -> None:
    done = inside.exec("python", "-c", EVERY_HELP, timeout_s=300)
    count, wrong = done.output.split(" ", 1)
    assert int(count) > 40 and wrong.strip() == "[]", done.output
    assert inside.exec("lamppost", "--help").status == 0


def test_the_list_of_parts_is_what_was_locked(inside: Container) -> None:
    assert looks.unlicensed(looks.parts(inside, "otel.txt")) == []


def test_gpl_parts_and_the_model_are_told(inside: Container) -> None:
    parts = json.loads(inside.exec("cat", "/opt/lamppost/sbom.json").output)["components"]
    [av] = [part for part in parts if part["name"] == "av"]
    licences = {
        inner["name"].partition("-")[0]: inner["licenses"][0]["license"]["id"]
        for inner in av["components"]
        if "licenses" in inner
    }
    assert licences["libx264"] == licences["libx265"] == "GPL-2.0-or-later"
    assert licences["libavcodec"] == "LGPL-3.0-or-later"
    [model] = [part for part in parts if part["type"] == "machine-learning-model"]
    told = inside.exec("sha256sum", f"/opt/lamppost/models/{model['name']}.onnx").output
    assert told.split()[0] == model["hashes"][0]["content"]
    assert "x264" in inside.exec("cat", "/opt/lamppost/licences/NOTICE").output


def test_the_root_has_no_setuid_program_to_gain_by(inside: Container) -> None:
    """They are there, in the base image; without new privileges they give nothing."""
    assert "NoNewPrivs:\t1" in inside.exec("cat", "/proc/self/status").output
    assert re.search(r"CapEff:\s+0+\n", inside.exec("cat", "/proc/self/status").output)


def test_the_dockerfile_is_clean() -> None:
    lock = ROOT / "tests" / "support" / "containers" / "hadolint.txt"
    with installing("hadolint") as folder:
        hadolint = folder / "bin" / "hadolint"
        stamp = folder / "installed.txt"
        if not hadolint.exists() or not stamp.exists() or stamp.read_text() != lock.read_text():
            run([sys.executable, "-m", "venv", "--clear", folder])
            run([folder / "bin" / "pip", "install", "-q", "--require-hashes", "-r", lock])
            stamp.write_text(lock.read_text())
    run([hadolint, "--config", ".hadolint.yaml", "Dockerfile"], cwd=ROOT)


def test_the_lock_of_detect_gpu_can_be_installed() -> None:
    """Resolved for the platform of its image, each file's hash known; gigabytes are not fetched."""
    uv = ROOT / ".tools" / "bin" / "uv"
    if not uv.exists():
        uv = ROOT / ".tools" / "lib" / "bin" / "uv"
    sys.path.insert(0, str(ROOT / "setup"))
    import bootstrap

    said = run(
        [
            *(uv, "pip", "install", "--dry-run", "--no-progress", "--no-deps", "--require-hashes"),
            *("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"),
            *("--only-binary", ":all:", "--target", ROOT / ".tools" / "gpu-dry-run"),
            *("-r", "requirements/gpu.txt"),
        ],
        cwd=ROOT,
        env=bootstrap.environment(),
    )
    wanted = dict(looks.locked("gpu.txt"))
    for name in ("torch", "torchvision", "ultralytics", "nvidia-cudnn-cu13"):
        assert f"{name}=={wanted[name]}" in said, said[-3000:]


@pytest.mark.parametrize("command", [("id", "-u"), ("stat", "-c", "%u", STATE)])
def test_the_volume_is_the_users_own(engine: Engine, command: tuple[str, ...]) -> None:
    """A new volume takes the owner of the folder in the image."""
    options = (*AS_KUBERNETES, "--network", "none", "--entrypoint", command[0])
    done = engine.once(IMAGE, *command[1:], options=options)
    assert done.output.strip() == str(UID), done.output
