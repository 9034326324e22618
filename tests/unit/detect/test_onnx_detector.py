"""The adapter `onnx`: where its boxes lie, which models it takes, and which way it opens them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import structlog
from onnx import TensorProto, helper

from services.detect import coco, onnx_detector
from services.detect.detector import Detector
from services.detect.model_store import ModelCard, ModelStore
from services.detect.onnx_detector import Ask, OnnxDetector, open_runtime, read_model
from services.detect.open_detector import open_detector
from services.detect.outputs import Layout
from services.detect.runtimes import Unfit, input_of
from services.detect.yolo_detector import YoloDetector
from shared.errors import Kind, LamppostError
from shared.settings import Detect, Settings
from shared.sightings import CLASSES
from tests.support.detecting import KINDS, SIDE, Block, equal_share, expected, paint, tiny_model

RUNTIMES = ("openvino", "onnxruntime")
ROOT = Path(__file__).parents[3]


def opened(data: bytes, runtime: str = "openvino", threshold: float = 0.2) -> OnnxDetector:
    return OnnxDetector(
        open_runtime(data, runtime, "f32"),  # type: ignore[arg-type]
        "tiny",
        hashlib.sha256(data).hexdigest(),
        Ask(CLASSES, threshold),
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("layout", Layout)
def test_boxes_lie_where_the_things_are(runtime: str, layout: Layout) -> None:
    detector = opened(tiny_model(layout), runtime)
    cases = [
        ((320, 320), Block(4, 6, "person")),
        ((640, 640), Block(0, 9, "dog", 0.6)),
        ((1280, 768), Block(9, 2, "car", 0.8)),
        ((192, 320), Block(5, 0, "person", 0.4)),
    ]
    for (width, height), block in cases:
        scale = SIDE / max(width, height)
        # The picture lies in the middle of the input, by whole cells.
        inset = ((SIDE - width * scale) / 2 / 32, (SIDE - height * scale) / 2 / 32)
        inside = block._replace(column=block.column % 6, row=block.row % 6)
        (found,) = detector.detect([paint(width, height, [inside])])
        assert inset == (int(inset[0]), int(inset[1]))
        wanted = expected(width, height, inside)
        assert len(found) == 1
        assert found[0].class_name == wanted.class_name
        assert np.allclose(found[0][1:], wanted[1:], atol=1e-3)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize(
    "made",
    [
        {"batch": 1},
        {"batch": 3},
        {"open_size": True},
        {"named": False},
        {"kind": TensorProto.FLOAT16},
    ],
    ids=lambda made: "-".join(made),
)
def test_models_of_every_make_say_the_same(
    runtime: str, layout: Layout, made: dict[str, object]
) -> None:
    if made == {"open_size": True}:
        layout = Layout.BOXES
    pictures = [
        paint(320, 320, [Block(column, 5, kind, 0.9)]) for column, kind in enumerate(KINDS)
    ] + [paint(640, 640, [Block(2, 2, "car")])]
    plain = opened(tiny_model(layout)).detect(pictures)
    detector = opened(tiny_model(layout, **made), runtime)  # type: ignore[arg-type]
    found = detector.detect(pictures)
    assert (detector.facts.width, detector.facts.height) == (SIDE, SIDE)
    assert detector.facts.classes == coco.NAMES
    assert equal_share(found, plain) == 1
    assert [len(boxes) for boxes in found] == [1, 1, 1, 1]


def reshaped(
    shape: list[int | str], kind: int = TensorProto.FLOAT, outputs: int = 1, inputs: int = 1
) -> bytes:
    """A model whose output is its input."""
    names = [f"in{n}" for n in range(inputs)]
    nodes = [helper.make_node("Identity", ["in0"], [f"out{n}"]) for n in range(outputs)]
    ins = [helper.make_tensor_value_info(name, kind, shape) for name in names]
    outs = [helper.make_tensor_value_info(f"out{n}", kind, shape) for n in range(outputs)]
    model = helper.make_model(
        helper.make_graph(nodes, "odd", ins, outs),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "data",
    [
        reshaped([1, 3, 64, 64]),
        reshaped([1, 64, 64, 3]),
        reshaped([1, 3, 64]),
        reshaped([1, 3, 16, 64]),
        reshaped([1, 3, 64, 8192]),
        reshaped([500, 3, 64, 64]),
        reshaped([1, 3, 64, 64], TensorProto.INT64),
        reshaped([1, 3, 64, 64], outputs=2),
        reshaped([1, 3, 64, 64], inputs=2),
    ],
    ids=["no boxes", "channels last", "rank", "small", "large", "batch", "type", "outs", "ins"],
)
def test_a_model_of_something_else_is_invalid_with_a_sentence(runtime: str, data: bytes) -> None:
    with pytest.raises(LamppostError, match="not understood") as caught:
        opened(data, runtime)
    assert caught.value.kind is Kind.INVALID
    assert caught.value.fix


@pytest.mark.parametrize("runtime", (*RUNTIMES, "auto"))
@pytest.mark.parametrize("data", [b"", b"junk" * 100, tiny_model(Layout.BOXES)[:-900]])
def test_a_file_that_is_no_model_is_invalid(runtime: str, data: bytes) -> None:
    with pytest.raises(LamppostError) as caught:
        opened(data, runtime)
    assert caught.value.kind is Kind.INVALID


def test_a_size_left_open_is_that_of_the_metadata_else_640() -> None:
    free = [([None, 3, None, None], "f32")]
    assert input_of(free, 1, {}) == (1, 640, 640)
    assert input_of(free, 1, {"imgsz": "[384, 640]"}) == (1, 384, 640)
    assert input_of(free, 1, {"imgsz": "nonsense"}) == (1, 640, 640)
    assert input_of([([2, 3, 96, None], "f16")], 1, {"imgsz": "[384, 512]"}) == (2, 96, 512)


def settings(folder: Path, **detect: object) -> Settings:
    return Settings.model_validate({"state_dir": folder, "detect": detect})


def install(folder: Path, name: str = "tiny") -> Path:
    data = tiny_model(Layout.ANCHORS, named=False)
    card = ModelCard(
        name=name,
        title="Tiny",
        licence="CC0-1.0",
        source="generated",
        sha256=hashlib.sha256(data).hexdigest(),
        classes=coco.NAMES,
        height=SIDE,
        width=SIDE,
        layout="anchors",
    )
    return ModelStore(folder / "models").write(data, card).path


def sees_a_person(detector: Detector) -> bool:
    (found,) = detector.detect([paint(320, 320, [Block(3, 3, "person")])])
    return [box.class_name for box in found] == ["person"]


def test_an_installed_model_is_opened_by_its_name(tmp_path: Path) -> None:
    path = install(tmp_path)
    detector = open_detector(settings(tmp_path, model="tiny"))
    assert detector.facts.name == "tiny"
    assert detector.facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert detector.facts.runtime.startswith("openvino 20")
    assert sees_a_person(detector)


def test_a_model_that_is_not_there_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(LamppostError, match="model fetch") as caught:
        open_detector(settings(tmp_path))
    assert caught.value.kind is Kind.NOT_FOUND


def test_bytes_that_changed_after_the_store_looked_are_refused(tmp_path: Path) -> None:
    path = install(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(LamppostError) as caught:
        read_model(path, digest)
    assert caught.value.kind is Kind.CORRUPT


def test_auto_falls_back_to_onnx_runtime_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise Unfit("OpenVINO is not installed: no such module")

    install(tmp_path)
    monkeypatch.setattr(onnx_detector, "OpenVinoRuntime", missing)
    with structlog.testing.capture_logs() as logs:
        detector = open_detector(settings(tmp_path, model="tiny"))
    assert detector.facts.runtime.startswith("onnxruntime 1")
    assert sees_a_person(detector)
    assert [(log["log_level"], "not installed" in log["cause"]) for log in logs] == [
        ("warning", True)
    ]


def test_a_runtime_that_was_asked_for_has_no_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(LamppostError, match="not installed") as caught:
        open_detector(settings(tmp_path, model="tiny", adapter="openvino"))
    assert caught.value.kind is Kind.NOT_BUILT
    assert sees_a_person(open_detector(settings(tmp_path, model="tiny", adapter="auto")))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_that_fails_is_unavailable(runtime: str) -> None:
    class Failing:
        def __init__(self) -> None:
            good = open_runtime(tiny_model(Layout.BOXES), runtime, "f32")  # type: ignore[arg-type]
            self.name, self.precision = good.name, good.precision
            self.metadata, self.canvas, self._run = good.metadata, good.canvas, good.run
            self.runs = 0

        def run(self) -> np.ndarray:
            self.runs += 1
            if self.runs > 1:
                raise RuntimeError("the device went away")
            return self._run()

        def close(self) -> None: ...

    detector = OnnxDetector(Failing(), "tiny", "0" * 64, Ask(CLASSES, 0.2))
    with pytest.raises(LamppostError, match="went away") as caught:
        detector.detect([paint(320, 320)])
    assert caught.value.kind is Kind.UNAVAILABLE


def test_openvino_reports_to_nobody_and_starts_few_threads(tmp_path: Path) -> None:
    """In a process of its own: importing OpenVINO unprepared would leave its client's id in the
    home folder and send an event."""
    path = install(tmp_path)
    program = (
        "import os, sys\n"
        "from services.detect.open_detector import open_detector\n"
        "from shared.settings import load\n"
        "detector = open_detector(load())\n"
        "sent = [m for m, v in sys.modules.items() if 'openvino_telemetry' in m and v]\n"
        "print(detector.facts.runtime, sent, len(os.listdir('/proc/self/task')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={
            "HOME": str(tmp_path / "home"),
            "PATH": "/usr/bin:/bin",
            "LAMPPOST_STATE_DIR": str(tmp_path),
            "LAMPPOST_DETECT__MODEL": path.stem,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    runtime, _, rest = done.stdout.strip().partition(" [")
    assert runtime.startswith("openvino ")
    sent, _, threads = rest.partition("] ")
    assert sent == ""
    assert int(threads) <= 8
    assert not (tmp_path / "home").exists()


def weights(folder: Path) -> tuple[Path, str]:
    path = folder / "weights.pt"
    path.write_bytes(b"not weights")
    return path, hashlib.sha256(b"not weights").hexdigest()


def test_yolo_checks_the_hash_before_anything_else(tmp_path: Path) -> None:
    path, _ = weights(tmp_path)
    with pytest.raises(LamppostError, match="SHA-256") as caught:
        YoloDetector(path, "0" * 64, Detect(), tmp_path / "home")
    assert caught.value.kind is Kind.CORRUPT
    assert not (tmp_path / "home").exists()


def test_yolo_says_how_to_install_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, digest = weights(tmp_path)
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    asked = settings(tmp_path, adapter="yolo", model=str(path), model_sha256=digest)
    with pytest.raises(LamppostError, match=r"requirements/yolo\.txt") as caught:
        open_detector(asked)
    assert caught.value.kind is Kind.NOT_BUILT


@pytest.mark.parametrize("detect", [{"model": "tiny"}, {"model": "w.pt"}, {"model": "w.onnx"}])
def test_yolo_opens_no_file_without_a_stated_hash(tmp_path: Path, detect: dict[str, str]) -> None:
    with pytest.raises(LamppostError) as caught:
        open_detector(settings(tmp_path, adapter="yolo", **detect))
    assert caught.value.kind is Kind.INVALID
