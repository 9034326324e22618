"""COCO-SSD from TensorFlow.js to ONNX: the same numbers as the graph itself gives."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from services.detect import coco, coco_ssd, tfjs
from services.detect.coco_ssd import Grid, Level
from shared.errors import Kind, LamppostError
from tests.support.coco_ssd_model import LAYERS, LEVEL_BOXES, TinyModel, stored_anchors

Floats = npt.NDArray[np.float64]
TINY = TinyModel()
MODEL = tfjs.read(TINY.files())


def _run(data: bytes, pictures: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    made: npt.NDArray[np.float32] = ReferenceEvaluator(onnx.load_from_string(data)).run(
        None, {"images": pictures}
    )[0]
    return made


def _pictures(count: int, height: int, width: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(3).random((count, 3, height, width), np.float32)


def test_boxes_and_scores_are_those_of_the_graph() -> None:
    pictures = _pictures(2, 300, 300)
    out = _run(coco_ssd.build(MODEL, 300, 300), pictures)
    assert out.shape == (2, 84, 19 * 19 * 3 + 10 * 10 * 6)
    y1, x1, y2, x2 = stored_anchors().T * 300
    for picture, found in zip(pictures, out, strict=True):
        encoded, logits = TINY.evaluate(picture.transpose(1, 2, 0).astype(np.float64) * 2 - 1)
        ty, tx, th, tw = encoded.T
        wanted = np.stack(
            [
                tx / 10 * (x2 - x1) + (x1 + x2) / 2,
                ty / 10 * (y2 - y1) + (y1 + y2) / 2,
                np.exp(tw / 5) * (x2 - x1),
                np.exp(th / 5) * (y2 - y1),
            ]
        )
        np.testing.assert_allclose(found[:4], wanted, rtol=1e-4, atol=1e-3)
        scores = 1 / (1 + np.exp(-logits[:, list(coco.CATEGORY_IDS)]))
        np.testing.assert_allclose(found[4:], scores.T, atol=1e-5)
        assert float(np.std(scores)) > 0.01, "the scores say nothing: the test would not fail"


@pytest.mark.parametrize(("height", "width"), [(96, 224), (161, 130)])
def test_another_size_runs_the_same_network(height: int, width: int) -> None:
    """Sides that no stride divides: TensorFlow's padding is odd there."""
    pictures = _pictures(1, height, width)
    out = _run(coco_ssd.build(MODEL, height, width), pictures)[0]
    encoded, logits = TINY.evaluate(pictures[0].transpose(1, 2, 0).astype(np.float64) * 2 - 1)
    scores = 1 / (1 + np.exp(-logits[:, list(coco.CATEGORY_IDS)]))
    np.testing.assert_allclose(out[4:], scores.T, atol=1e-5)
    cx, cy, w, h = _moved_anchors(height, width).T
    ty, tx, th, tw = encoded.T
    wanted = [tx / 10 * w + cx, ty / 10 * h + cy, np.exp(tw / 5) * w, np.exp(th / 5) * h]
    np.testing.assert_allclose(out[:4], wanted, rtol=1e-4, atol=1e-3)


def _looked_at(length: int, layers: Sequence[tuple[int, int]]) -> Floats:
    """Where the cells of a map look, along one side: through the layers from the input."""
    pixels = np.arange(length) + 0.5
    for side, stride in layers:
        cells = math.ceil(len(pixels) / stride)
        before = max((cells - 1) * stride + side - len(pixels), 0) // 2
        step = pixels[1] - pixels[0]
        pixels = pixels[0] + step * (stride * np.arange(cells) - before + (side - 1) / 2)
    return pixels


def _moved_anchors(height: int, width: int) -> Floats:
    """cx cy w h at this size: each as far from where its cell looks as, on average, at 300."""
    stored, rows, at = stored_anchors() * 300, [], 0
    for layers, boxes in zip(LAYERS, LEVEL_BOXES, strict=True):
        gap = 150 - np.mean(_looked_at(300, layers))
        for y in _looked_at(height, layers) + gap:
            for x in _looked_at(width, layers) + gap:
                for y1, x1, y2, x2 in stored[at : at + boxes]:
                    rows.append((x, y, x2 - x1, y2 - y1))
        at += len(_looked_at(300, layers)) ** 2 * boxes
    return np.array(rows)


def test_the_same_model_gives_the_same_bytes() -> None:
    again = tfjs.read(TinyModel().files())
    assert coco_ssd.build(MODEL, 128, 96) == coco_ssd.build(again, 128, 96)


def test_anchors_at_the_trained_size_are_the_stored_ones() -> None:
    level = [Level(Grid(1, 2, 150, 75, 75), 1)]
    stored = np.array([[0, 0, 1, 0.5], [0.25, 0.5, 0.75, 1]], np.float32)
    table = coco_ssd.anchors(stored, level, level)
    assert table.tolist() == [[75, 150, 150, 300], [225, 150, 150, 150]]


def test_anchors_at_another_size_keep_their_pixels() -> None:
    """Sides stay, neighbours are a step apart, and each lies as far from the pixel that its cell
    looks at as at the trained size."""
    known = [Level(Grid(19, 19, 16, 8, 8), 3)]
    larger = [Level(Grid(30, 40, 16, 7, 9), 3)]
    stored = stored_anchors()[: 19 * 19 * 3]
    table = coco_ssd.anchors(stored, larger, known).reshape(30, 40, 3, 4)
    old = coco_ssd.anchors(stored, known, known).reshape(19, 19, 3, 4)
    np.testing.assert_allclose(table[..., 2:], np.broadcast_to(old[0, 0, :, 2:], (30, 40, 3, 2)))
    np.testing.assert_allclose(np.diff(table[:, 0, 0, 1]), 16)
    np.testing.assert_allclose(np.diff(table[0, :, 0, 0]), 16)
    mean_gap = np.mean(old[:, 0, 0, 1] - (8 + 16 * np.arange(19)))
    np.testing.assert_allclose(table[:, 0, 0, 1] - (7 + 16 * np.arange(30)), mean_gap)
    np.testing.assert_allclose(table[0, :, 0, 0] - (9 + 16 * np.arange(40)), mean_gap)


def _document(change: Any) -> dict[str, bytes]:
    files = TINY.files()
    document = json.loads(files["model.json"])
    change(document)
    return {**files, "model.json": json.dumps(document).encode()}


def _node(document: Any, name: str) -> Any:
    return next(node for node in document["modelTopology"]["node"] if node["name"] == name)


def test_a_broken_package_is_refused() -> None:
    files = TINY.files()

    def wrong_type(document: Any) -> None:
        document["weightsManifest"][0]["weights"][0]["dtype"] = "string"

    def negative(document: Any) -> None:
        document["weightsManifest"][0]["weights"][0]["shape"] = [-1]

    broken = [
        {},
        {**files, "model.json": b"{"},
        {**files, "model.json": b"[]"},
        {"model.json": files["model.json"]},
        {**files, "group1-shard2of2": files["group1-shard2of2"][:-1]},
        {**files, "group1-shard2of2": files["group1-shard2of2"] + b"\0"},
        _document(wrong_type),
        _document(negative),
    ]
    for bad in broken:
        with pytest.raises(LamppostError) as caught:
            tfjs.read(bad)
        assert caught.value.kind is Kind.CORRUPT, bad.keys()


def test_quantised_weights_are_read() -> None:
    weights = [
        {
            "name": "a",
            "shape": [2],
            "dtype": "float32",
            "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1.0},
        },
        {"name": "b", "shape": [], "dtype": "float32", "quantization": {"dtype": "float16"}},
    ]
    document = {
        "modelTopology": {"node": []},
        "weightsManifest": [{"paths": ["x"], "weights": weights}],
    }
    data = bytes([0, 255]) + np.float16(1.5).tobytes()
    found = tfjs.read({"model.json": json.dumps(document).encode(), "x": data}).weights
    assert found["a"].tolist() == [-1, 126.5] and float(found["b"]) == 1.5


def test_another_network_is_refused_with_its_reason() -> None:
    def padding(document: Any) -> None:
        _node(document, "deep")["attr"]["padding"]["s"] = list(b"VALID")

    def strange(document: Any) -> None:
        _node(document, "stem/bn/relu6")["op"] = "Elu"

    def torn(document: Any) -> None:
        _node(document, "wide")["input"][0] = "nowhere"

    def bare(document: Any) -> None:
        _node(document, "deep")["attr"] = {}

    for change, kind in (
        (padding, Kind.UNSUPPORTED),
        (strange, Kind.UNSUPPORTED),
        (torn, Kind.CORRUPT),
        (bare, Kind.CORRUPT),
    ):
        with pytest.raises(LamppostError) as caught:
            coco_ssd.build(tfjs.read(_document(change)), 300, 300)
        assert caught.value.kind is kind, change


@pytest.mark.parametrize(("height", "width"), [(0, 300), (300, 95), (2049, 300), (-1, -1)])
def test_sizes_are_bounded(height: int, width: int) -> None:
    with pytest.raises(LamppostError) as caught:
        coco_ssd.build(MODEL, height, width)
    assert caught.value.kind is Kind.INVALID
