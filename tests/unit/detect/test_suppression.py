"""Suppression against the slowest possible way to write it, and against its own bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.detect.suppression import CHUNK, overlaps, suppress
from tests.support.detecting import Found, overlap

BOX = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 40), st.integers(1, 40)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


def brute_force(
    boxes: list[tuple[int, ...]], classes: list[int], most: float, limit: int
) -> list[int]:
    """Box after box, asking all that stay."""
    kept: list[int] = []
    for number, box in enumerate(boxes):
        mine = Found("", 1, *map(float, box))
        rivals = [
            Found("", 1, *map(float, boxes[k])) for k in kept if classes[k] == classes[number]
        ]
        if len(kept) < limit and all(overlap(mine, rival) <= most for rival in rivals):
            kept.append(number)
    return kept


@settings(deadline=None)
@given(
    st.lists(st.tuples(BOX, st.integers(0, 2)), max_size=40),
    st.sampled_from([0.3, 0.5, 0.7]),
    st.sampled_from([3, 300]),
)
def test_it_keeps_what_brute_force_keeps(
    found: list[tuple[tuple[int, ...], int]], most: float, limit: int
) -> None:
    boxes, classes = [box for box, _ in found], [number for _, number in found]
    # Shares that a float cannot tell from the bound may fall to either side: keep clear of them.
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    kept = suppress(corners, np.array(classes, np.intp), most + 1e-4, limit)
    assert kept.tolist() == brute_force(boxes, classes, most + 1e-4, limit)


@pytest.mark.parametrize("limit", [5, 300, 10_000])
def test_more_than_one_chunk(limit: int) -> None:
    """What stays in one chunk takes away in the next."""
    rng = np.random.default_rng(4)
    start = rng.integers(0, 60, (3 * CHUNK + 5, 2))
    corners = np.concatenate([start, start + rng.integers(10, 30, start.shape)], axis=1)
    classes = rng.integers(0, 2, len(start))
    kept = suppress(corners.astype(np.float32), classes, 0.5001, limit)
    boxes = [tuple(map(int, box)) for box in corners]
    assert kept.tolist() == brute_force(boxes, classes.tolist(), 0.5001, limit)
    assert len(kept) > min(limit, 20) - 1


def test_of_one_class_only() -> None:
    corners = np.array([[0, 0, 10, 10]] * 3, np.float32)
    assert suppress(corners, np.array([1, 2, 1]), 0.7, 300).tolist() == [0, 1]


def test_empty_boxes_overlap_nothing() -> None:
    one, others = np.array([[5, 5, 5, 9]], np.float32), np.array([[5, 5, 5, 9], [0, 0, 9, 9]])
    assert overlaps(one, others.astype(np.float32)).tolist() == [[0, 0]]


@pytest.mark.parametrize("crowd", ["apart", "together"])
def test_a_model_gone_mad_costs_a_bounded_time(crowd: str) -> None:
    """20,000 sure boxes: no matrix of all pairs, which would be gigabytes."""
    rng = np.random.default_rng(3)
    spread = 1e6 if crowd == "apart" else 1.0
    start = rng.random((20_000, 2), np.float32) * np.float32(spread)
    corners = np.concatenate([start, start + 50], axis=1).astype(np.float32)
    kept = suppress(corners, np.zeros(20_000, np.intp), 0.7, 300)
    assert len(kept) == (300 if crowd == "apart" else 1)
