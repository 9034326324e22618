"""Footage through the whole path to a detector: recorded, decoded, scaled, coded as JPEG.

Clips that are not H.264 are converted first, near-losslessly and frame for frame, since MP4
recording carries no MPEG-4 part 2.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import simplejpeg

from services.detect.detector import Found, Picture
from services.ingest.frames import JpegMaker, Scaler
from shared.settings import Settings
from tests.support import recording

X264 = "keyint=10:min-keyint=10:scenecut=0:bframes=0:log-level=none"
QUALITY = "8"
"""x264's CRF; 0 would be lossless, and a profile that no camera has."""


class Sampled(NamedTuple):
    """One analysis frame: the clip's frame number, the picture that a detector gets, and how many
    of the clip's pixels one of the picture's is, across and down."""

    number: int
    picture: Picture
    across: float
    down: float

    def in_clip(self, box: Found) -> Found:
        """A box of the picture in the clip's pixels."""
        return box._replace(
            x1=box.x1 * self.across,
            x2=box.x2 * self.across,
            y1=box.y1 * self.down,
            y2=box.y2 * self.down,
        )


def near_lossless(source: Path, into: Path) -> int:
    """Convert a clip to H.264 in MP4; how many frames it has."""
    with av.open(str(source)) as clip, av.open(str(into), "w") as out:
        video = clip.streams.video[0]
        rate = Fraction(video.average_rate or 25)
        options = {"preset": "veryfast", "crf": QUALITY, "threads": "1", "x264-params": X264}
        stream = out.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        number = 0
        for number, frame in enumerate(clip.decode(video), 1):
            plain = frame.reformat(format="yuv420p")
            plain.pts, plain.time_base, plain.pict_type = number - 1, 1 / rate, 0
            out.mux(stream.encode(plain))
        out.mux(stream.encode(None))
    return number


def least_likeness(one: Path, other: Path, every: int) -> float:
    """The lowest PSNR (dB) of two clips' luma, over every `every`th frame."""
    worst = 100.0
    with av.open(str(one)) as first, av.open(str(other)) as second:
        pairs = zip(first.decode(video=0), second.decode(video=0), strict=True)
        for number, pair in enumerate(pairs):
            if number % every == 0:
                a, b = (_luma(frame) for frame in pair)
                error = float(np.mean((a - b) ** 2))
                worst = min(worst, 10 * np.log10(255**2 / max(error, 1e-5)))
    return float(worst)


def _luma(frame: av.VideoFrame) -> np.ndarray:
    planes = frame.reformat(format="yuv420p").to_ndarray()
    return planes[: frame.height].astype(np.float32)


async def recorded(state: Path, clip: Path) -> list[bytes]:
    """The clip's segments as the recorder files them, in order."""
    settings = recording.settings_for(state, clip.parent)
    camera = recording.file_camera(clip, loop=False, speed=1000.0)
    result = await recording.record(settings, [camera], recording.ended, timeout_s=90.0)
    return [data for _, data in result.segments]


def packets_in(segment: bytes) -> int:
    """How many pictures a segment has."""
    with av.open(io.BytesIO(segment)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def sampled(segments: list[bytes], every: int) -> Iterator[Sampled]:
    """Every `every`th frame of the segments as ingest samples it at its default width."""
    width = Settings().ingest.sample_width
    scaler, jpeg = Scaler(width), JpegMaker()
    number = -1
    for data in segments:
        with av.open(io.BytesIO(data)) as container:
            for frame in container.decode(video=0):
                number += 1
                if number % every:
                    continue
                coded = jpeg.encode(scaler.scale(frame))
                assert coded is not None
                picture = simplejpeg.decode_jpeg(coded, colorspace="RGB")
                across, down = frame.width / picture.shape[1], frame.height / picture.shape[0]
                yield Sampled(number, picture, across, down)


def truth_of(path: Path) -> dict[int, list[list[float]]]:
    """Ground truth in MOTChallenge form: boxes x y width height by frame, counted from 0."""
    truth: dict[int, list[list[float]]] = {}
    for line in path.read_text("ascii").splitlines():
        frame, _, *box = line.split(",")[:6]
        truth.setdefault(int(frame) - 1, []).append([float(side) for side in box])
    return truth
