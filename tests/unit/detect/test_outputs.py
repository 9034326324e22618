"""What a model's output means: layouts by shape, names, classes and thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from services.detect import coco
from services.detect.outputs import MAX_BOXES, Layout, Reader, layout_of, names_of
from shared.errors import Kind, LamppostError

NAMES = ("person", "boat", "car")


@pytest.mark.parametrize(
    ("shape", "classes", "layout"),
    [
        ((1, 300, 6), 80, Layout.BOXES),
        ((4, 300, 6), 80, Layout.BOXES),
        ((1, 84, 8400), 80, Layout.ANCHORS),
        ((1, 84, 6), 80, Layout.ANCHORS),
        ((1, 6, 8400), 2, Layout.ANCHORS),
        ((1, 7, 6), 2, Layout.BOXES),
    ],
)
def test_layouts_are_told_apart_by_shape(
    shape: tuple[int, ...], classes: int, layout: Layout
) -> None:
    assert layout_of(shape, classes) is layout


@pytest.mark.parametrize("shape", [(1, 116, 8400), (1, 8400, 84), (1, 1000), (1, 80, 80, 3), ()])
def test_other_outputs_are_invalid_and_said(shape: tuple[int, ...]) -> None:
    with pytest.raises(LamppostError, match="not understood") as caught:
        layout_of(shape, 80)
    assert caught.value.kind is Kind.INVALID
    assert str(list(shape)) in str(caught.value)


def test_names_come_from_the_file_else_its_card_else_coco() -> None:
    assert names_of({"names": "{0: 'person', 1: \"dog's\"}"}, NAMES) == ("person", "dog's")
    assert names_of({"names": "['a', 'b']"}, ()) == ("a", "b")
    assert names_of({}, NAMES) == NAMES
    assert names_of({}, ()) == coco.NAMES


@pytest.mark.parametrize(
    "text",
    ["{", "{1: 'a'}", "{0: 'a', 2: 'b'}", "[]", "3", "__import__('os')", "[" * 5000, "(" * 200_000],
)
def test_names_that_cannot_be_read_are_invalid(text: str) -> None:
    with pytest.raises(LamppostError) as caught:
        names_of({"names": text}, NAMES)
    assert caught.value.kind is Kind.INVALID


def boxes(rows: list[list[float]], threshold: float = 0.2, wanted: tuple[str, ...] = NAMES) -> list:
    """What is read of finished boxes, as (class, score, x1)."""
    reader = Reader(Layout.BOXES, NAMES, wanted, threshold)
    found = reader.read(np.array(rows, np.float32).reshape(-1, 6))
    return [
        (int(number), round(float(score), 2), float(corner[0]))
        for number, score, corner in zip(found.classes, found.scores, found.corners, strict=True)
    ]


def test_finished_boxes_of_the_classes_asked_for_surest_first() -> None:
    rows = [[1, 0, 9, 9, 0.3, 0], [2, 0, 9, 9, 0.9, 2], [3, 0, 9, 9, 0.8, 1], [4, 0, 9, 9, 0.1, 0]]
    assert boxes(rows, wanted=("person", "car")) == [(2, 0.9, 2), (0, 0.3, 1)]
    assert boxes([]) == []


def test_finished_boxes_that_make_no_sense_are_left_out() -> None:
    nan, inf = float("nan"), float("inf")
    rows = [
        [nan, 0, 9, 9, 0.9, 0],
        [1, 0, inf, 9, 0.9, 0],
        [1, 0, 9, 9, nan, 0],
        [1, 0, 9, 9, 0.9, nan],
        [1, 0, 9, 9, 0.9, 1e30],
        [-3e38, 0, 3e38, 9, 0.9, 0],
        [1, 0, 9, 9, 0.9, 3],
        [1, 0, 9, 9, 0.9, -1],
        [7, 0, 9, 9, 0.5, 1],
    ]
    assert boxes(rows) == [(1, 0.5, 7)]


def test_at_most_so_many_boxes() -> None:
    rows = [[n, 0, n + 9, 9, 0.5 + n / 10_000, 0] for n in range(2 * MAX_BOXES)]
    found = boxes(rows)
    assert len(found) == MAX_BOXES
    assert found[0][2] == 2 * MAX_BOXES - 1


def anchors(columns: list[list[float]], wanted: tuple[str, ...] = NAMES) -> list:
    """What is read of anchors given as cx cy w h and three scores."""
    reader = Reader(Layout.ANCHORS, NAMES, wanted, 0.2)
    found = reader.read(np.array(columns, np.float32).reshape(-1, 7).T)
    return [
        (int(number), round(float(score), 2), [float(side) for side in corner])
        for number, score, corner in zip(found.classes, found.scores, found.corners, strict=True)
    ]


def test_anchors_become_corners() -> None:
    assert anchors([[20, 30, 10, 8, 0.5, 0, 0]]) == [(0, 0.5, [15, 26, 25, 34])]
    assert anchors([]) == []


def test_an_anchor_shows_what_it_is_surest_of() -> None:
    column = [20, 30, 10, 8, 0.3, 0.6, 0.4]
    assert [found[:2] for found in anchors([column])] == [(1, 0.6)]
    assert anchors([column], wanted=("person", "car")) == []


def test_anchors_of_one_thing_give_one_box_and_unsure_ones_suppress_nothing() -> None:
    columns = [
        [20, 30, 10, 10, 0, 0, 0.5],
        [20, 30, 10, 10, 0, 0, 0.9],
        [20, 30, 10, 10, 0.7, 0, 0],
        [50, 30, 10, 10, 0, 0, 0.15],
        [90, 30, 10, 10, 0, 0, 0.2],
    ]
    assert [found[:2] for found in anchors(columns)] == [(2, 0.9), (0, 0.7), (2, 0.2)]


def test_anchors_that_make_no_sense_are_left_out() -> None:
    nan = float("nan")
    columns = [
        [nan, 30, 10, 10, 0.9, 0, 0],
        [20, 30, 10, float("inf"), 0.9, 0, 0],
        [20, 30, 10, 10, nan, 0.5, 0],
        [20, 30, 3e38, 3e38, 0.9, 0, 0],
    ]
    assert anchors(columns) == []


def test_a_model_that_knows_nothing_asked_for_is_invalid() -> None:
    with pytest.raises(LamppostError, match="none of the classes") as caught:
        Reader(Layout.BOXES, NAMES, ("dog",), 0.2)
    assert caught.value.kind is Kind.INVALID
