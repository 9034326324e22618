"""Runtime ONNX Runtime: the only module that imports it. The fallback for machines without
OpenVINO, and the oracle that its boxes are compared with. docs/architecture.md, "detect".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from services.detect.runtimes import CHANNELS, Canvas, Output, Unfit, input_of

PROVIDERS = ["CPUExecutionProvider"]
TYPES = {"tensor(float)": "f32", "tensor(float16)": "f16"}
ERRORS_ONLY = 3
FULL = np.float32(255)


class OnnxRuntimeRuntime:
    """One model in a session of one thread. It always computes in the model's own precision."""

    def __init__(self, data: bytes) -> None:
        """Raises Unfit; INVALID for a model that is not understood."""
        try:
            import onnxruntime
        except ImportError as error:
            raise Unfit(f"ONNX Runtime is not installed: {error}") from error
        onnxruntime.disable_telemetry_events()
        try:
            self._session: Any = onnxruntime.InferenceSession(
                data, _one_thread(onnxruntime), providers=PROVIDERS
            )
        except Exception as error:  # the library's errors have no base of their own
            raise Unfit(f"ONNX Runtime cannot load the model: {_short(error)}") from error
        self.metadata: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shapes = [
            ([side if isinstance(side, int) else None for side in one.shape], _kind(one.type))
            for one in inputs
        ]
        size = input_of(shapes, len(outputs), self.metadata)
        self._in, self._out = inputs[0].name, outputs[0].name
        self.precision = _kind(inputs[0].type)
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self.canvas: Canvas = size.canvas()
        kind = np.float16 if self.precision == "f16" else np.float32
        self._pixels = np.empty((size.batch, CHANNELS, size.height, size.width), kind)
        try:
            self.run()
        except Exception as error:  # as above
            raise Unfit(f"ONNX Runtime cannot run the model: {_short(error)}") from error

    def run(self) -> Output:
        """See the port. Raises what the library raises."""
        for pixels, slot in zip(self._pixels, self.canvas, strict=True):
            for into, plane in zip(pixels, cv2.split(slot), strict=True):
                np.divide(plane, FULL, out=into, casting="unsafe")
        (output,) = self._session.run([self._out], {self._in: self._pixels})
        return np.asarray(output, np.float32)

    def close(self) -> None:
        """See the port."""
        self._session = None


def _one_thread(onnxruntime: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = ERRORS_ONLY
    return options


def _kind(name: str) -> str:
    return TYPES.get(name, name)


def _short(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
