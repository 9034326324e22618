"""Adapter `onnx` of port Detector: any COCO-named ONNX model, on OpenVINO or ONNX Runtime.

The file is read once; its hash is checked before a runtime sees a byte of it, and what was hashed
is what runs. Pictures go through the model one after another, as many at a time as the model was
made for: one, unless its file fixes another number. docs/architecture.md, "detect".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import cv2

from services.detect.detector import Found, ModelFacts, Picture
from services.detect.letterbox import Fit, Letterbox, check
from services.detect.onnxruntime_runtime import OnnxRuntimeRuntime
from services.detect.openvino_runtime import OpenVinoRuntime
from services.detect.outputs import Boxes, Reader, layout_of, names_of
from services.detect.runtimes import Runtime, Unfit
from shared import log
from shared.errors import Kind, LamppostError

MAX_MODEL_BYTES = 2_000_000_000
Choice = Literal["auto", "openvino", "onnxruntime"]
_log = log.get("detect")


class Ask(NamedTuple):
    """What is looked for: class names, and the least confidence."""

    classes: Collection[str]
    threshold: float


class OnnxDetector:
    """See the port; belongs to one thread."""

    def __init__(
        self, runtime: Runtime, name: str, sha256: str, ask: Ask, known: Sequence[str] = ()
    ) -> None:
        """`known`: the classes of the model's card, for a file that does not say them itself.
        INVALID when the output is not understood or no class that is asked for is known."""
        # One worker a core: threads of a resize would only get in each other's way.
        cv2.setNumThreads(1)
        names = names_of(runtime.metadata, known)
        layout = layout_of(runtime.run().shape, len(names))
        self._runtime: Runtime | None = runtime
        self._names = names
        self._read = Reader(layout, names, ask.classes, ask.threshold).read
        self._slots = [Letterbox(slot) for slot in runtime.canvas]
        height, width = runtime.canvas.shape[1:3]
        self.facts = ModelFacts(
            name, sha256, runtime.precision, runtime.name, names, int(width), int(height)
        )

    def detect(self, pictures: Sequence[Picture]) -> list[list[Found]]:
        """See the port."""
        for picture in pictures:
            check(picture)
        size = len(self._slots)
        found: list[list[Found]] = []
        for start in range(0, len(pictures), size):
            found += self._pass(pictures[start : start + size])
        return found

    def _pass(self, pictures: Sequence[Picture]) -> Iterator[list[Found]]:
        runtime = self._runtime
        if runtime is None:
            raise LamppostError(Kind.CLOSED, "This detector was closed.")
        fits = [slot.draw(one) for slot, one in zip(self._slots, pictures, strict=False)]
        try:
            outputs = runtime.run()
        except Exception as error:  # whatever the library raises
            raise LamppostError(
                Kind.UNAVAILABLE, f"{runtime.name} failed: {str(error)[:200]}"
            ) from error
        for fit, output in zip(fits, outputs, strict=False):
            yield self._told(self._read(output), fit)

    def _told(self, boxes: Boxes, fit: Fit) -> list[Found]:
        """The boxes in the picture's pixels, without those that lie outside it."""
        return [
            Found(self._names[number], confidence, *corners)
            for number, confidence, corners in zip(
                boxes.classes.tolist(),
                boxes.scores.tolist(),
                fit.back(boxes.corners).tolist(),
                strict=True,
            )
            if corners[0] < corners[2] and corners[1] < corners[3]
        ]

    def close(self) -> None:
        """See the port."""
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            runtime.close()


def read_model(path: Path, sha256: str) -> bytes:
    """The bytes of a model file, which have this hash. CORRUPT when they have not."""
    try:
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise LamppostError(Kind.TOO_LARGE, f"{path} is over {MAX_MODEL_BYTES} bytes.")
        data = path.read_bytes()
    except OSError as error:
        raise LamppostError(
            Kind.NOT_FOUND, f"Cannot read the model {path}: {error.strerror}."
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise LamppostError(
            Kind.CORRUPT,
            f"The model {path} has the SHA-256 {digest}, not {sha256}.",
            fix="Do not use it; fetch or add it again from a source you trust.",
        )
    return data


def open_runtime(data: bytes, choice: Choice, precision: Literal["auto", "f32"]) -> Runtime:
    """A runtime with this model. `auto`: OpenVINO, else, with a warning, ONNX Runtime.

    INVALID when the model cannot be loaded, NOT_BUILT when the runtime is not installed.
    """
    ways: dict[str, Callable[[], Runtime]] = {
        "openvino": lambda: OpenVinoRuntime(data, precision),
        "onnxruntime": lambda: OnnxRuntimeRuntime(data),
    }
    if choice == "auto":
        try:
            return ways["openvino"]()
        except Unfit as error:
            _log.warning("detection runs on ONNX Runtime, which is slower", cause=str(error))
        choice = "onnxruntime"
    try:
        return ways[choice]()
    except Unfit as error:
        missing = isinstance(error.__cause__, ImportError)
        raise LamppostError(
            Kind.NOT_BUILT if missing else Kind.INVALID,
            f"{error}.",
            fix="Run `make run`, which installs it."
            if missing
            else "The file must be one whole ONNX model; `lamppost model verify` checks its hash.",
        ) from error
