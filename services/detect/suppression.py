"""Suppression: of boxes of one class that overlap, the surest stays (greedy, class by class).

For models that give a box for each anchor. docs/architecture.md, "detect".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

CHUNK = 256
"""Boxes that are compared with each other in one matrix."""


def suppress(corners: Floats, classes: Indices, max_overlap: float, limit: int) -> Indices:
    """The places of the boxes that stay, at most `limit`, surest first.

    `corners` [n, 4] (x1 y1 x2 y2) and `classes` [n] come surest first. A box goes when its
    intersection over union with a surer box of its class that stays is over `max_overlap`. Time is
    bounded by n x (limit + CHUNK) and memory by their square, whatever a model gives.
    """
    kept = np.zeros(0, np.intp)
    for start in range(0, len(corners), CHUNK):
        if len(kept) >= limit:
            break
        places = np.arange(start, min(start + CHUNK, len(corners)))
        places = places[~_covers(corners, classes, kept, places, max_overlap).any(axis=0)]
        covers = np.triu(_covers(corners, classes, places, places, max_overlap), 1)
        stays = np.ones(len(places), bool)
        # Most boxes cover none: only the others are asked, in order.
        for number in np.flatnonzero(covers.any(axis=1)):
            if stays[number]:
                stays &= ~covers[number]
        kept = np.concatenate([kept, places[stays]])
    return kept[:limit]


def _covers(
    corners: Floats, classes: Indices, ones: Indices, others: Indices, max_overlap: float
) -> npt.NDArray[np.bool_]:
    """[ones, others]: whether they overlap by more than that and are of one class."""
    found = overlaps(corners[ones], corners[others]) > max_overlap
    found &= classes[ones][:, None] == classes[others]
    return found


def overlaps(ones: Floats, others: Floats) -> Floats:
    """Intersection over union of each of `ones` [k, 4] with each of `others` [m, 4], as [k, m];
    0 for empty boxes."""
    left, top, right, bottom = (side[:, None] for side in ones.T)
    wide = np.minimum(right, others[:, 2]) - np.maximum(left, others[:, 0])
    high = np.minimum(bottom, others[:, 3]) - np.maximum(top, others[:, 1])
    shared = np.maximum(wide, 0) * np.maximum(high, 0)
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    union = (right - left) * (bottom - top) + areas - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float32)
