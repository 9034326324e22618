"""Generated video: no opaque fixtures. Made with the encoders that PyAV brings."""

from __future__ import annotations

import functools
import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

TURN = 7


@functools.cache
def make_video(
    *,
    codec: str = "libx264",
    frames: int = 50,
    rate: int = 25,
    gop: int = 25,
    width: int = 128,
    height: int = 96,
    b_frames: int = 0,
    open_gop: bool = False,
    container: str = "mp4",
    extra: str = "",
) -> bytes:
    """A moving pattern; the same arguments give the same bytes."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        options = {"preset": "ultrafast", "threads": "1"}
        private = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={b_frames}"
        private += f":open-gop={int(open_gop)}" + (f":{extra}" if extra else "")
        options["x264-params" if codec == "libx264" else "x265-params"] = private + (
            ":log-level=none:pools=1:frame-threads=1" if codec == "libx265" else ""
        )
        stream = out.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, rate)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(_picture(index, width, height), format="yuv420p")
            frame.pts = index
            frame.time_base = Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def _picture(index: int, width: int, height: int) -> np.ndarray:
    rows = np.arange(height * 3 // 2, dtype=np.uint16)[:, None]
    columns = np.arange(width, dtype=np.uint16)[None, :]
    picture = (rows * 3 + columns * 2 + index * TURN) % 256
    picture[index % height, :] = 255
    return picture.astype(np.uint8)


def write_video(path: Path, **arguments: object) -> Path:
    """`make_video` into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_video(**arguments))  # type: ignore[arg-type]
    return path
