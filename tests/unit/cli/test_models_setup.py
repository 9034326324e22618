"""The default model beside a first start: when it is fetched, and that it stops nothing."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services import doctor, models_setup
from services.detect import model_fetch
from services.detect.model_store import ModelStore
from services.models_setup import Provider, is_wanted, npm_folder
from shared.clock import SystemClock
from shared.errors import Kind, LamppostError
from shared.runtime import Stop
from shared.settings import Settings
from tests.support.wait import until

NAME = "coco-ssd-480x640"


def _settings(folder: Path, **detect: object) -> Settings:
    return Settings.model_validate({"state_dir": folder, "detect": detect})


def _script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


def _no_progress(*_: object) -> None:
    """Nobody looks."""


def test_only_a_model_that_can_be_had_and_is_not_there_is_wanted(tmp_path: Path) -> None:
    assert is_wanted(_settings(tmp_path))
    assert not is_wanted(_settings(tmp_path, workers=0))
    assert not is_wanted(_settings(tmp_path, model="/models/mine.onnx"))
    assert not is_wanted(_settings(tmp_path, model="yolo26n-640"))
    data = b"stands in for the model"
    digest = hashlib.sha256(data).hexdigest()
    ModelStore(tmp_path / "models").write(data, model_fetch.card(480, 640, digest))
    assert not is_wanted(_settings(tmp_path))
    assert is_wanted(_settings(tmp_path, model="coco-ssd-576x768"))


def test_the_machine_s_npm_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _script(tmp_path / "bin" / "npm", "exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert npm_folder(_no_progress, tmp_path) == tmp_path / "bin"


def test_without_npm_the_checkout_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _script(tmp_path / "broken" / "npm", "exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'broken'}:{os.environ['PATH']}")
    with pytest.raises(LamppostError) as caught:
        npm_folder(_no_progress, tmp_path)
    assert caught.value.kind is Kind.UNAVAILABLE and "--from" in caught.value.fix
    _script(tmp_path / "setup" / "node.sh", "echo working >&2; echo $PWD/got")
    with pytest.raises(LamppostError, match="could not be installed"):
        npm_folder(_no_progress, tmp_path)
    _script(tmp_path / "got" / "npm", "exit 0")
    assert npm_folder(_no_progress, tmp_path) == tmp_path / "got"
    _script(tmp_path / "setup" / "node.sh", "echo no network >&2; exit 3")
    with pytest.raises(LamppostError, match="could not be installed"):
        npm_folder(_no_progress, tmp_path)


async def test_a_fetch_that_fails_is_a_line_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _script(
        tmp_path / "bin" / "npm",
        '[ "$1" = --version ] && exit 0\necho "npm error code ENOTFOUND" >&2\nexit 1',
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(models_setup, "RETRY_S", ())
    with capture_logs() as lines:
        await Provider(_settings(tmp_path / "state"), SystemClock()).run(Stop())
    assert [line["event"] for line in lines] == [
        "fetching the detection model; recording does not wait for it",
        "nothing is detected: there is no model",
    ]
    assert "ENOTFOUND" in lines[-1]["cause"] and lines[-1]["how"] == "lamppost model fetch"
    assert lines[-1]["log_level"] == "warning"


async def test_a_stop_ends_the_fetch_and_its_npm_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    _script(
        tmp_path / "bin" / "npm",
        f'[ "$1" = --version ] && exit 0\necho $$ > {pid}.part; mv {pid}.part {pid}\nsleep 60',
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    stop, clock = Stop(), SystemClock()
    running = asyncio.ensure_future(Provider(_settings(tmp_path / "state"), clock).run(stop))
    await until(pid.exists, 30, "npm was asked")
    asked_us = clock.monotonic_us()
    stop.set()
    await running
    assert clock.monotonic_us() - asked_us < 2_500_000
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    left = [path.name for path in (tmp_path / "state" / "models").iterdir()]
    assert left == [".fetch.lock"]


async def test_detection_that_is_off_fetches_nothing(tmp_path: Path) -> None:
    with capture_logs() as lines:
        await Provider(_settings(tmp_path, workers=0), SystemClock()).run(Stop())
    assert lines == [] and not (tmp_path / "models").exists()


def test_the_doctor_says_whether_there_is_a_model(tmp_path: Path) -> None:
    missing = doctor.model(_settings(tmp_path))
    assert missing.verdict == "warning" and "lamppost model fetch" in missing.fix
    assert doctor.model(_settings(tmp_path, workers=0)).verdict == "ok"
    data = b"stands in for the model"
    digest = hashlib.sha256(data).hexdigest()
    model = ModelStore(tmp_path / "models").write(data, model_fetch.card(480, 640, digest))
    found = doctor.model(_settings(tmp_path))
    assert found.verdict == "ok" and NAME in found.detail and "Apache-2.0" in found.detail
    model.path.write_bytes(b"changed")
    assert doctor.model(_settings(tmp_path)).verdict == "warning"
