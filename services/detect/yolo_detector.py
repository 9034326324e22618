"""Adapter `yolo` of port Detector: ultralytics on a GPU or a CPU, an extra of its own.

The only module that imports ultralytics or torch, which are gigabytes and AGPL-3.0. Weights are
pickles, which run code when they are opened, so their hash is checked first, and what is opened is
the private copy of the bytes that were hashed. Ultralytics is kept from the network, from
installing packages and from reporting by the environment it is imported in.
docs/architecture.md, "detect".
"""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2

from services.detect.detector import Found, ModelFacts, Picture
from services.detect.letterbox import check
from services.detect.onnx_detector import read_model
from services.detect.outputs import MAX_BOXES, MAX_OVERLAP
from shared.errors import Kind, LamppostError
from shared.settings import Detect

SUFFIX = ".pt"
DEFAULT_SIDE = 640
HALF_BITS = 16
ENVIRONMENT = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
INSTALL = (
    "Run `.tools/bin/uv pip install --python .venv/bin/python --no-deps --require-hashes "
    "-r requirements/yolo.txt` (gigabytes), or set detect.adapter to auto."
)

GIVE_A_GPU = (
    "See whether nvidia-smi lists it here. A container needs NVIDIA's runtime and the GPU given to "
    "it (Docker: --gpus all; Kubernetes: a limit on nvidia.com/gpu). Without one set detect.device "
    "to auto or cpu."
)


def load(home: Path) -> Any:
    """The library, offline and silent; it keeps its settings in `home`. NOT_BUILT without it."""
    os.environ.update(ENVIRONMENT, YOLO_CONFIG_DIR=str(home))
    try:
        home.mkdir(parents=True, exist_ok=True)
        ultralytics = importlib.import_module("ultralytics")
    except ImportError as error:
        raise LamppostError(
            Kind.NOT_BUILT, f"The adapter `yolo` is not installed: {error}.", fix=INSTALL
        ) from error
    ultralytics.settings.update({"sync": False})
    return ultralytics


class YoloDetector:
    """See the port; belongs to one thread."""

    def __init__(self, path: Path, sha256: str, settings: Detect, home: Path) -> None:
        """CORRUPT when the file has another hash; INVALID when it holds no weights or the device
        is none; UNAVAILABLE, or NOT_BUILT, when the device is not there."""
        if path.suffix != SUFFIX:
            raise LamppostError(
                Kind.INVALID,
                f"The adapter `yolo` takes {SUFFIX} weights, not {path.name}.",
                fix="Set detect.adapter to auto for an ONNX model.",
            )
        data = read_model(path, sha256)
        ultralytics = load(home)
        torch = importlib.import_module("torch")
        self._device = _device(torch, settings.device)
        if self._device == "cpu":
            torch.set_num_threads(1)
        cv2.setNumThreads(1)
        self._model: Any = _weights(ultralytics, path.name, data)
        names: dict[int, str] = self._model.names
        self._names = tuple(names[number] for number in sorted(names))
        self._chunk = settings.batch
        self._arguments = self._fixed_arguments(settings)
        half = self._arguments["quantize"] == HALF_BITS
        if self._device != "cpu" and not half:
            # Torch lets a GPU round what convolutions multiply to ten bits unless told, and a
            # sighting would say f32 of boxes that were not computed in it.
            torch.backends.cudnn.allow_tf32 = False
        height, width = self._arguments["imgsz"]
        version = f"ultralytics {ultralytics.__version__}"
        self.facts = ModelFacts(
            path.stem, sha256, "f16" if half else "f32", version, self._names, width, height
        )

    def _fixed_arguments(self, settings: Detect) -> dict[str, Any]:
        wanted = [n for n, name in enumerate(self._names) if name in settings.classes]
        if not wanted:
            raise LamppostError(Kind.INVALID, "The weights know none of the classes asked for.")
        half = self._device != "cpu" and settings.precision == "auto"
        side = self._model.overrides.get("imgsz") or DEFAULT_SIDE
        return {
            "imgsz": (side, side) if isinstance(side, int) else tuple(side),
            # Else pictures of one size get less padding than the same pictures among others.
            "rect": False,
            "conf": settings.threshold,
            "iou": MAX_OVERLAP,
            "classes": wanted,
            "max_det": MAX_BOXES,
            # YOLO26's head gives finished boxes; ultralytics uses the other head unless told.
            "nms": False if getattr(self._model.model, "end2end", False) else None,
            "device": self._device,
            "quantize": HALF_BITS if half else None,
            "verbose": False,
        }

    def detect(self, pictures: Sequence[Picture]) -> list[list[Found]]:
        """See the port."""
        for picture in pictures:
            check(picture)
        found: list[list[Found]] = []
        for start in range(0, len(pictures), self._chunk):
            found += self._pass(pictures[start : start + self._chunk])
        return found

    def _pass(self, pictures: Sequence[Picture]) -> list[list[Found]]:
        if self._model is None:
            raise LamppostError(Kind.CLOSED, "This detector was closed.")
        # Ultralytics takes arrays as OpenCV's: blue first.
        source = [cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) for picture in pictures]
        try:
            results = self._model.predict(source, **self._arguments)
        except Exception as error:  # whatever torch and its drivers raise
            raise LamppostError(
                Kind.UNAVAILABLE, f"{self.facts.runtime} failed: {str(error)[:200]}"
            ) from error
        return [self._told(result.boxes.data.cpu().numpy().tolist()) for result in results]

    def _told(self, rows: list[list[float]]) -> list[Found]:
        """Rows x1 y1 x2 y2 confidence class, in the picture's pixels and clipped to it."""
        rows.sort(key=lambda row: -row[4])
        return [
            Found(self._names[int(number)], confidence, x1, y1, x2, y2)
            for x1, y1, x2, y2, confidence, number in rows
            if x1 < x2 and y1 < y2
        ]

    def close(self) -> None:
        """See the port."""
        self._model = None


def _device(torch: Any, asked: str) -> str:
    """`cpu` or `cuda:N`, which is there. Torch itself would find out with each picture anew."""
    if asked == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if asked == "cpu":
        return asked
    named = re.fullmatch(r"cuda|(?:cuda:)?(\d{1,2})", asked)
    if named is None:
        raise LamppostError(
            Kind.INVALID, f"detect.device is {asked!r}.", fix="Write auto, cpu, cuda or cuda:0."
        )
    _check_cuda(torch, asked, number := int(named[1] or 0))
    return f"cuda:{number}"


def _check_cuda(torch: Any, asked: str, number: int) -> None:
    """NOT_BUILT when torch knows no GPUs, UNAVAILABLE when it sees none of this number."""
    if torch.version.cuda is None:
        raise LamppostError(
            Kind.NOT_BUILT,
            f"detect.device is {asked}, and torch {torch.__version__} was built without CUDA.",
            fix="Use the image detect-gpu, or set detect.device to auto or cpu.",
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number < count:
        return
    seen = f"GPUs 0 to {count - 1}" if count > 1 else "GPU 0 alone" if count else "no GPU"
    raise LamppostError(
        Kind.UNAVAILABLE, f"detect.device is {asked}, and torch sees {seen}.", fix=GIVE_A_GPU
    )


def _weights(ultralytics: Any, name: str, data: bytes) -> Any:
    """The model of weights whose hash was checked."""
    with tempfile.TemporaryDirectory(prefix="lamppost-weights-") as folder:
        copy = Path(folder) / name
        copy.write_bytes(data)
        try:
            return ultralytics.YOLO(copy, task="detect")
        except Exception as error:  # what unpickling raises has no base
            raise LamppostError(
                Kind.INVALID, f"{name} holds no weights that ultralytics reads: {str(error)[:200]}"
            ) from error
