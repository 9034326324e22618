"""Runtime OpenVINO: the only module that imports it.

Scaling to 0..1 and channels first are part of the compiled model, which reads the canvas in place.
No cache of compiled models is kept: loading takes about a second, and a cache would be code that no
hash was checked of. docs/architecture.md, "detect".
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Literal

from services.detect.runtimes import Canvas, Input, Output, Unfit, input_of

DEVICE = "CPU"
ONE_THREAD = {
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "PERFORMANCE_HINT": "LATENCY",
    "ENABLE_CPU_PINNING": False,
}


def load() -> Any:
    """The library, with its telemetry out of reach. Raises ImportError."""
    if "openvino" not in sys.modules:
        # Importing OpenVINO sends an event to its maker unless its telemetry package is missing;
        # a None here makes it so, whatever is installed and whatever the home folder says.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


class OpenVinoRuntime:
    """One model, compiled for one thread of this machine's CPU."""

    def __init__(self, data: bytes, precision: Literal["auto", "f32"]) -> None:
        """Raises Unfit; INVALID for a model that is not understood."""
        try:
            ov = load()
        except ImportError as error:
            raise Unfit(f"OpenVINO is not installed: {error}") from error
        try:
            core = ov.Core()
            model = core.read_model(data, b"")
            self.metadata: Mapping[str, str] = _metadata(model)
        except RuntimeError as error:
            raise Unfit(f"OpenVINO cannot read the model: {short(error)}") from error
        shapes = [(_shape(one), one.element_type.get_type_name()) for one in model.inputs]
        size = input_of(shapes, len(model.outputs), self.metadata)
        self.canvas: Canvas = size.canvas()
        try:
            self._compile(ov, core, model, size, precision)
            self.run()
        except RuntimeError as error:
            raise Unfit(f"OpenVINO cannot run the model: {short(error)}") from error

    def _compile(self, ov: Any, core: Any, model: Any, size: Input, precision: str) -> None:
        model.reshape({model.inputs[0]: [size.batch, 3, size.height, size.width]})
        kind = model.inputs[0].element_type
        make = ov.preprocess.PrePostProcessor(model)
        make.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        make.input().model().set_layout(ov.Layout("NCHW"))
        steps = make.input().preprocess()
        steps.convert_element_type(ov.Type.f32).scale(255.0)
        if kind != ov.Type.f32:
            steps.convert_element_type(kind)
        make.output().tensor().set_element_type(ov.Type.f32)
        wanted: dict[str, Any] = dict(ONE_THREAD)
        if precision == "f32":
            wanted["INFERENCE_PRECISION_HINT"] = "f32"
        known = set(core.get_property(DEVICE, "SUPPORTED_PROPERTIES"))
        config = {name: value for name, value in wanted.items() if name in known}
        compiled = core.compile_model(make.build(), DEVICE, config)
        # What was compiled for, not what was asked: a CPU without bf16 computes in f32.
        self.precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.name = f"openvino {ov.__version__.split('-')[0]}"
        self._request = compiled.create_infer_request()
        self._request.set_input_tensor(ov.Tensor(self.canvas, shared_memory=True))

    def run(self) -> Output:
        """See the port. Raises RuntimeError."""
        self._request.infer()
        output: Output = self._request.get_output_tensor(0).data
        return output

    def close(self) -> None:
        """See the port."""
        self._request = None


def _shape(one: Any) -> list[int | None]:
    """The sides of an input; None where the model leaves one open."""
    if one.partial_shape.rank.is_dynamic:
        return []
    return [side.get_length() if side.is_static else None for side in one.partial_shape]


def _metadata(model: Any) -> dict[str, str]:
    """What the file says about itself."""
    if not model.has_rt_info(["framework"]):
        return {}
    found = model.get_rt_info(["framework"]).value
    return {str(key): str(value) for key, value in found.items()}


def short(error: BaseException) -> str:
    """The last line that says something: the others are places in OpenVINO's source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
