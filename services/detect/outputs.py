"""What a model's output means: two layouts, told apart by their shape.

`boxes` [B, N, 6]: finished boxes as YOLO26 gives them, x1 y1 x2 y2 score class. `anchors`
[B, 4 + classes, N]: cx cy w h and a score for each class, as YOLO11 gives them. Both in pixels of
the input. The threshold comes before suppression, so that what nobody asked for suppresses nothing
and costs nothing. docs/architecture.md, "detect".
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from services.detect import coco
from services.detect.suppression import Floats, Indices, suppress
from shared.errors import Kind, LamppostError

MAX_BOXES = 300
"""Of one picture."""
MAX_OVERLAP = 0.7
"""The intersection over union from which two boxes of a class are one thing: YOLO's own figure."""
FAR = np.float32(1e6)
"""Pixels. A number beyond, or one that is none, is a model gone wrong: its box is left out."""
MAX_NAMES_CHARS = 100_000
MAX_CLASSES = 2_000


class Layout(StrEnum):
    """As a model's card says it."""

    BOXES = "boxes"
    ANCHORS = "anchors"


class Boxes(NamedTuple):
    """The boxes of one picture in the input's pixels, surest first."""

    corners: Floats
    """[n, 4]: x1 y1 x2 y2."""
    scores: Floats
    classes: Indices


def layout_of(shape: Sequence[int], classes: int) -> Layout:
    """The layout of an output of this shape; INVALID when it is neither."""
    if len(shape) == 3 and shape[1] == 4 + classes:
        return Layout.ANCHORS
    if len(shape) == 3 and shape[2] == 6:
        return Layout.BOXES
    raise LamppostError(
        Kind.INVALID,
        f"The model's output of the shape {list(shape)} is not understood.",
        fix=f"Models for detection are: [B, N, 6] (YOLO26), or [B, {4 + classes}, N] (YOLO11) "
        f"with {classes} classes. Export it for detection, without another task's masks or points.",
    )


def names_of(metadata: Mapping[str, str], known: Sequence[str]) -> tuple[str, ...]:
    """The classes in the model's order: from its metadata, else what is `known`, else COCO's.

    INVALID when its metadata has names that cannot be read.
    """
    text = metadata.get("names", "")
    if not text:
        return tuple(known) or coco.NAMES
    try:
        found = ast.literal_eval(text) if len(text) <= MAX_NAMES_CHARS else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if isinstance(found, dict) and sorted(found) == list(range(len(found))):
        found = [found[number] for number in range(len(found))]
    if not isinstance(found, list) or not 0 < len(found) <= MAX_CLASSES:
        raise LamppostError(
            Kind.INVALID,
            "The model's metadata says `names`, and they are not a list of classes.",
            fix="They look like {0: 'person', 1: 'bicycle'}.",
        )
    return tuple(str(name) for name in found)


class Reader:
    """Reads a model's output: of the classes asked for, from the threshold up, nothing else."""

    def __init__(
        self, layout: Layout, names: Sequence[str], wanted: Collection[str], threshold: float
    ) -> None:
        self._asked = np.array([name in wanted for name in names])
        self._numbers = np.flatnonzero(self._asked)
        self._threshold = np.float32(threshold)
        if not len(self._numbers):
            raise LamppostError(
                Kind.INVALID,
                "The model knows none of the classes asked for.",
                fix=f"It knows {', '.join(names[:20])}; see the setting detect.classes.",
            )
        self.read = self._read_boxes if layout is Layout.BOXES else self._read_anchors
        """From the output for one picture [N, 6] or [4 + classes, N] to its boxes."""

    def _read_boxes(self, output: npt.NDArray[np.float32]) -> Boxes:
        found = output[output[:, 4] >= self._threshold]
        found = found[(np.abs(found) <= FAR).all(axis=1)]
        numbers = found[:, 5].astype(np.intp)
        known = (numbers >= 0) & (numbers < len(self._asked))
        known[known] = self._asked[numbers[known]]
        return _surest(Boxes(found[known, :4], found[known, 4], numbers[known]), MAX_BOXES)

    def _read_anchors(self, output: npt.NDArray[np.float32]) -> Boxes:
        best = output[4 + self._numbers].max(axis=0)
        found = output[:, np.flatnonzero(best >= self._threshold)]
        found = found[:, (np.abs(found) <= FAR).all(axis=0)]
        # An anchor shows what it is surest of, even when that is not asked for: else each boat
        # would be an unsure car.
        numbers = found[4:].argmax(axis=0)
        asked = self._asked[numbers]
        found, numbers = found[:, asked], numbers[asked]
        middles, halves = found[:2], found[2:4] / 2
        corners = np.concatenate([middles - halves, middles + halves]).T
        scores = found[4 + numbers, np.arange(len(numbers))]
        boxes = _surest(Boxes(corners, scores, numbers), len(scores))
        kept = suppress(boxes.corners, boxes.classes, MAX_OVERLAP, MAX_BOXES)
        return Boxes(boxes.corners[kept], boxes.scores[kept], boxes.classes[kept])


def _surest(boxes: Boxes, limit: int) -> Boxes:
    order = np.argsort(-boxes.scores, kind="stable")[:limit]
    return Boxes(boxes.corners[order], boxes.scores[order], boxes.classes[order])
