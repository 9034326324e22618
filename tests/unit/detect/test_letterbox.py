"""Letterboxing: where a picture lies in the input, and boxes back in its own pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.detect.letterbox import GREY, MAX_SIDE, Fit, Letterbox, check, fit
from shared.errors import Kind, LamppostError

SIDES = st.integers(1, 4000)


@pytest.mark.parametrize(
    ("size", "to", "where"),
    [
        # left, top, wide, high: the figures of YOLO's own letterbox.
        ((1920, 1080), (640, 384), (0, 12, 640, 360)),
        ((1920, 1080), (640, 640), (0, 140, 640, 360)),
        ((768, 576), (640, 640), (0, 80, 640, 480)),
        ((640, 480), (640, 480), (0, 0, 640, 480)),
        ((640, 361), (640, 640), (0, 139, 640, 361)),
        ((361, 640), (640, 640), (139, 0, 361, 640)),
        ((100, 51), (640, 640), (0, 157, 640, 326)),
        ((4000, 1), (640, 640), (0, 319, 640, 1)),
    ],
)
def test_where_a_picture_lies(
    size: tuple[int, int], to: tuple[int, int], where: tuple[int, int, int, int]
) -> None:
    assert fit(*size, *to) == Fit(*size, *where)


@settings(deadline=None)
@given(SIDES, SIDES, st.sampled_from([(640, 640), (640, 384), (384, 640), (32, 4096)]))
def test_a_picture_fits_and_its_own_corners_come_back(
    width: int, height: int, to: tuple[int, int]
) -> None:
    found = fit(width, height, *to)
    assert found.left >= 0
    assert found.top >= 0
    assert found.left + found.wide <= to[0]
    assert found.top + found.high <= to[1]
    assert found.wide == to[0] or found.high == to[1]
    whole = [found.left, found.top, found.left + found.wide, found.top + found.high]
    back = found.back(np.array([whole], np.float32))[0]
    assert np.allclose(back, [0, 0, width, height], rtol=1e-4)


def test_boxes_are_clipped_to_the_picture() -> None:
    found = fit(640, 320, 640, 640)
    back = found.back(np.array([[-5, 0, 700, 640], [10, 170, 20, 180]], np.float32))
    assert back.tolist() == [[0, 0, 640, 320], [10, 10, 20, 20]]


@pytest.mark.parametrize("size", [(90, 64), (64, 90), (96, 96), (48, 96), (1, 3)])
def test_the_slot_holds_the_scaled_picture_in_grey(size: tuple[int, int]) -> None:
    slot = np.zeros((96, 96, 3), np.uint8)
    picture = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    found = Letterbox(slot).draw(picture)
    wanted = np.full((96, 96, 3), GREY, np.uint8)
    scaled = cv2.resize(picture, (found.wide, found.high), interpolation=cv2.INTER_LINEAR)
    wanted[found.top : found.top + found.high, found.left : found.left + found.wide] = scaled
    assert np.array_equal(slot, wanted)


def test_the_picture_before_leaves_nothing_behind() -> None:
    rng = np.random.default_rng(2)
    wide, tall = (rng.integers(0, 256, (*s, 3), np.uint8) for s in ((40, 90), (90, 40)))
    used, fresh = (np.zeros((96, 96, 3), np.uint8) for _ in range(2))
    letterbox = Letterbox(used)
    for picture in (wide, tall, wide, wide):
        letterbox.draw(picture)
    Letterbox(fresh).draw(wide)
    assert np.array_equal(used, fresh)


def test_a_slot_of_a_batch_is_drawn_in_place() -> None:
    canvas = np.full((2, 96, 96, 3), 7, np.uint8)
    Letterbox(canvas[1]).draw(np.zeros((50, 90, 3), np.uint8))
    assert (canvas[0] == 7).all()
    assert not (canvas[1] == 7).any()


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (5, 5, 1), (MAX_SIDE + 1, 1, 3), (5, 5)])
def test_what_is_no_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(LamppostError) as caught:
        check(np.zeros(shape, np.uint8))
    assert caught.value.kind is Kind.INVALID
