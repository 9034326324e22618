"""Port `Detector`: a batch of pictures in, boxes out (docs/architecture.md, "detect").

The contract, which tests/contract/test_detector.py runs against every adapter:

- Pictures are RGB, height x width x 3, of any sizes, mixed in one batch; the adapter letterboxes.
- Boxes come back per picture in order of confidence, in the picture's own pixels, clipped to it;
  only of the classes asked for, none below the threshold, which is applied before suppression.
- The same picture gives the same boxes whatever stands beside it in the batch.
- One detector belongs to one thread, and uses no other of its own where the runtime allows it.
- A picture that cannot be analysed is INVALID; a runtime that fails is UNAVAILABLE.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
"""RGB, height x width x 3."""


class Found(NamedTuple):
    """One box: COCO class name, confidence 0..1, corners in pixels of the picture."""

    class_name: str
    confidence: float
    x1: float
    y1: float
    x2: float
    y2: float


class ModelFacts(NamedTuple):
    """Which model looks, as stored with each sighting. `precision`: what the runtime computes in
    (`f32`, `bf16`, `f16`); `runtime`: `openvino`, `onnxruntime`, `ultralytics`, with version."""

    name: str
    sha256: str
    precision: str
    runtime: str
    classes: tuple[str, ...]
    """Every class the model knows, in its own order."""
    width: int
    height: int


class Detector(Protocol):
    """See the module's contract."""

    @property
    def facts(self) -> ModelFacts: ...

    def detect(self, pictures: Sequence[Picture]) -> list[list[Found]]:
        """The boxes of each picture."""
        ...

    def close(self) -> None:
        """Give back memory and device."""
        ...
