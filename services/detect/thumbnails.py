"""The frame that shows a thing best: how good a box is, and its picture as a small JPEG.

Pictures are cut from analysis frames, which are masked already. docs/tracking.md, "Thumbnails".
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import simplejpeg

from services.detect.detector import Found, Picture

MAX_HEIGHT = 160
MAX_WIDTH = 240
MAX_BYTES = 8 * 1024
MARGIN = 0.1
"""Of the box's longer side, shown around it."""
QUALITIES = (80, 65, 50, 35, 20)
BORDER = 0.01
"""Of the picture: a box so near its border is probably cut by it."""
BETTER = 1.15
"""A new best frame must be so much better than the one before."""


def score(found: Found, width: int, height: int) -> float:
    """How well a frame shows the thing: confidence times the box's size, less at the border."""
    size = math.sqrt(max(0.0, (found.x2 - found.x1) * (found.y2 - found.y1)))
    near_x, near_y = BORDER * width, BORDER * height
    cut = (
        found.x1 < near_x
        or found.y1 < near_y
        or found.x2 > width - near_x
        or found.y2 > height - near_y
    )
    return found.confidence * min(size, MAX_HEIGHT) * (0.5 if cut else 1.0)


def cut(found: Found, picture: Picture) -> Picture:
    """The box with a margin, at most MAX_HEIGHT high and MAX_WIDTH wide."""
    height, width = picture.shape[:2]
    margin = MARGIN * max(found.x2 - found.x1, found.y2 - found.y1)
    x1, y1 = max(0, int(found.x1 - margin)), max(0, int(found.y1 - margin))
    x2 = max(x1 + 1, min(width, math.ceil(found.x2 + margin)))
    y2 = max(y1 + 1, min(height, math.ceil(found.y2 + margin)))
    x1, y1 = min(x1, width - 1), min(y1, height - 1)
    part = picture[y1:y2, x1:x2]
    shrink = min(1.0, MAX_HEIGHT / part.shape[0], MAX_WIDTH / part.shape[1])
    if shrink < 1:
        size = (max(1, int(part.shape[1] * shrink)), max(1, int(part.shape[0] * shrink)))
        small = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.uint8)
    return part.copy()


def jpeg(picture: Picture) -> bytes:
    """The best quality that keeps to MAX_BYTES, else the least."""
    picture = np.ascontiguousarray(picture)
    data = b""
    for quality in QUALITIES:
        data = simplejpeg.encode_jpeg(picture, quality=quality, colorspace="RGB")
        if len(data) <= MAX_BYTES:
            break
    return bytes(data)
