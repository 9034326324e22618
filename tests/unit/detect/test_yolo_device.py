"""The adapter `yolo` says at its opening what is wrong with the device that it was given."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from services.cli.output import UNAVAILABLE, USAGE, exit_code
from services.detect.detector import Detector
from services.detect.open_detector import open_detector
from shared.errors import Kind, LamppostError
from shared.settings import Settings


@dataclass
class Torch:
    """What the adapter asks torch: `built` with CUDA, `gpus` that it sees, threads it was given."""

    gpus: int = 0
    built: str | None = "13.0"
    threads: list[int] = field(default_factory=list)
    backends: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(cudnn=SimpleNamespace(allow_tf32=True))
    )
    __version__ = "2.9.1"

    @property
    def version(self) -> SimpleNamespace:
        return SimpleNamespace(cuda=self.built)

    @property
    def cuda(self) -> SimpleNamespace:
        return SimpleNamespace(is_available=lambda: self.gpus > 0, device_count=lambda: self.gpus)

    def set_num_threads(self, count: int) -> None:
        self.threads.append(count)


@dataclass
class Ultralytics:
    """Weights that find nothing; `opened` and `devices` say what was asked of them."""

    opened: list[str] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    __version__ = "8.4.0"

    def YOLO(self, path: Path, task: str) -> Any:
        self.opened.append(path.name)
        return SimpleNamespace(
            names={0: "person"}, overrides={}, model=SimpleNamespace(), predict=self._predict
        )

    def _predict(self, source: list[Any], **arguments: Any) -> list[Any]:
        self.devices.append(arguments["device"])
        nothing = SimpleNamespace(
            cpu=lambda: SimpleNamespace(numpy=lambda: np.zeros((0, 6), np.float32))
        )
        return [SimpleNamespace(boxes=SimpleNamespace(data=nothing)) for _ in source]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Ultralytics:
    for name in ("YOLO_OFFLINE", "YOLO_AUTOINSTALL", "YOLO_VERBOSE", "YOLO_CONFIG_DIR"):
        monkeypatch.setenv(name, "")  # put back afterwards
    found = Ultralytics()
    monkeypatch.setitem(sys.modules, "ultralytics", found)
    return found


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Torch:
    found = Torch()
    monkeypatch.setitem(sys.modules, "torch", found)
    return found


def opened(folder: Path, device: str, precision: str = "auto") -> Detector:
    path = folder / "weights.pt"
    path.write_bytes(b"weights")
    detect = {
        "adapter": "yolo",
        "device": device,
        "precision": precision,
        "model": str(path),
        "model_sha256": hashlib.sha256(b"weights").hexdigest(),
    }
    return open_detector(Settings.model_validate({"state_dir": folder, "detect": detect}))


def refused(folder: Path, device: str) -> LamppostError:
    with pytest.raises(LamppostError) as caught:
        opened(folder, device)
    return caught.value


def looked_on(folder: Path, device: str, library: Ultralytics) -> str:
    """The device of a picture."""
    detector = opened(folder, device)
    assert detector.detect([np.zeros((32, 32, 3), np.uint8)]) == [[]]
    return library.devices[-1]


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "0"])
def test_a_gpu_that_is_not_there_is_named(
    tmp_path: Path, library: Ultralytics, torch: Torch, device: str
) -> None:
    error = refused(tmp_path, device)
    assert error.kind is Kind.UNAVAILABLE
    assert exit_code(error.kind) == UNAVAILABLE
    assert error.message == f"detect.device is {device}, and torch sees no GPU."
    for what in ("nvidia-smi", "--gpus", "detect.device", "cpu"):
        assert what in error.fix
    assert library.opened == []


def test_a_gpu_beyond_those_there_are_is_named(
    tmp_path: Path, library: Ultralytics, torch: Torch
) -> None:
    torch.gpus = 2
    assert looked_on(tmp_path, "cuda:1", library) == "cuda:1"
    error = refused(tmp_path, "cuda:2")
    assert error.kind is Kind.UNAVAILABLE
    assert error.message == "detect.device is cuda:2, and torch sees GPUs 0 to 1."


def test_a_torch_for_processors_alone_is_named(
    tmp_path: Path, library: Ultralytics, torch: Torch
) -> None:
    torch.built = None
    error = refused(tmp_path, "cuda")
    assert error.kind is Kind.NOT_BUILT
    assert exit_code(error.kind) == USAGE
    assert "torch 2.9.1 was built without CUDA" in error.message
    assert "detect-gpu" in error.fix


@pytest.mark.parametrize("device", ["gpu", "cuda0", "cuda:x", "cuda:", "-1", "", "0,1"])
def test_what_is_no_device_is_invalid(
    tmp_path: Path, library: Ultralytics, torch: Torch, device: str
) -> None:
    torch.gpus = 8
    error = refused(tmp_path, device)
    assert error.kind is Kind.INVALID
    assert repr(device) in error.message


def test_auto_takes_what_there_is(tmp_path: Path, library: Ultralytics, torch: Torch) -> None:
    assert looked_on(tmp_path, "auto", library) == "cpu"
    assert torch.threads == [1]
    torch.gpus = 1
    assert looked_on(tmp_path, "auto", library) == "cuda:0"
    assert looked_on(tmp_path, "0", library) == "cuda:0"
    assert looked_on(tmp_path, "cuda", library) == "cuda:0"
    assert torch.threads == [1]


def test_the_processor_is_there_without_a_gpu(
    tmp_path: Path, library: Ultralytics, torch: Torch
) -> None:
    assert looked_on(tmp_path, "cpu", library) == "cpu"


def test_f32_on_a_gpu_is_f32(tmp_path: Path, library: Ultralytics, torch: Torch) -> None:
    """Torch would let the GPU round what convolutions multiply; half precision may stay quick."""
    torch.gpus = 1
    assert opened(tmp_path, "cuda:0").facts.precision == "f16"
    assert torch.backends.cudnn.allow_tf32
    assert opened(tmp_path, "cuda:0", "f32").facts.precision == "f32"
    assert not torch.backends.cudnn.allow_tf32
