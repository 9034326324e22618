"""Letterboxing: a picture of any size into a model's fixed input, and its boxes back out.

Rounding, padding and interpolation are those that YOLO models are trained and measured with, since
a pixel's difference there moves every box. docs/architecture.md, "detect".
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from services.detect.detector import Picture
from shared.errors import Kind, LamppostError

GREY = 114
MAX_SIDE = 16_384


class Fit(NamedTuple):
    """Where a picture of width x height lies in the input, in whole pixels of the input."""

    width: int
    height: int
    left: int
    top: int
    wide: int
    high: int

    def back(self, corners: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Corners [n, 4] (x1 y1 x2 y2) in the input's pixels, in the picture's and clipped to it.

        Each axis has its own scale: the sides of the scaled picture were rounded.
        """
        scale = np.array([self.wide / self.width, self.high / self.height] * 2, np.float32)
        moved = (corners - np.array([self.left, self.top] * 2, np.float32)) / scale
        most = np.array([self.width, self.height] * 2, np.float32)
        clipped: npt.NDArray[np.float32] = np.minimum(np.maximum(moved, 0), most)
        return clipped


def fit(width: int, height: int, to_width: int, to_height: int) -> Fit:
    """The picture as large as it goes, in the middle."""
    scale = min(to_height / height, to_width / width)
    wide, high = max(round(width * scale), 1), max(round(height * scale), 1)
    # A tenth less, so that an odd row of padding goes to the lower or right side.
    left, top = (
        round((all_ - part) / 2 - 0.1) for all_, part in ((to_width, wide), (to_height, high))
    )
    return Fit(width, height, left, top, wide, high)


def check(picture: Picture) -> None:
    """INVALID unless it can be analysed."""
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3:
        raise LamppostError(Kind.INVALID, "A picture is an array of bytes, height x width x 3.")
    height, width, channels = picture.shape
    if channels != 3 or not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise LamppostError(
            Kind.INVALID,
            f"A picture of the shape {height} x {width} x {channels} cannot be analysed.",
            fix=f"Pictures are RGB, with sides of 1 to {MAX_SIDE} pixels.",
        )


class Letterbox:
    """Draws pictures into one slot [height, width, 3] of a model's input; belongs to one thread."""

    def __init__(self, slot: npt.NDArray[np.uint8]) -> None:
        self._slot = slot
        self._last: Fit | None = None

    def draw(self, picture: Picture) -> Fit:
        """Replace what is in the slot; where the picture lies now. INVALID: no picture."""
        check(picture)
        to_height, to_width = self._slot.shape[:2]
        found = fit(picture.shape[1], picture.shape[0], to_width, to_height)
        if found != self._last:
            # The next picture of the same size covers exactly the same pixels.
            self._slot.fill(GREY)
            self._last = found
        part = self._slot[found.top : found.top + found.high, found.left : found.left + found.wide]
        if picture.shape == part.shape:
            part[...] = picture
        else:
            whole = np.ascontiguousarray(picture)
            cv2.resize(whole, (found.wide, found.high), dst=part, interpolation=cv2.INTER_LINEAR)
        return found
