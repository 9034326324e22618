"""Which detector the settings mean. docs/architecture.md, "detect"."""

from __future__ import annotations

from pathlib import Path

from services.detect.detector import Detector
from services.detect.model_store import Model, ModelStore, is_path
from services.detect.onnx_detector import Ask, Choice, OnnxDetector, open_runtime, read_model
from shared.errors import Kind, LamppostError
from shared.settings import Settings

YOLO_HOME = Path("ultralytics")
"""What ultralytics keeps for itself, below the state folder."""


def open_detector(settings: Settings) -> Detector:
    """The detector of these settings; takes a second or more.

    NOT_FOUND: no such model. CORRUPT: it has not the hash it must have. INVALID: it is no model
    for detection, or `device` names none. NOT_BUILT: the adapter's libraries are not installed.
    UNAVAILABLE: the device is not there.
    """
    detect = settings.detect
    if detect.adapter == "yolo":
        from services.detect.yolo_detector import YoloDetector

        return YoloDetector(*_weights(settings), detect, settings.path(YOLO_HOME))
    model = ModelStore(settings.path(detect.models_dir)).find(detect.model, detect.model_sha256)
    return open_model(model, settings)


def open_model(model: Model, settings: Settings) -> Detector:
    """An ONNX model of the store with the other settings, whatever adapter and model they name."""
    detect = settings.detect
    choice: Choice = "auto" if detect.adapter == "yolo" else detect.adapter
    # Read again, and hashed again: what the store looked at may have been replaced since.
    runtime = open_runtime(read_model(model.path, model.sha256), choice, detect.precision)
    known = model.card.classes if model.card else ()
    try:
        ask = Ask(detect.classes, detect.threshold)
        return OnnxDetector(runtime, model.name, model.sha256, ask, known)
    except LamppostError:
        runtime.close()
        raise


def _weights(settings: Settings) -> tuple[Path, str]:
    """Path and hash of ultralytics weights. They run code when they are loaded, so that no file
    is opened whose hash nobody stated."""
    detect = settings.detect
    if not is_path(detect.model) or detect.model_sha256 is None:
        raise LamppostError(
            Kind.INVALID,
            "The adapter `yolo` needs weights by path, with their SHA-256.",
            fix="Set detect.model to a .pt file and detect.model_sha256 to its hash.",
        )
    return Path(detect.model), detect.model_sha256
