"""For tests and benchmarks of tracking: ground truth, boxes, and scores by py-motmetrics.

A track's first box counts for it once it is confirmed by a second one, as a sighting's start does.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from services.detect.sightings import MOTIONS
from services.detect.tracker import Seen, Track, Tracker
from shared.clock import SECOND_US

BEGIN_US = 1_700_000_000 * SECOND_US
OVERLAP = 0.5
Rows = Mapping[int, Sequence[tuple[int, float, float, float, float]]]
"""By frame from 0: number, left, top, width, height."""
Boxes = Mapping[int, Sequence[tuple[float, float, float, float, float]]]
"""By frame from 0: left, top, width, height, confidence."""


class Score(NamedTuple):
    """Of one run; `tracks` counts those told."""

    mota: float
    idf1: float
    switches: int
    tracks: int

    def __str__(self) -> str:
        return (
            f"MOTA {self.mota:.3f} IDF1 {self.idf1:.3f} "
            f"switches {self.switches} tracks {self.tracks}"
        )


def rows(path: Path, least: float = 0.0) -> Rows:
    """A file in MOTChallenge form; rows whose seventh column is not above `least` are left out."""
    found: dict[int, list[tuple[int, float, float, float, float]]] = defaultdict(list)
    for row in np.loadtxt(path, delimiter=","):
        if row[6] > least:
            found[int(row[0]) - 1].append((int(row[1]), *map(float, row[2:6])))
    return found


def published(path: Path) -> Boxes:
    """Detections in the same form."""
    found: dict[int, list[tuple[float, float, float, float, float]]] = defaultdict(list)
    for row in np.loadtxt(path, delimiter=","):
        found[int(row[0]) - 1].append(tuple(map(float, row[2:7])))
    return found


def score(truth: Rows, told: Rows, frames: Iterable[int]) -> Score:
    """MOTA and IDF1 over these frames, at an overlap of one half."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import motmetrics

        book = motmetrics.MOTAccumulator(auto_id=True)
        numbers = set()
        for frame in frames:
            true, ours = truth.get(frame, []), told.get(frame, [])
            numbers |= {row[0] for row in ours}
            book.update([row[0] for row in true], [row[0] for row in ours], apart(true, ours))
        names = ["mota", "idf1", "num_switches"]
        line = motmetrics.metrics.create().compute(book, metrics=names, name="all").iloc[0]
    return Score(float(line.mota), float(line.idf1), int(line.num_switches), len(numbers))


def apart(
    true: Sequence[tuple[int, float, float, float, float]],
    ours: Sequence[tuple[int, float, float, float, float]],
) -> np.ndarray:
    """1 - intersection over union of each pair; not a number where that is over OVERLAP."""
    if not true or not ours:
        return np.empty((len(true), len(ours)))
    a = np.array([row[1:] for row in true])[:, None]
    b = np.array([row[1:] for row in ours])[None]
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    union = np.prod(a[..., 2:], axis=-1) + np.prod(b[..., 2:], axis=-1) - shared
    distance = 1 - shared / union
    distance[distance > OVERLAP] = np.nan
    return distance


def followed(boxes: Boxes, frames: Iterable[int], rate_fps: float, group: str = "person") -> Rows:
    """What the tracker makes of the boxes of these frames of a video of `rate_fps`."""
    tracker = Tracker(MOTIONS[group])
    got: list[tuple[int, Track, tuple[float, float, float, float]]] = []
    for frame in frames:
        some = boxes.get(frame, [])
        seen = [Seen(x + w / 2, y + h / 2, w, h, sure) for x, y, w, h, sure in some]
        step = tracker.update(BEGIN_US + round(frame / rate_fps * SECOND_US), seen)
        got += [
            (frame, track, box[:4])
            for box, track in zip(some, step.tracks, strict=True)
            if track is not None
        ]
    numbers: dict[Track, int] = {}
    told: dict[int, list[tuple[int, float, float, float, float]]] = defaultdict(list)
    for frame, track, box in got:
        if track.confirmed:
            told[frame].append((numbers.setdefault(track, len(numbers)), *box))
    return told


def bytetracked(boxes: Boxes, frames: Iterable[int], rate_fps: float, keep_s: float = 3.0) -> Rows:
    """The same by ByteTrack of `trackers`, its defaults but for the rate and `keep_s`."""
    import supervision
    from trackers import ByteTrackTracker

    tracker = ByteTrackTracker(lost_track_buffer=round(30 * keep_s), frame_rate=rate_fps)
    told: dict[int, list[tuple[int, float, float, float, float]]] = defaultdict(list)
    for frame in frames:
        some = np.array(boxes.get(frame, []), float).reshape(-1, 5)
        corners = np.hstack([some[:, :2], some[:, :2] + some[:, 2:4]])
        found = tracker.update(supervision.Detections(xyxy=corners, confidence=some[:, 4]))
        for (x1, y1, x2, y2), name in zip(found.xyxy, found.tracker_id, strict=True):
            if name >= 0:
                told[frame].append((int(name), x1, y1, x2 - x1, y2 - y1))
    return told
