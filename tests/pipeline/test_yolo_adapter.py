"""The adapter `yolo` finds what the adapter `onnx` finds with the same weights, and asks nobody.

On demand: the extra is gigabytes (requirements/yolo.txt), and LAMPPOST_DATA must have the weights.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from services.detect.detector import Detector
from services.detect.open_detector import open_detector
from shared.errors import Kind, LamppostError
from shared.settings import Settings
from tests.support.detecting import data_file, equal_share, pictures_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(500),
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(
        importlib.util.find_spec("ultralytics") is None,
        reason="the extra `yolo` is not installed (requirements/yolo.txt)",
    ),
]
ROOT = Path(__file__).parents[2]
EVERY = 20
Note = Callable[[str, object], None]


def opened(state: Path, weights: str, adapter: str, **detect: object) -> Detector:
    path = data_file("weights", weights)
    given = {
        "model": str(path),
        "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "adapter": adapter,
        "precision": "f32",
        "device": "cpu",
        **detect,
    }
    return open_detector(Settings.model_validate({"state_dir": state, "detect": given}))


def test_the_same_weights_give_the_same_boxes(tmp_path: Path, record_property: Note) -> None:
    video = pictures_of(data_file("footage", "vtest.avi"), EVERY)
    pictures = [picture for _, picture in video]
    yolo = opened(tmp_path, "yolo26n-rec.pt", "yolo", batch=4).detect(pictures)
    assert sum(map(len, yolo)) > 200
    for adapter in ("openvino", "onnxruntime"):
        ours = opened(tmp_path, "yolo26n-rec-640.onnx", adapter).detect(pictures)
        share = equal_share(ours, yolo)
        record_property(
            "figure",
            f"boxes of yolo26n equal at IoU .95, {adapter} and ultralytics: {share:.2%} of "
            f"{sum(map(len, yolo))} in {len(pictures)} frames of vtest",
        )
        assert share >= 0.99, adapter


def test_weights_that_are_none_are_invalid(tmp_path: Path) -> None:
    path = tmp_path / "junk.pt"
    path.write_bytes(b"junk" * 100)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    given = {"model": str(path), "model_sha256": digest, "adapter": "yolo"}
    with pytest.raises(LamppostError) as caught:
        open_detector(Settings.model_validate({"state_dir": tmp_path, "detect": given}))
    assert caught.value.kind is Kind.INVALID


def test_it_asks_nobody_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """In a process of its own, as pytest alone would switch ultralytics' reports off. Every attempt
    to reach an address or a name ends the process."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    path = data_file("weights", "yolo26n-rec.pt")
    program = (
        "import os, sys\n"
        "def watch(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'):\n"
        "        os.write(2, f'{event} {arguments}'.encode()); os._exit(7)\n"
        "    if event == 'subprocess.Popen' and 'pip' in str(arguments):\n"
        "        os.write(2, str(arguments).encode()); os._exit(8)\n"
        "sys.addaudithook(watch)\n"
        "import numpy as np\n"
        "from services.detect.open_detector import open_detector\n"
        "from shared.settings import load\n"
        "detector = open_detector(load())\n"
        "detector.detect([np.zeros((90, 160, 3), np.uint8)] * 3)\n"
        "from ultralytics.utils import SETTINGS, events\n"
        "print(SETTINGS['sync'], events.events.enabled)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=work,
        env={
            "HOME": str(home),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "LAMPPOST_STATE_DIR": str(tmp_path / "state"),
            "LAMPPOST_DETECT__ADAPTER": "yolo",
            "LAMPPOST_DETECT__DEVICE": "cpu",
            "LAMPPOST_DETECT__MODEL": str(path),
            "LAMPPOST_DETECT__MODEL_SHA256": hashlib.sha256(path.read_bytes()).hexdigest(),
        },
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["False", "False"]
    assert list(work.iterdir()) == []
    assert not (home / ".config" / "Ultralytics").exists()
    assert (tmp_path / "state" / "ultralytics").is_dir()
