"""Reads a TensorFlow.js graph model: the nodes of `model.json` and the arrays of its shards.

Only what a frozen graph needs; what the graph computes is the reader's caller's business
(services/detect/coco_ssd.py). From bytes in memory, so that nothing is unpacked to a disk.
docs/model-card.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from shared.errors import Kind, LamppostError

Array = npt.NDArray[Any]

DOCUMENT = "model.json"
MAX_NODES = 20_000
MAX_DIMENSIONS = 8
_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "int32": np.dtype("<i4"),
    "uint16": np.dtype("<u2"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("u1"),
}


class Node(msgspec.Struct, frozen=True):
    """One operation of the graph; `attr` as TensorFlow's protobuf says it in JSON."""

    name: str
    op: str
    input: tuple[str, ...] = ()
    attr: dict[str, Any] = {}

    def numbers(self, key: str) -> tuple[int, ...]:
        """An attribute that is a list of whole numbers; CORRUPT when it is not there."""
        try:
            return tuple(int(number) for number in self.attr[key]["list"]["i"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._lacks(key) from error

    def text(self, key: str) -> bytes:
        """An attribute that is a string, which graph models write as a list of bytes."""
        try:
            return bytes(self.attr[key]["s"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._lacks(key) from error

    def number(self, key: str) -> float:
        """An attribute that is a number."""
        try:
            return float(self.attr[key]["f"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._lacks(key) from error

    def _lacks(self, key: str) -> LamppostError:
        return corrupt(f"{self.op} {self.name!r} has no usable {key!r}")


class _Quantized(msgspec.Struct, frozen=True):
    dtype: str
    scale: float = 1.0
    min: float = 0.0


class _Weight(msgspec.Struct, frozen=True):
    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: _Quantized | None = None


class _Group(msgspec.Struct, frozen=True):
    paths: tuple[str, ...]
    weights: tuple[_Weight, ...]


class _Topology(msgspec.Struct, frozen=True):
    node: tuple[Node, ...]


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    model_topology: _Topology
    weights_manifest: tuple[_Group, ...]


class GraphModel(NamedTuple):
    """Nodes and weights by name; a weight is also a node, of op Const."""

    nodes: Mapping[str, Node]
    weights: Mapping[str, Array]


def read(files: Mapping[str, bytes]) -> GraphModel:
    """The model of `model.json` and the shards that it names; CORRUPT when they do not fit."""
    if DOCUMENT not in files:
        raise corrupt(f"there is no {DOCUMENT}")
    try:
        document = msgspec.json.decode(files[DOCUMENT], type=_Document)
    except msgspec.DecodeError as error:
        raise corrupt(f"{DOCUMENT}: {error}") from error
    nodes = {node.name: node for node in document.model_topology.node}
    if len(nodes) > MAX_NODES:
        raise corrupt(f"it has over {MAX_NODES} nodes")
    weights: dict[str, Array] = {}
    for group in document.weights_manifest:
        missing = [path for path in group.paths if path not in files]
        if missing:
            raise corrupt(f"the shard {missing[0]!r} is missing")
        weights |= _arrays(group, b"".join(files[path] for path in group.paths))
    return GraphModel(nodes, weights)


def _arrays(group: _Group, data: bytes) -> dict[str, Array]:
    """The arrays of one group, which lie in its shards one after the other."""
    found: dict[str, Array] = {}
    at = 0
    for weight in group.weights:
        stored = weight.quantization.dtype if weight.quantization else weight.dtype
        dtype = _DTYPES.get(stored)
        if dtype is None or len(weight.shape) > MAX_DIMENSIONS or min(weight.shape, default=0) < 0:
            raise corrupt(f"the weight {weight.name!r} is of an unknown kind")
        count = math.prod(weight.shape)
        if at + count * dtype.itemsize > len(data):
            raise corrupt(f"the shards end within the weight {weight.name!r}")
        array: Array = np.frombuffer(data, dtype, count, at).reshape(weight.shape)
        at += count * dtype.itemsize
        if weight.quantization is not None:
            scale, least = weight.quantization.scale, weight.quantization.min
            array = array.astype(np.float32) * np.float32(scale) + np.float32(least)
        found[weight.name] = array
    if at != len(data):
        raise corrupt(f"{len(data) - at} bytes of weights are left over")
    return found


def corrupt(why: str) -> LamppostError:
    """The error of a graph that is not what it should be."""
    return LamppostError(
        Kind.CORRUPT,
        f"The TensorFlow.js model cannot be read: {why}.",
        fix="Fetch it again, or give another package.",
    )
