"""Suppression: of boxes of one class that overlap, the surest stays (greedy, class by class).

For models that give a box for each anchor. docs/architecture.md, "detect".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]


def suppress(corners: Floats, classes: Indices, max_overlap: float, limit: int) -> Indices:
    """The places of the boxes that stay, at most `limit`, surest first.

    `corners` [n, 4] (x1 y1 x2 y2) and `classes` [n] come surest first. A box goes when its
    intersection over union with a surer box of its class that stays is over `max_overlap`. The
    work is bounded by n x limit, whatever a model gives.
    """
    waiting = np.arange(len(corners))
    kept: list[int] = []
    while len(waiting) and len(kept) < limit:
        first, waiting = waiting[0], waiting[1:]
        kept.append(int(first))
        goes = overlaps(corners[0], corners[1:]) > max_overlap
        goes &= classes[1:] == classes[0]
        stays = ~goes
        corners, classes, waiting = corners[1:][stays], classes[1:][stays], waiting[stays]
    return np.array(kept, np.intp)


def overlaps(one: Floats, others: Floats) -> Floats:
    """Intersection over union of one box [4] with each of others [n, 4]; 0 for empty boxes."""
    wide = np.minimum(one[2], others[:, 2]) - np.maximum(one[0], others[:, 0])
    high = np.minimum(one[3], others[:, 3]) - np.maximum(one[1], others[:, 1])
    shared = np.maximum(wide, 0) * np.maximum(high, 0)
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    union = (one[2] - one[0]) * (one[3] - one[1]) + areas - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float32)
