"""A decoded picture as an analysis frame: scaled, masked, JPEG within its limits.

Pictures go from YUV planes to JPEG without a detour over RGB. docs/architecture.md, "ingest".
"""

from __future__ import annotations

import functools
import threading
from typing import NamedTuple

import av
import numpy as np
import numpy.typing as npt
import simplejpeg
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from shared.domain import Mask

Plane = npt.NDArray[np.uint8]

BEST_QUALITY = 80
LEAST_QUALITY = 40
AIM_BYTES = 60 * 1024
"""Quality falls above this, so that 64 KB holds at p95."""
MAX_BYTES = 512 * 1024
LAST_RESORTS = (60, 40, 20, 8)
BLACK, GREY = 0, 128
HD_HEIGHT = 720
SPACES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}
"""The decoder's colour matrices by their scaler's name; unknown ones are guessed by size."""


class Planes(NamedTuple):
    """A 4:2:0 picture at full range (JPEG's), sides even."""

    y: Plane
    u: Plane
    v: Plane

    @property
    def width(self) -> int:
        return int(self.y.shape[1])

    @property
    def height(self) -> int:
        return int(self.y.shape[0])


class Scaler:
    """Scales one stream's pictures; belongs to one thread."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._reformatter = VideoReformatter()

    def scale(self, frame: av.VideoFrame) -> Planes:
        """The picture at most `width` wide, in the colours that JPEG means."""
        wide = min(self._width, frame.width) & ~1 or 2
        high = round(frame.height * wide / frame.width) & ~1 or 2
        guess = Colorspace.ITU709 if frame.height >= HD_HEIGHT else Colorspace.ITU601
        small = self._reformatter.reformat(
            frame,
            width=wide,
            height=high,
            format="yuvj420p",
            src_colorspace=SPACES.get(frame.colorspace, guess),
            dst_colorspace=Colorspace.ITU601,
            interpolation=Interpolation.AREA,
        )
        return Planes(
            _plane(small, 0, high, wide),
            _plane(small, 1, high // 2, wide // 2),
            _plane(small, 2, high // 2, wide // 2),
        )


class SharedScaler(Scaler):
    """One for all streams that scale seldom: a scaler of 1080p pictures holds 2.4 MB of tables."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self._lock = threading.Lock()

    def scale(self, frame: av.VideoFrame) -> Planes:
        with self._lock:
            return super().scale(frame)


shared_scaler = functools.cache(SharedScaler)
"""The process's scaler to this width."""


def _plane(frame: av.VideoFrame, index: int, height: int, width: int) -> Plane:
    """A copy of one plane without its padding."""
    plane = frame.planes[index]
    raw = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return np.array(raw[:height, :width], order="C")


class Masker:
    """Blanks a camera's mask polygons; the raster is kept for one picture size."""

    def __init__(self, mask: Mask) -> None:
        self._polygons = [polygon for polygon in mask.polygons if len(polygon) >= 3]
        self._size = (0, 0)
        self._luma: npt.NDArray[np.bool_] = np.zeros((0, 0), bool)
        self._chroma = self._luma

    def apply(self, planes: Planes) -> None:
        """Blank in place. A pixel that a polygon only touches is blanked too."""
        if not self._polygons:
            return
        if self._size != (planes.width, planes.height):
            self._raster(planes.width, planes.height)
        planes.y[self._luma] = BLACK
        planes.u[self._chroma] = GREY
        planes.v[self._chroma] = GREY

    def _raster(self, width: int, height: int) -> None:
        # Few cameras have a mask; the others' recorders do without the library.
        from PIL import Image, ImageDraw

        image = Image.new("1", (width, height))
        draw = ImageDraw.Draw(image)
        for polygon in self._polygons:
            points = [(x * width, y * height) for x, y in polygon]
            draw.polygon(points, fill=1, outline=1, width=2)
        luma = np.array(image, dtype=bool)
        pairs = luma.reshape(height // 2, 2, width // 2, 2)
        self._chroma = np.any(pairs, axis=(1, 3))
        # Chroma is shared by four pixels: all four go, else a hue would show at the edge.
        self._luma = luma | self._chroma.repeat(2, axis=0).repeat(2, axis=1)
        self._size = (width, height)


class JpegMaker:
    """Encodes one camera's frames, steering its quality so that they stay near AIM_BYTES."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._quality = BEST_QUALITY

    def encode(self, planes: Planes) -> bytes | None:
        """JPEG bytes; None when no quality fits the limit."""
        data = _encode(planes, self._quality)
        while len(data) > AIM_BYTES and self._quality > LEAST_QUALITY:
            self._quality = max(LEAST_QUALITY, self._quality - 10)
            data = _encode(planes, self._quality)
        if len(data) < AIM_BYTES // 2 and self._quality < BEST_QUALITY:
            self._quality += 1
        for quality in LAST_RESORTS:
            if len(data) <= self._max_bytes:
                return data
            if quality < self._quality:
                data = _encode(planes, quality)
        return data if len(data) <= self._max_bytes else None


def _encode(planes: Planes, quality: int) -> bytes:
    return bytes(simplejpeg.encode_jpeg_yuv_planes(planes.y, planes.u, planes.v, quality=quality))
