"""Port `Runtime`: runs one ONNX model, a fixed number of pictures a pass.

Two adapters, each alone in importing its library: openvino_runtime.py and onnxruntime_runtime.py.
Both use one thread: a worker process is started for each core. docs/architecture.md, "detect".

The contract: whoever holds a runtime draws pictures into its `canvas` and calls `run`. The model
gets them as RGB, 0..1, channels first. What `run` gives back is the runtime's memory until the next
`run`. One runtime belongs to one thread.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from services.detect.letterbox import GREY
from shared.errors import Kind, LamppostError

MIN_SIDE, MAX_SIDE, MAX_BATCH = 32, 4096, 64
DEFAULT_SIDE = 640
CHANNELS = 3
Canvas = npt.NDArray[np.uint8]
Output = npt.NDArray[np.float32]


class Unfit(Exception):
    """This runtime is not installed, or cannot load or run the model; another may."""


class Runtime(Protocol):
    """See the module's contract."""

    name: str
    """With its version: `openvino 2026.4.1`."""
    precision: str
    """What it computes in: `f32`, `bf16`, `f16`."""
    metadata: Mapping[str, str]
    canvas: Canvas
    """[B, height, width, 3], grey at first."""

    def run(self) -> Output:
        """The output [B, …] for what is on the canvas; raises what its library raises."""
        ...

    def close(self) -> None:
        """Give back memory."""
        ...


class Input(NamedTuple):
    """The size that a model runs at, fixed even where the model leaves it open."""

    batch: int
    height: int
    width: int

    def canvas(self) -> Canvas:
        """An empty one."""
        return np.full((self.batch, self.height, self.width, CHANNELS), GREY, np.uint8)


def input_of(
    inputs: Sequence[tuple[Sequence[int | None], str]],
    outputs: int,
    metadata: Mapping[str, str],
) -> Input:
    """The size to run at, from the shapes (None: left open) and types of the inputs.

    An open batch becomes 1, since more gains nothing on a CPU, and so a picture's boxes cannot
    depend on its neighbours; an open size becomes the metadata's `imgsz`, else 640 x 640.
    INVALID when this is no model that takes pictures and gives boxes.
    """
    if len(inputs) != 1 or outputs != 1:
        raise _not_understood(f"It has {len(inputs)} inputs and {outputs} outputs")
    shape, kind = inputs[0]
    said = f"Its input is {kind} {['?' if side is None else side for side in shape]}"
    if len(shape) != 4 or shape[1] != CHANNELS or kind not in ("f32", "f16"):
        raise _not_understood(said)
    usual = _imgsz(metadata)
    found = Input(shape[0] or 1, shape[2] or usual[0], shape[3] or usual[1])
    sides = (found.height, found.width)
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in sides) or found.batch > MAX_BATCH:
        raise _not_understood(said)
    return found


def _imgsz(metadata: Mapping[str, str]) -> tuple[int, int]:
    try:
        height, width = ast.literal_eval(metadata.get("imgsz", "")[:100])
        return int(height), int(width)
    except (ValueError, SyntaxError, TypeError):
        return DEFAULT_SIDE, DEFAULT_SIDE


def _not_understood(said: str) -> LamppostError:
    return LamppostError(
        Kind.INVALID,
        f"The model is not understood. {said}.",
        fix=f"Models take one input f32 [B, 3, H, W] (RGB, 0..1, sides {MIN_SIDE} to {MAX_SIDE}) "
        "and give one output.",
    )
