"""How well a model finds things in a clip whose truth is known: COCO's average precision.

The pictures are those that a detector gets in service: decoded, scaled to the width of analysis
frames and coded as JPEG, as ingest does it. Truth is in MOTChallenge's form, where frame 1 is the
clip's first. docs/model-card.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import numpy.typing as npt
import simplejpeg
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from services.detect.detector import Detector, Picture
from shared.errors import Kind, LamppostError

Floats = npt.NDArray[np.float64]

OVERLAP = 0.5
MOST_FOUND = 100
"""Boxes of one picture that count, the surest: COCO's own limit."""
RECALLS = np.linspace(0, 1, 101)
JPEG_QUALITY = 80
HD_HEIGHT = 720
MAX_TRUTH_BYTES = 50_000_000
MAX_TRUTH_FRAME = 1_000_000

Progress = Callable[[str, int, int], None]


class Boxes(NamedTuple):
    """What was found in one picture."""

    corners: Floats
    """[n, 4]: x1 y1 x2 y2."""
    scores: Floats


class Score(NamedTuple):
    """The figure and what it rests on."""

    ap50: float
    frames: int
    truths: int
    found: int


def score(
    detector: Detector,
    footage: Path,
    truth: Path,
    *,
    class_name: str,
    every: int,
    width: int,
    progress: Progress,
) -> Score:
    """AP50 of one class over every `every`-th frame, up to the last one of the truth.

    `width`: of the analysis frames. NOT_FOUND or INVALID when clip or truth cannot be used.
    """
    known = read_truth(truth)
    last = max(known)
    wanted: list[Floats] = []
    found: list[Boxes] = []
    for number, frame in decoded(footage, every, last):
        picture = as_sampled(frame, width)
        scale = frame.width / picture.shape[1], frame.height / picture.shape[0]
        boxes = [box for box in detector.detect([picture])[0] if box.class_name == class_name]
        corners = np.array([box[2:] for box in boxes], np.float64).reshape(-1, 4)
        found.append(Boxes(corners * (*scale, *scale), np.array([box.confidence for box in boxes])))
        wanted.append(known.get(number, np.empty((0, 4))))
        progress("scoring", number, last)
    if not wanted:
        raise LamppostError(Kind.INVALID, f"{footage.name} has no frame that the truth speaks of.")
    return Score(
        average_precision(wanted, found),
        len(wanted),
        sum(map(len, wanted)),
        sum(len(boxes.scores) for boxes in found),
    )


def read_truth(path: Path) -> Mapping[int, Floats]:
    """Corners by frame number, from 1, of a MOTChallenge `gt.txt`; its rows that say they do not
    count are left out. NOT_FOUND, or INVALID when it is no such file."""
    try:
        if path.stat().st_size > MAX_TRUTH_BYTES:
            raise LamppostError(Kind.TOO_LARGE, f"{path.name} is over {MAX_TRUTH_BYTES} bytes.")
        lines = path.read_text("ascii").splitlines()
        rows = [[float(cell) for cell in line.split(",")[:7]] for line in lines if line.strip()]
    except OSError as error:
        raise LamppostError(Kind.NOT_FOUND, f"{path}: {error.strerror}.") from error
    except ValueError as error:
        raise _no_truth(path) from error
    if not rows or any(len(row) != 7 for row in rows):
        raise _no_truth(path)
    table = np.array(rows)
    frames = table[:, 0]
    if not np.isfinite(table).all() or frames.min() < 1 or frames.max() > MAX_TRUTH_FRAME:
        raise _no_truth(path)
    table = table[table[:, 6] != 0]
    corners = np.concatenate([table[:, 2:4], table[:, 2:4] + table[:, 4:6]], axis=1)
    by_frame = {int(frame): corners[table[:, 0] == frame] for frame in np.unique(table[:, 0])}
    if not by_frame:
        raise _no_truth(path)
    return by_frame


def _no_truth(path: Path) -> LamppostError:
    return LamppostError(
        Kind.INVALID,
        f"{path.name} is no ground truth in MOTChallenge's form.",
        fix="Lines are: frame,id,left,top,width,height,counts,…",
    )


def decoded(footage: Path, every: int, last: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames 1, 1 + every, … up to `last` by their numbers. NOT_FOUND, or INVALID when the clip
    cannot be decoded."""
    if every < 1:
        raise LamppostError(Kind.INVALID, "--every is a number of frames, from 1.")
    try:
        with av.open(str(footage)) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise LamppostError(Kind.INVALID, f"{footage.name} has no video.")
            for number, frame in enumerate(container.decode(stream), 1):
                if number > last:
                    return
                if (number - 1) % every == 0:
                    yield number, frame
    except FileNotFoundError as error:
        raise LamppostError(Kind.NOT_FOUND, f"There is no clip {footage}.") from error
    except av.FFmpegError as error:
        raise LamppostError(Kind.INVALID, f"{footage.name} cannot be decoded.") from error


def as_sampled(frame: av.VideoFrame, width: int) -> Picture:
    """RGB of a frame after the scaling and the JPEG of an analysis frame."""
    wide = min(width, frame.width) & ~1 or 2
    high = round(frame.height * wide / frame.width) & ~1 or 2
    guess = Colorspace.ITU709 if frame.height >= HD_HEIGHT else Colorspace.ITU601
    small = VideoReformatter().reformat(
        frame,
        width=wide,
        height=high,
        format="yuvj420p",
        src_colorspace=guess,
        dst_colorspace=Colorspace.ITU601,
        interpolation=Interpolation.AREA,
    )
    planes = [
        _plane(small.planes[0], high, wide),
        *(_plane(small.planes[number], high // 2, wide // 2) for number in (1, 2)),
    ]
    jpeg = simplejpeg.encode_jpeg_yuv_planes(*planes, quality=JPEG_QUALITY)
    picture: Picture = simplejpeg.decode_jpeg(jpeg, colorspace="RGB", fastdct=False)
    return picture


def _plane(plane: av.video.plane.VideoPlane, height: int, width: int) -> npt.NDArray[np.uint8]:
    raw = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return np.array(raw[:height, :width], order="C")


def average_precision(
    truth: Sequence[Floats], found: Sequence[Boxes], overlap: float = OVERLAP
) -> float:
    """COCO's AP at one overlap: precision at 101 recalls, each the best at no lower recall.

    `truth`: corners of each picture. Within a picture the surest box takes the truth that it covers
    best, and each truth is taken once. INVALID without any truth.
    """
    total = sum(map(len, truth))
    if total == 0:
        raise LamppostError(Kind.INVALID, "There is nothing to find: no precision can be said.")
    scores, right = [], []
    for corners, boxes in zip(truth, found, strict=True):
        order = np.argsort(-boxes.scores, kind="stable")[:MOST_FOUND]
        scores.append(boxes.scores[order])
        right.append(_right(corners, boxes.corners[order], overlap))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hits = np.cumsum(np.concatenate(right)[order])
    if not len(hits):
        return 0.0
    precision = hits / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / total, RECALLS, side="left")
    return float(np.append(best, 0.0)[np.minimum(at, len(best))].mean())


def _right(truth: Floats, boxes: Floats, overlap: float) -> npt.NDArray[np.bool_]:
    """Which boxes, surest first, take a truth that none took before."""
    shares = overlaps(boxes, truth)
    taken = np.zeros(len(truth), bool)
    right = np.zeros(len(boxes), bool)
    for number, row in enumerate(shares):
        free = np.where(taken, -1.0, row)
        # Of equally good ones the last, as COCO's own tool has it.
        best = len(free) - 1 - int(np.argmax(free[::-1])) if len(free) else -1
        if best >= 0 and free[best] >= overlap:
            taken[best] = right[number] = True
    return right


def overlaps(first: Floats, second: Floats) -> Floats:
    """Intersection over union of each of the first with each of the second: [n, m]."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - common
    shares: Floats = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return shares
