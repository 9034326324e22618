"""The best frame's picture: small, whole, and of the frame that shows most."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from services.detect import thumbnails
from services.detect.detector import Found, Picture


def noisy(width: int = 640, height: int = 360) -> Picture:
    return np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    "box",
    [
        (100, 50, 180, 250),
        (0, 0, 640, 360),
        (-5, -5, 10, 400),
        (630, 350, 650, 370),
        (100, 100, 101, 101),
        (10, 340, 600, 360),
        (700, 400, 720, 420),
    ],
)
def test_any_box_is_a_small_jpeg(box: tuple[float, float, float, float]) -> None:
    data = thumbnails.jpeg(thumbnails.cut(Found("person", 0.9, *box), noisy()))
    with Image.open(io.BytesIO(data)) as image:
        assert image.height <= thumbnails.MAX_HEIGHT and image.width <= thumbnails.MAX_WIDTH
        assert min(image.size) >= 1


def test_a_picture_keeps_to_its_bytes() -> None:
    picture = np.zeros((360, 640, 3), np.uint8)
    picture[:, :, 0] = np.linspace(0, 255, 640)
    picture[::7, ::5] = 255
    data = thumbnails.jpeg(thumbnails.cut(Found("car", 0.9, 100, 50, 500, 330), picture))
    assert len(data) <= thumbnails.MAX_BYTES


def test_the_thing_is_in_it_with_a_margin() -> None:
    picture = np.zeros((360, 640, 3), np.uint8)
    picture[100:200, 300:340] = (250, 10, 10)
    part = thumbnails.cut(Found("person", 0.9, 300, 100, 340, 200), picture)
    assert part.shape == (120, 60, 3)
    assert tuple(part[60, 30]) == (250, 10, 10) and not part[5, 5].any()


def test_the_cut_does_not_hold_the_frame() -> None:
    picture = noisy()
    part = thumbnails.cut(Found("person", 0.9, 300, 100, 340, 200), picture)
    assert not np.shares_memory(part, picture)


def test_larger_surer_and_whole_is_better() -> None:
    plain = thumbnails.score(Found("person", 0.8, 100, 100, 140, 200), 640, 360)
    assert thumbnails.score(Found("person", 0.9, 100, 100, 140, 200), 640, 360) > plain
    assert thumbnails.score(Found("person", 0.8, 100, 100, 160, 250), 640, 360) > plain
    assert thumbnails.score(Found("person", 0.8, 0, 100, 40, 200), 640, 360) < plain
