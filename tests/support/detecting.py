"""For tests of detectors: tiny models without weights, pictures they see something in, and
comparing boxes. A tiny model knows red blocks as persons, green ones as cars, blue ones as dogs."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from services.detect import coco
from services.detect.detector import Found, Picture
from services.detect.outputs import Layout

CELL = 32
SIDE = 320
BOX = 64.0
"""A box is twice as wide and high as its cell, around its middle."""
KINDS = {"person": (255, 0, 0), "car": (0, 255, 0), "dog": (0, 0, 255)}
NUMBERS = tuple(coco.NAMES.index(name) for name in KINDS)
SECOND = 0.9
"""Each anchor has a twin, this much less sure, which suppression must take away."""
TOP = 300


DATA = Path(os.environ.get("LAMPPOST_DATA") or Path(__file__).parents[3] / "shared" / "data")


def data_file(*parts: str) -> Path:
    """A file of LAMPPOST_DATA; where it is missing the test is skipped, and fails with CI=true."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{path.name} is missing: LAMPPOST_DATA must name the folder with it")
        pytest.skip("no real data: set LAMPPOST_DATA to its folder")
    return path


def pictures_of(path: Path, every: int) -> Iterator[tuple[int, Picture]]:
    """Each `every`th picture of a video, with its number."""
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % every == 0:
                yield number, frame.to_ndarray(format="rgb24")


class Block(NamedTuple):
    """A coloured cell of the input: column, row, what it is, how bright."""

    column: int
    row: int
    kind: str
    strength: float = 1.0


@cache
def tiny_model(
    layout: Layout,
    *,
    batch: int | None = None,
    open_size: bool = False,
    named: bool = True,
    kind: int = TensorProto.FLOAT,
) -> bytes:
    """An ONNX file. `batch` None and `open_size`: the file leaves them open."""
    graph = _Graph()
    cells = SIDE // CELL
    anchors = cells * cells
    images = "images"
    if kind != TensorProto.FLOAT:
        images = graph.add("Cast", "images", to=TensorProto.FLOAT)
    colours = np.array([[1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32)
    pooled = graph.add("AveragePool", images, kernel_shape=[CELL, CELL], strides=[CELL, CELL])
    seen = graph.add("Relu", graph.add("Conv", pooled, graph.keep(colours.reshape(3, 3, 1, 1))))
    if layout is Layout.ANCHORS:
        spread = np.zeros((80, 3, 1, 1), np.float32)
        spread[NUMBERS, range(3)] = 1
        scores = graph.add("Conv", seen, graph.keep(spread))
        scores = graph.add("Reshape", scores, graph.keep(np.array([0, 80, anchors])))
        twin = graph.add("Mul", scores, graph.keep(np.float32(SECOND)))
        scores = graph.add("Concat", scores, twin, axis=2)
        zero = graph.add(
            "Mul", graph.add("ReduceMax", scores, axes=[1], keepdims=1), graph.keep(_zero())
        )
        grid = np.concatenate([_grid(cells)] * 2).T[None]
        boxes = graph.add("Add", zero, graph.keep(np.ascontiguousarray(grid)))
        graph.add("Concat", boxes, scores, axis=1, output="output0")
        shape: list[int | str] = ["batch", 84, 2 * anchors]
    else:
        flat = graph.add("Reshape", seen, graph.keep(np.array([0, 3 * anchors])))
        top = graph.add("TopK", flat, graph.keep(np.array([TOP])), outputs=2, axis=1)
        scores, places = top.split(" ")
        many = graph.keep(np.array(anchors))
        which = graph.add("Div", places, many)
        boxes = graph.add("Gather", graph.keep(_corners(cells)), graph.add("Mod", places, many))
        numbers = graph.add("Gather", graph.keep(np.array(NUMBERS, np.float32)), which)
        last = graph.keep(np.array([2]))
        columns = [graph.add("Unsqueeze", one, last) for one in (scores, numbers)]
        graph.add("Concat", boxes, *columns, axis=2, output="output0")
        shape = ["batch", TOP, 6]
    sides: list[int | str] = ["height", "width"] if open_size else [SIDE, SIDE]
    first = batch or "batch"
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "tiny",
            [helper.make_tensor_value_info("images", kind, [first, 3, *sides])],
            [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [first, *shape[1:]])],
            graph.kept,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    if named:
        names = dict(enumerate(coco.NAMES))
        helper.set_model_props(model, {"names": str(names), "imgsz": f"[{SIDE}, {SIDE}]"})
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


class _Graph:
    """Nodes and constants, named by their number."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.kept: list[onnx.TensorProto] = []

    def keep(self, value: np.ndarray) -> str:
        name = f"k{len(self.kept)}"
        self.kept.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(
        self, op: str, *inputs: str, output: str = "", outputs: int = 1, **attributes: object
    ) -> str:
        names = [output or f"n{len(self.nodes)}_{n}" for n in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return " ".join(names)


def _zero() -> np.ndarray:
    return np.zeros(1, np.float32)


def _grid(cells: int) -> np.ndarray:
    """cx cy w h of each cell's box, row by row."""
    middles = (np.arange(cells, dtype=np.float32) + 0.5) * CELL
    across, down = np.meshgrid(middles, middles)
    size = np.full(across.size, BOX, np.float32)
    return np.stack([across.ravel(), down.ravel(), size, size], axis=1)


def _corners(cells: int) -> np.ndarray:
    grid = _grid(cells)
    half = grid[:, 2:] / 2
    return np.concatenate([grid[:, :2] - half, grid[:, :2] + half], axis=1)


def paint(width: int, height: int, blocks: Iterable[Block] = ()) -> Picture:
    """A grey picture that scales to whole cells of the input, with blocks in it."""
    scale = min(SIDE / width, SIDE / height)
    picture = np.full((height, width, 3), 114, np.uint8)
    side = CELL / scale
    for column, row, kind, strength in blocks:
        part = picture[
            round(row * side) : round((row + 1) * side),
            round(column * side) : round((column + 1) * side),
        ]
        part[...] = [round(value * strength) for value in KINDS[kind]]
    return picture


def expected(width: int, height: int, block: Block) -> Found:
    """What a detector must say of a block."""
    scale = min(SIDE / width, SIDE / height)
    middle_x, middle_y = (block.column + 0.5) * CELL / scale, (block.row + 0.5) * CELL / scale
    half = BOX / 2 / scale
    return Found(
        block.kind,
        round(255 * block.strength) / 255,
        max(0.0, middle_x - half),
        max(0.0, middle_y - half),
        min(float(width), middle_x + half),
        min(float(height), middle_y + half),
    )


def overlap(one: Found, other: Found) -> float:
    """Intersection over union, whatever the classes."""
    wide = min(one.x2, other.x2) - max(one.x1, other.x1)
    high = min(one.y2, other.y2) - max(one.y1, other.y1)
    shared = max(wide, 0.0) * max(high, 0.0)
    areas = [(box.x2 - box.x1) * (box.y2 - box.y1) for box in (one, other)]
    return shared / (sum(areas) - shared)


def equal_share(ours: Sequence[Sequence[Found]], theirs: Sequence[Sequence[Found]]) -> float:
    """The share of all boxes of both sides that have a partner: same picture, same class,
    overlapping by at least .95, each box a partner once. 1 where neither found any."""
    matched = total = 0
    for one, other in zip(ours, theirs, strict=True):
        total += len(one) + len(other)
        free = list(other)
        for box in one:
            near = [b for b in free if b.class_name == box.class_name]
            best = max(near, key=lambda b: overlap(box, b), default=None)
            if best is not None and overlap(box, best) >= 0.95:
                free.remove(best)
                matched += 2
    return matched / total if total else 1.0


def average_precision(
    truth: Mapping[int, Sequence[Sequence[float]]], found: Mapping[int, Sequence[Found]]
) -> float:
    """COCO's AP at an overlap of .5 for one class: pycocotools' mean of the precision at 101
    recalls. `truth` has x y width height by picture; only the pictures of `found` count."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    boxes = [(picture, list(box)) for picture in found for box in truth.get(picture, ())]
    results = [
        {
            "image_id": picture,
            "category_id": 1,
            "bbox": [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1],
            "score": box.confidence,
        }
        for picture in found
        for box in found[picture]
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = {
            "images": [{"id": picture} for picture in found],
            "categories": [{"id": 1}],
            "annotations": [
                {
                    "id": number,
                    "image_id": picture,
                    "category_id": 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
                for number, (picture, box) in enumerate(boxes, 1)
            ],
        }
        known.createIndex()
        scorer = COCOeval(known, known.loadRes(results), "bbox")
        scorer.params.iouThrs = np.array([0.5])
        scorer.params.maxDets = [1, 10, 300]
        scorer.evaluate()
        scorer.accumulate()
    return float(scorer.eval["precision"][0, :, 0, 0, -1].mean())
