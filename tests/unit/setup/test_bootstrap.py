"""The installer: what it reads, when it has nothing to do, how it retries. No network."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def bootstrap(tmp_path: Path) -> ModuleType:
    """The module on an empty checkout of its own."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "setup" / "bootstrap.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    (tmp_path / "requirements").mkdir()
    for name in ("run.txt", "test.txt", "build.txt", "tools.txt"):
        (tmp_path / "requirements" / name).write_text(name)
    (tmp_path / "pyproject.toml").write_text("x")
    module.ROOT, module.TOOLS, module.VENV = tmp_path, tmp_path / ".tools", tmp_path / ".venv"
    module.STAMP = tmp_path / ".venv" / "stamp.json"
    return module


def _installed(bootstrap: ModuleType, goal: str) -> None:
    (bootstrap.VENV / "bin").mkdir(parents=True, exist_ok=True)
    (bootstrap.VENV / "bin" / "python").write_text("")
    bootstrap.write_stamp(goal)


def test_nothing_is_done_twice(bootstrap: ModuleType) -> None:
    assert not bootstrap.is_current("run")
    _installed(bootstrap, "run")
    assert bootstrap.is_current("run") and not bootstrap.is_current("test")
    assert bootstrap.main(["run"]) == 0


def test_what_tests_need_includes_what_running_needs(bootstrap: ModuleType) -> None:
    _installed(bootstrap, "test")
    assert bootstrap.is_current("run") and bootstrap.is_current("test")


@pytest.mark.parametrize(
    "name", ["requirements/run.txt", "pyproject.toml", "requirements/build.txt"]
)
def test_a_changed_lock_or_project_installs_again(bootstrap: ModuleType, name: str) -> None:
    _installed(bootstrap, "run")
    (bootstrap.ROOT / name).write_text("changed")
    assert not bootstrap.is_current("run")


def test_a_python_that_was_removed_installs_again(bootstrap: ModuleType) -> None:
    _installed(bootstrap, "run")
    (bootstrap.VENV / "bin" / "python").unlink()
    (bootstrap.VENV / "bin" / "python").symlink_to("/nowhere/python")
    assert not bootstrap.is_current("run")


def test_pip_settings_are_read_from_every_section(bootstrap: ModuleType) -> None:
    listing = (
        "global.index-url='https://index.test/simple'\n"
        "install.extra-index-url='https://a.test\\nhttps://b.test'\n"
        ":env:.cert='/etc/ca.pem'\n"
        "freeze.timeout='10'\n"
        "nonsense\n"
    )
    assert bootstrap.parse_pip_settings(listing) == {
        "index-url": "https://index.test/simple",
        "extra-index-url": "https://a.test https://b.test",
        "cert": "/etc/ca.pem",
    }


def test_the_index_of_pip_becomes_uvs_unless_uv_has_its_own(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "pip_settings", lambda: {"index-url": "https://index.test"})
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    assert bootstrap.environment()["UV_DEFAULT_INDEX"] == "https://index.test"
    monkeypatch.setenv("UV_INDEX_URL", "https://own.test")
    assert "UV_DEFAULT_INDEX" not in bootstrap.environment()


def test_a_failing_network_is_tried_again_and_then_explained(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    class Clock:
        def wait(self, _event: object, seconds: float) -> bool:
            waits.append(seconds)
            return False

    monkeypatch.setattr(bootstrap, "SystemClock", Clock)
    monkeypatch.setattr(bootstrap, "pip_settings", dict)
    counter = tmp_path / "tries"
    count = f"echo x >> {counter}; test $(wc -l < {counter}) -ge 3"
    bootstrap.with_retries(["sh", "-c", count])
    assert waits == [2, 4]
    with pytest.raises(bootstrap.SetupError, match="PIP_INDEX_URL"):
        bootstrap.with_retries(["false"])


def test_a_python_without_venv_and_pip_is_told_what_to_install(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "works", lambda *_: False)
    with pytest.raises(bootstrap.SetupError, match="python3-venv"):
        bootstrap.install_uv()


def _candidates(folder: Path, **scripts: str) -> dict[str, str]:
    folder.mkdir()
    for name, text in scripts.items():
        path = folder / name.replace("_", ".")
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    return {"PATH": f"{folder}:/bin", "HOME": str(folder)}


def test_a_shim_that_does_not_start_is_passed_over(tmp_path: Path) -> None:
    """`python3.11` fails as pyenv's shims do; `python3.12` works."""
    env = _candidates(
        tmp_path / "bin", python3_11="exit 127", python3_12=f'exec "{sys.executable}" "$@"'
    )
    done = subprocess.run(
        [str(ROOT / "setup" / "python"), "-c", "print('started')"],
        env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "started\n")


def test_a_named_python_wins(tmp_path: Path) -> None:
    env = _candidates(tmp_path / "bin", mine=f'echo mine; exec "{sys.executable}" "$@"')
    env["PYTHON"] = str(tmp_path / "bin" / "mine")
    done = subprocess.run(
        [str(ROOT / "setup" / "python"), "-c", "pass"], env=env, capture_output=True, text=True
    )
    assert done.stdout == "mine\n"


def test_make_alone_lists_the_targets() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0
    for target in ("run", "test", "prove", "torture", "bench", "lint", "clean", "lock"):
        assert f"make {target}" in done.stdout
