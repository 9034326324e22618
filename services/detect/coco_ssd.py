"""COCO-SSD (SSDLite on MobileNet v2) of TensorFlow.js as ONNX, for any input size.

In: `images` [B, 3, H, W] float32, RGB 0..1. Out: `output0` [B, 84, N] float32: cx cy w h in input
pixels, then 80 class scores 0..1, which is how YOLOv8 and YOLO11 exports look, so that one decoder
and one suppression serve both. N = 1917 at 300 x 300, the size it was trained at.

The walk goes back from the raw box encodings and the class logits to the net's normalised input;
the loop before it only resizes, and the suppression after it is the detector's. Batch norms and
biases are folded into their convolutions in double precision. docs/model-card.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from services.detect import coco
from services.detect.tfjs import Array, GraphModel, Node, corrupt
from shared.errors import Kind, LamppostError

Doubles = npt.NDArray[np.float64]

INPUT, ENCODINGS, LOGITS = "Preprocessor/sub", "concat", "concat_1"
ANCHORS, CLASS_BIASES = "Postprocessor/ExpandDims", "BoxPredictor_0/ClassPredictor/biases"
TRAINED = 300
"""Height and width in training: the stored anchors are for this size."""
MIN_SIDE, MAX_SIDE = 96, 2048
OPSET, IR_VERSION = 17, 8
XY_SCALE, WH_SCALE = 10, 0.2
"""The box coder's: a centre moves by a tenth of its anchor, a side by e to a fifth."""
_SUMS = frozenset({"Add", "AddV2", "AddN"})


class Grid(NamedTuple):
    """A feature map and what its cells look at: cell (i, j) at the input's pixel
    (top + step * i, left + step * j)."""

    height: int
    width: int
    step: float
    top: float
    left: float


class Activation(NamedTuple):
    """The name of an NCHW tensor in the new graph, and its grid."""

    name: str
    grid: Grid


class Convolution(NamedTuple):
    """A convolution that is not yet written, because what follows may be folded into it."""

    source: Activation
    weights: Doubles
    """OIHW."""
    bias: Doubles
    stride: int
    groups: int


class Level(NamedTuple):
    """One predictor's feature map and how many boxes each of its cells has."""

    grid: Grid
    boxes: int


class Writer:
    """Collects the nodes and constants of the new graph, in order."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: Array | np.generic) -> str:
        if name not in self.constants:
            array = np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
            self.constants[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name


class Walk:
    """From an output of the TensorFlow graph back to its input, each node written once."""

    def __init__(self, model: GraphModel, writer: Writer, height: int, width: int) -> None:
        self._nodes, self._weights = model.nodes, model.weights
        self._writer = writer
        self._size = height, width
        self._done: dict[str, Activation | Convolution] = {}

    def predictions(self, concat: str, width: int) -> tuple[str, list[Level]]:
        """The predictors' maps as one [B, N, width] tensor, and the maps that it came from."""
        parts, levels = [], []
        shape = self._writer.constant(f"{concat}/shape", np.array([0, -1, width], np.int64))
        for ref in self._node(concat).input[:-1]:
            reshape = self._node(ref)
            source = reshape.input[0]
            channels = len(self._open(source, reshape).bias)
            name, grid = self._written(source)
            flat = self._writer.node("Transpose", [name], f"{ref}/nhwc", perm=[0, 2, 3, 1])
            parts.append(self._writer.node("Reshape", [flat, shape], ref))
            levels.append(Level(grid, channels // width))
        return self._writer.node("Concat", parts, concat, axis=1), levels

    def _node(self, ref: str) -> Node:
        node = self._nodes.get(ref.split(":")[0])
        if node is None:
            raise corrupt(f"there is no node {ref!r}")
        return node

    def _weight(self, ref: str) -> Doubles:
        if ref not in self._weights:
            raise corrupt(f"there is no weight {ref!r}")
        return self._weights[ref].astype(np.float64)

    def _value(self, ref: str) -> Activation | Convolution:
        node = self._node(ref)
        if node.name not in self._done:
            self._done[node.name] = self._build(node)
        return self._done[node.name]

    def _open(self, ref: str, user: Node) -> Convolution:
        """A convolution that `user` may still be folded into."""
        value = self._value(ref)
        if not isinstance(value, Convolution):
            raise _unknown(user, "what it follows is no convolution")
        return value

    def _written(self, ref: str) -> Activation:
        """The value as a tensor of the new graph; an open convolution is written out."""
        value = self._value(ref)
        if isinstance(value, Convolution):
            value = self._done[self._node(ref).name] = self._write(ref.split(":")[0], value)
        return value

    def _build(self, node: Node) -> Activation | Convolution:
        if node.name == INPUT:
            return self._input()
        if node.op in ("Conv2D", "DepthwiseConv2dNative"):
            return self._convolution(node)
        if node.op.startswith("FusedBatchNorm"):
            return self._batch_norm(node)
        if node.op == "Relu6":
            name, grid = self._written(node.input[0])
            bounds = [self._writer.constant(f"{n}", np.float32(n)) for n in (0, 6)]
            return Activation(self._writer.node("Clip", [name, *bounds], node.name), grid)
        if len(node.input) == 2:
            constant = [ref in self._weights for ref in node.input]
            if constant in ([True, False], [False, True]):
                return self._with_constant(
                    node, *sorted(node.input, key=self._weights.__contains__)
                )
            if node.op in _SUMS:
                (first, grid), (second, _) = map(self._written, node.input)
                return Activation(self._writer.node("Add", [first, second], node.name), grid)
        raise _unknown(node, "it is no part of the network that this program knows")

    def _input(self) -> Activation:
        """RGB 0..1 as the net wants it: -1..1."""
        two = self._writer.constant("two", np.float32(2))
        one = self._writer.constant("one", np.float32(1))
        scaled = self._writer.node("Mul", ["images", two], "scaled")
        name = self._writer.node("Sub", [scaled, one], "centred")
        return Activation(name, Grid(*self._size, 1, 0.5, 0.5))

    def _convolution(self, node: Node) -> Convolution:
        weights = self._weight(node.input[1])
        strides = node.numbers("strides")
        if node.text("padding") != b"SAME" or set(node.numbers("dilations")) != {1}:
            raise _unknown(node, "its padding or dilation")
        if weights.ndim != 4 or len(strides) != 4 or weights.shape[0] != weights.shape[1]:
            raise _unknown(node, "its shape")
        source = self._written(node.input[0])
        groups = 1
        if node.op == "Conv2D":
            kernel = weights.transpose(3, 2, 0, 1)
        else:
            height, width, groups, multiple = weights.shape
            kernel = weights.transpose(2, 3, 0, 1).reshape(groups * multiple, 1, height, width)
        return Convolution(source, kernel, np.zeros(len(kernel)), strides[1], groups)

    def _batch_norm(self, node: Node) -> Convolution:
        before = self._open(node.input[0], node)
        gamma, beta, mean, variance = map(self._weight, node.input[1:5])
        factor = gamma / np.sqrt(variance + node.number("epsilon"))
        return before._replace(
            weights=before.weights * factor.reshape(-1, 1, 1, 1),
            bias=(before.bias - mean) * factor + beta,
        )

    def _with_constant(self, node: Node, ref: str, weight: str) -> Activation | Convolution:
        """A factor or an addend a channel goes into the convolution before it."""
        constant = self._weight(weight)
        if node.op not in (*_SUMS, "Mul", "BiasAdd"):
            raise _unknown(node, "it is no product and no sum")
        leaf = self._node(ref)
        if leaf.op == "AddN":
            # TensorFlow's optimiser wrote (convolution + shortcut) + bias: the bias goes to the
            # convolution, which the sum has not used yet.
            first = self._node(leaf.input[0])
            before = self._open(first.name, node)
            if leaf.name in self._done or node.op == "Mul":
                raise _unknown(node, "its sum is used elsewhere")
            self._done[first.name] = before._replace(bias=before.bias + constant)
            return self._value(ref)
        before = self._open(ref, node)
        if node.op != "Mul":
            return before._replace(bias=before.bias + constant)
        factor = constant.reshape(-1, 1, 1, 1)
        return before._replace(weights=before.weights * factor, bias=before.bias * constant)

    def _write(self, name: str, convolution: Convolution) -> Activation:
        """The node, with TensorFlow's padding SAME: what is odd of it goes below and right."""
        source, weights, bias, stride, groups = convolution
        grid, side = source.grid, weights.shape[2]
        height, width = math.ceil(grid.height / stride), math.ceil(grid.width / stride)
        vertical = max((height - 1) * stride + side - grid.height, 0)
        horizontal = max((width - 1) * stride + side - grid.width, 0)
        top, left = vertical // 2, horizontal // 2
        middle = (side - 1) / 2
        inputs = [
            source.name,
            self._writer.constant(f"{name}/w", weights.astype(np.float32)),
            self._writer.constant(f"{name}/b", bias.astype(np.float32)),
        ]
        self._writer.node(
            "Conv",
            inputs,
            name,
            kernel_shape=[side, side],
            strides=[stride, stride],
            group=groups,
            pads=[top, left, vertical - top, horizontal - left],
        )
        return Activation(
            name,
            Grid(
                height,
                width,
                grid.step * stride,
                grid.top + grid.step * (middle - top),
                grid.left + grid.step * (middle - left),
            ),
        )


def _unknown(node: Node, why: str) -> LamppostError:
    return LamppostError(Kind.UNSUPPORTED, f"{node.op} {node.name!r} cannot be converted: {why}.")


def anchors(stored: Array, levels: Sequence[Level], trained: Sequence[Level]) -> Doubles:
    """N x (cx cy w h) in input pixels. `stored`: the model's own table for 300 x 300, as corners
    y1 x1 y2 x2 in 0..1.

    At another size the same boxes, in pixels, stand on the larger maps: as far from the pixel that
    their cell looks at as they are on average at 300 x 300.
    """
    y1, x1, y2, x2 = stored.reshape(-1, 4).astype(np.float64).T * TRAINED
    table = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], 1)
    if [level.grid for level in levels] == [level.grid for level in trained]:
        return table
    rows, at = [], 0
    for (grid, boxes), (known, _) in zip(levels, trained, strict=True):
        # The stored anchors lie around the picture's middle, the pixels looked at need not.
        offset = known.top + known.step * (known.height - 1) / 2 - TRAINED / 2
        y, x = np.meshgrid(
            grid.top + grid.step * np.arange(grid.height) - offset,
            grid.left + grid.step * np.arange(grid.width) - offset,
            indexing="ij",
        )
        centres = np.repeat(np.stack([x, y], -1).reshape(-1, 2), boxes, 0)
        sides = np.tile(table[at : at + boxes, 2:], (grid.height * grid.width, 1))
        rows.append(np.concatenate([centres, sides], 1))
        at += known.height * known.width * boxes
    return np.concatenate(rows)


def build(model: GraphModel, height: int, width: int) -> bytes:
    """The model for pictures of this size, as the bytes of an ONNX file; the same bytes each time.

    INVALID for a size it cannot have; UNSUPPORTED or CORRUPT for another network.
    """
    check_size(height, width)
    if not {ANCHORS, CLASS_BIASES} <= set(model.weights):
        raise corrupt("it is not COCO-SSD")
    writer = Writer()
    walk = Walk(model, writer, height, width)
    encodings, levels = walk.predictions(ENCODINGS, 4)
    classes = len(model.weights[CLASS_BIASES]) // levels[0].boxes
    logits, _ = walk.predictions(LOGITS, classes)
    _, trained = Walk(model, Writer(), TRAINED, TRAINED).predictions(ENCODINGS, 4)
    table = anchors(model.weights[ANCHORS], levels, trained).astype(np.float32)
    _decode(writer, encodings, logits, table)
    graph = helper.make_graph(
        writer.nodes,
        "coco_ssd_lite_mobilenet_v2",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, height, width])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["batch", 84, len(table)])],
        list(writer.constants.values()),
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="lamppost",
    )
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString(deterministic=True))


def check_size(height: int, width: int) -> None:
    """INVALID unless the network has a use for it."""
    if not (MIN_SIDE <= height <= MAX_SIDE and MIN_SIDE <= width <= MAX_SIDE):
        raise LamppostError(
            Kind.INVALID,
            f"{height} x {width} is no size for this model.",
            fix=f"Both sides from {MIN_SIDE} to {MAX_SIDE} pixels.",
        )


def _decode(writer: Writer, encodings: str, logits: str, table: npt.NDArray[np.float32]) -> None:
    """From encodings (ty tx th tw) and logits to `output0`."""
    centres, sides = table[None, :, :2], table[None, :, 2:]

    def pick(source: str, name: str, indices: Sequence[int]) -> str:
        chosen = writer.constant(f"{name}/indices", np.array(indices, np.int64))
        return writer.node("Gather", [source, chosen], name, axis=2)

    def apply(op: str, source: str, name: str, value: Array | np.generic) -> str:
        return writer.node(op, [source, writer.constant(f"{name}/by", value)], name)

    moved = apply("Mul", pick(encodings, "t_xy", [1, 0]), "moved", sides / XY_SCALE)
    xy = apply("Add", moved, "xy", centres)
    grown = apply("Mul", pick(encodings, "t_wh", [3, 2]), "grown", np.float32(WH_SCALE))
    wh = apply("Mul", writer.node("Exp", [grown], "factor"), "wh", sides)
    scores = writer.node("Sigmoid", [pick(logits, "logits80", coco.CATEGORY_IDS)], "scores")
    rows = writer.node("Concat", [xy, wh, scores], "rows", axis=2)
    writer.node("Transpose", [rows], "output0", perm=[0, 2, 1])
