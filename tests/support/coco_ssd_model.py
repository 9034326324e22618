"""A small network of COCO-SSD's shape as a TensorFlow.js model, and what TensorFlow says of it.

The graph has every construction that the real one has, at a hundredth of its size and with random
weights. `evaluate` reads the same graph by TensorFlow's rules (NHWC, padding SAME, nothing folded),
so that the conversion is checked against something that shares no code with it.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Const = npt.NDArray[np.float32]

CLASSES = 91
LEVEL_BOXES = (3, 6)
TRAINED = 300
STEPS = (16, 32)
LAYERS = ((3, 4), (3, 2), (3, 2), (3, 1)), ((3, 4), (3, 2), (3, 2), (3, 2), (3, 1))
"""Side and stride of the kernels, other than 1 x 1, between the input and each level's boxes."""
FOLDER = "package/models/coco-ssd/"
EPSILON = 0.001


class TinyModel:
    """`files` as a package holds them; nodes and constants for `evaluate`."""

    def __init__(self, seed: int = 7) -> None:
        self._random = np.random.default_rng(seed)
        self.nodes: dict[str, dict[str, Any]] = {}
        self.constants: dict[str, Const] = {}
        self._build()

    def _const(self, name: str, value: npt.ArrayLike) -> str:
        self.constants[name] = np.asarray(value, np.float32)
        return self._node("Const", name, [])

    def _node(self, op: str, name: str, inputs: list[str], **attr: Any) -> str:
        self.nodes[name] = {"name": name, "op": op, "input": inputs, "attr": attr}
        return name

    def _conv(self, name: str, source: str, out: int, stride: int, side: int, inner: int) -> str:
        weights = self._random.normal(
            0, 1.2 / math.sqrt(side * side * inner), (side, side, inner, out)
        )
        return self._windowed("Conv2D", name, source, weights, stride)

    def _depthwise(self, name: str, source: str, channels: int, stride: int) -> str:
        weights = self._random.normal(0, 0.5, (3, 3, channels, 1))
        return self._windowed("DepthwiseConv2dNative", name, source, weights, stride)

    def _windowed(self, op: str, name: str, source: str, weights: Array, stride: int) -> str:
        return self._node(
            op,
            name,
            [source, self._const(f"{name}/weights", weights)],
            strides={"list": {"i": ["1", str(stride), str(stride), "1"]}},
            dilations={"list": {"i": ["1", "1", "1", "1"]}},
            padding={"s": list(b"SAME")},
        )

    def _norm(self, name: str, source: str, channels: int) -> str:
        near = self._random.uniform
        parts = [
            self._const(f"{name}/gamma", near(0.5, 1.5, channels)),
            self._const(f"{name}/beta", near(-0.5, 0.5, channels)),
            self._const(f"{name}/mean", near(-0.2, 0.2, channels)),
            self._const(f"{name}/variance", near(0.5, 2, channels)),
        ]
        return self._node("FusedBatchNormV3", name, [source, *parts], epsilon={"f": EPSILON})

    def _scaled(self, name: str, source: str, channels: int) -> str:
        """A batch norm as TensorFlow's optimiser leaves it: a product and a sum."""
        factor = self._const(f"{name}/k", self._random.uniform(0.5, 1.5, channels))
        addend = self._const(f"{name}/c", self._random.uniform(-0.5, 0.5, channels))
        product = self._node("Mul", f"{name}/mul", [source, factor])
        return self._node("Add", f"{name}/add", [product, addend])

    def _relu(self, source: str) -> str:
        return self._node("Relu6", f"{source}/relu6", [source])

    def _build(self) -> None:
        picture = self._node("Sub", "Preprocessor/sub", ["Preprocessor/mul", "Preprocessor/y"])
        stem = self._relu(self._norm("stem/bn", self._conv("stem", picture, 8, 4, 3, 3), 8))
        deep = self._relu(self._scaled("deep/bn", self._depthwise("deep", stem, 8, 2), 8))
        narrow = self._scaled("narrow/bn", self._conv("narrow", deep, 6, 1, 1, 8), 6)
        wide = self._relu(self._scaled("wide/bn", self._conv("wide", narrow, 8, 1, 1, 6), 8))
        # The optimiser's shape of a residual: (convolution + shortcut) + the bias of its norm.
        again = self._conv("again", wide, 6, 1, 1, 8)
        leaf = self._node("AddN", "again/leaf", [again, narrow])
        bias = self._const("again/bias", self._random.uniform(-0.5, 0.5, 6))
        residual = self._node("Add", "again/sum", [bias, leaf])
        biased = self._const("plain/bias", self._random.uniform(-0.5, 0.5, 6))
        plain = self._conv("plain", residual, 6, 1, 1, 6)
        plain = self._node("BiasAdd", "plain/biased", [plain, biased])
        plain = self._scaled("plain/bn", plain, 6)
        both = self._node("AddV2", "plain/sum", [residual, plain])
        first = self._relu(self._scaled("one/bn", self._conv("one", both, 8, 2, 3, 6), 8))
        second = self._relu(self._scaled("two/bn", self._conv("two", first, 8, 2, 3, 8), 8))
        self._heads([first, second])

    def _heads(self, maps: list[str]) -> None:
        boxes: list[str] = []
        logits: list[str] = []
        for number, (source, count) in enumerate(zip(maps, LEVEL_BOXES, strict=True)):
            box = f"BoxPredictor_{number}"
            for what, width, found in (
                ("BoxEncodingPredictor", 4, boxes),
                ("ClassPredictor", CLASSES, logits),
            ):
                name = f"{box}/{what}"
                deep = self._relu(
                    self._norm(f"{name}/bn", self._depthwise(f"{name}_dw", source, 8, 1), 8)
                )
                conv = self._conv(name, deep, count * width, 1, 1, 8)
                bias = self._const(f"{name}/biases", self._random.normal(0, 1, count * width))
                added = self._node("BiasAdd", f"{name}/BiasAdd", [conv, bias])
                found.append(self._node("Reshape", f"{name}/Reshape", [added, f"{name}/shape"]))
        axis = self._const("axis", 1)
        self._node("ConcatV2", "concat", [*boxes, axis])
        self._node("ConcatV2", "concat_1", [*logits, axis])
        self._node("Squeeze", "Squeeze", ["concat"])
        self._const("Postprocessor/ExpandDims", stored_anchors()[None])

    def files(self) -> dict[str, bytes]:
        """`model.json` and two shards, cut in the middle of a weight."""
        data = b"".join(value.tobytes() for value in self.constants.values())
        manifest = [
            {"name": name, "shape": list(value.shape), "dtype": "float32"}
            for name, value in self.constants.items()
        ]
        paths = ["group1-shard1of2", "group1-shard2of2"]
        document = {
            "modelTopology": {"node": list(self.nodes.values()), "versions": {}},
            "weightsManifest": [{"paths": paths, "weights": manifest}],
        }
        cut = len(data) // 2 + 1
        return {
            "model.json": json.dumps(document).encode(),
            paths[0]: data[:cut],
            paths[1]: data[cut:],
        }

    def evaluate(self, picture: Array) -> tuple[Array, Array]:
        """Encodings [N, 4] and logits [N, CLASSES] of one HWC picture in -1..1."""
        done: dict[str, Array] = {"Preprocessor/sub": picture}

        def value(ref: str) -> Array:
            if ref not in done:
                done[ref] = self._op(self.nodes[ref], value)
            return done[ref]

        return self._flat("concat", value, 4), self._flat("concat_1", value, CLASSES)

    def _flat(self, concat: str, value: Any, width: int) -> Array:
        parts = [value(ref).reshape(-1, width) for ref in self.nodes[concat]["input"][:-1]]
        return np.concatenate(parts)

    def _op(self, node: dict[str, Any], value: Any) -> Array:
        op, names = node["op"], node["input"]
        if op == "Const":
            return self.constants[node["name"]].astype(np.float64)
        if op == "Reshape":
            return np.asarray(value(names[0]), np.float64)
        found = [value(name) for name in names]
        if op in ("Add", "AddV2", "AddN", "BiasAdd"):
            return np.asarray(found[0] + found[1])
        if op == "Mul":
            return np.asarray(found[0] * found[1])
        if op == "Relu6":
            return np.clip(found[0], 0, 6)
        if op == "FusedBatchNormV3":
            x, gamma, beta, mean, variance = found
            return np.asarray((x - mean) / np.sqrt(variance + EPSILON) * gamma + beta)
        stride = int(node["attr"]["strides"]["list"]["i"][1])
        windows = _windows(found[0], found[1].shape[0], stride)
        if op == "Conv2D":
            return np.asarray(np.einsum("hwcij,ijco->hwo", windows, found[1]))
        assert op == "DepthwiseConv2dNative"
        return np.asarray(np.einsum("hwcij,ijcm->hwcm", windows, found[1]))[..., 0]


def _windows(x: Array, side: int, stride: int) -> Array:
    """[H', W', C, side, side] of an HWC map, by TensorFlow's padding SAME."""
    pads = []
    for length in x.shape[:2]:
        total = max((math.ceil(length / stride) - 1) * stride + side - length, 0)
        pads.append((total // 2, total - total // 2))
    padded = np.pad(x, (*pads, (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(0, 1))
    return np.asarray(view[::stride, ::stride])


def stored_anchors() -> Array:
    """Corners y1 x1 y2 x2 in 0..1 at 300 x 300, as the object detection API lays them out."""
    rows = []
    for step, count in zip(STEPS, LEVEL_BOXES, strict=True):
        cells = math.ceil(TRAINED / step)
        for y in range(cells):
            for x in range(cells):
                for box in range(count):
                    height, width = 0.1 * (box + 1) * step / 16, 0.15 * (box + 1) * step / 16
                    cy, cx = (y + 0.5) / cells, (x + 0.5) / cells
                    rows.append((cy - height / 2, cx - width / 2, cy + height / 2, cx + width / 2))
    return np.array(rows)


def archive_of(files: Mapping[str, bytes], extra: Mapping[str, bytes] | None = None) -> bytes:
    """A package as npm would pack it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in {f"{FOLDER}{key}": value for key, value in files.items()}.items():
            _member(archive, name, data)
        for name, data in (extra or {}).items():
            _member(archive, name, data)
    return out.getvalue()


def _member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))
