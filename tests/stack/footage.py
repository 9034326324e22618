"""The clip that the cameras of a stack send: a red block walks over noise, key frames 2 s apart.

The network without weights (tests/bench/watching.py) takes red blocks for persons, so that a
recording leads to a hit in a search without a model to fetch or a core to spare.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE_FPS = 10
SECONDS = 120
WIDTH, HEIGHT, BLOCK = 320, 240, 64


def walking_block(path: Path) -> Path:
    """Two minutes, every picture another: what was stored is matched with what was sent."""
    random = np.random.default_rng(4)
    noise = random.integers(112, 116, (HEIGHT, WIDTH, 3), np.uint8)
    with av.open(str(path), "w", format="mp4") as out:
        gop = 2 * RATE_FPS
        options = {
            "preset": "superfast",
            "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes=0",
        }
        stream = out.add_stream("libx264", rate=RATE_FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(SECONDS * RATE_FPS):
            picture = noise.copy()
            # The number as a bar of sixteen cells: no two pictures are coded alike.
            for bit in range(16):
                picture[:8, bit * 16 : bit * 16 + 16] = 255 * (number >> bit & 1)
            step = number % 100
            left = 4 * min(step, 100 - step)
            picture[80 : 80 + BLOCK, 20 + left : 20 + left + BLOCK] = (255, 0, 0)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE_FPS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path
