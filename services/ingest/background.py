"""What a camera usually shows, and what in a frame is not that: the model of the motion gate.

The picture is reduced to overlapping cells (services/ingest/cells.py). Per cell there is a mean
brightness and how much it usually differs from it, for the cell itself (fine) and for the patch
around it (coarse: what is smaller than a patch, like leaves, cancels out). The camera's shake, the
light of the whole and soft changes of the light are taken out first. Where a thing stands, the
background waits behind it; it takes over what has stood still for long, what moves without pause
for long, and at once what somebody's leaving uncovered. docs/decisions/0006-motion-gate.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from services.ingest.cells import (
    Cells,
    Luma,
    Marks,
    box,
    cells_of,
    flood,
    middle,
    near,
    shift_of,
    shifted,
    slopes,
    soft,
)
from shared.clock import SECOND_US

SIGMAS = 4.5
FINE_LEAST, FINE_MOST = 9.0, 40.0
COARSE_LEAST, COARSE_MOST = 3.5, 24.0
"""Brightness levels: a smaller difference is nothing, and a larger one something, however calm or
restless the place has been."""
COARSE_CELLS = 5
"""Side of a patch: 20 pixels of a picture 640 wide."""
LIGHT_LEVELS = 40.0
"""A soft change of the light is no stronger at once."""
HELD_LEVELS = 12.0
HELD_BLOCKS, NEAR_BLOCKS = 3, 2
PATCH_LEAST = 6
"""Cells in one patch that must stand out: a person far away, and no single drop of rain."""
LIMIT_MOST, LEVELS_MOST = 3.0, 28.0
"""In restless weather a place must stand out that much more than its threshold, or so many levels,
at most."""
LIMIT_MARGIN = 1.25
SURE = 2.0
"""What stands out so much more than it must counts at once; else it must do so again, near by, in
the next frame."""
LARGE_CELLS, LARGE_SHARE = 9, 0.6
"""What fills so much of a square of cells counts at once as well."""
STAY_US = 30 * SECOND_US
"""Who came and stands still is looked at for so long."""
LEFT_US = 6 * SECOND_US
"""What changed and stands still elsewhere than where the last motion ended is no visitor."""
GHOST_US = 3 * SECOND_US
"""A place that somebody's leaving uncovered belongs to the background so soon."""
RESTLESS_US = 45 * SECOND_US
"""Where something moves for so long without pause, its mean is the background."""
PLACES_MOST = 8
"""Still places that are judged in one frame."""
FOLLOW_S, RECENT_S, NOISE_S = 10.0, 8.0, 15.0


class Seen(NamedTuple):
    """What one frame shows beside the background."""

    moving: bool
    still: bool
    """Nothing moves, and something stands where the last motion ended."""
    changed_share: float


class Background:
    """Of one camera and picture size; begins with a frame."""

    def __init__(self, luma: Luma) -> None:
        self._mean = self._before = self._recent = cells_of(luma)
        shape = self._mean.shape
        self._fine = np.full(shape, 2.0, np.float32)
        self._coarse = np.full(shape, 1.0, np.float32)
        self._still_us = np.zeros(shape, np.float32)
        self._changed_us = np.zeros(shape, np.float32)
        nothing = np.zeros(shape, np.bool_)
        self._held = self._near = self._ended = nothing
        self._limit = 1.0
        self._frames = 1

    def look(self, luma: Luma, elapsed_us: int) -> Seen:
        """Compare, then learn; `elapsed_us` since the frame before."""
        cells, plain, fine = self._compare(luma)
        coarse = box(fine, COARSE_CELLS)
        if self._frames == 1:
            # Nothing is known of this camera's noise yet but what the first two frames tell.
            self._fine[:] = max(1.0, 1.5 * middle(np.abs(fine)))
            self._coarse[:] = max(0.5, 1.5 * middle(np.abs(coarse)))
        least = np.clip(self._coarse * np.float32(SIGMAS), COARSE_LEAST, COARSE_MOST)
        over = np.abs(coarse) / least
        large = over > 1
        fine_least = np.clip(self._fine * np.float32(SIGMAS), FINE_LEAST, FINE_MOST)
        changed = large | (np.abs(fine) > fine_least)
        moving = still = False
        if changed.any():
            moving, still = self._judge(cells, changed, over, least, elapsed_us)
            # The inside of a large thing looks like a soft change of the light, but for its edge.
            reach = near(self._held | changed, HELD_BLOCKS)
            self._held = changed | (reach & (np.abs(plain) > HELD_LEVELS))
        else:
            self._learn_limit(0.0)
            self._held = self._near = changed
            self._still_us[:] = 0
        self._learn(cells, fine, coarse, elapsed_us)
        self._before = cells
        return Seen(moving, still, float(np.count_nonzero(large)) / large.size)

    def _compare(self, luma: Luma) -> tuple[Cells, Cells, Cells]:
        """The cells as the background would have seen them, the camera's shake taken out; how they
        differ beyond the light of the whole, and beyond soft changes of the light."""
        mean, width = self._mean, luma.shape[1]
        gx, gy = slopes(mean)
        cells = cells_of(luma)
        across, down = shift_of(gx, gy, cells - mean, width)
        if abs(across) >= 0.6 or abs(down) >= 0.6:
            cells = cells_of(shifted(luma, round(across), round(down)))
            across, down = shift_of(gx, gy, cells - mean, width)
        pitch = width / mean.shape[1]
        cells = cells - (np.float32(across / pitch) * gx + np.float32(down / pitch) * gy)
        part, usual = cells[1::3, 1::3], mean[1::3, 1::3]
        gain = np.float32(np.median(part / np.maximum(usual, 4)))
        plain = cells - mean * gain
        plain -= np.float32(middle(plain))
        # Light multiplies: where it changes, the texture of the place changes with it.
        light = soft(np.clip(plain, -LIGHT_LEVELS, LIGHT_LEVELS)) / np.maximum(
            soft(mean), np.float32(8)
        )
        fine: Cells = np.asarray(plain - mean * light, np.float32)
        return cells, plain, fine

    def _judge(
        self, cells: Cells, changed: Marks, over: Cells, least: Cells, elapsed_us: int
    ) -> tuple[bool, bool]:
        """Whether something moves; else whether something stands that came."""
        step = box(np.abs(cells - self._before), 3)
        still = step < np.clip(self._fine * 2, 3.0, 12.0)
        self._still_us = np.where(still & changed, self._still_us + np.float32(elapsed_us), 0)
        # The outermost cells are half a cell's worth of picture, and lie in a corner at times.
        inner = changed.copy()
        inner[0] = inner[-1] = False
        inner[:, 0] = inner[:, -1] = False
        around = box(inner.astype(np.float32), COARSE_CELLS)
        patches = inner & (around > (PATCH_LEAST - 0.5) / COARSE_CELLS**2)
        needed = np.minimum(np.float32(self._limit), np.float32(LEVELS_MOST) / least)
        self._learn_limit(float(over.max(where=patches, initial=0.0)))
        stands_out = patches & (over > needed)
        moving = stands_out & ~still
        if moving.any():
            large = box(moving.astype(np.float32), LARGE_CELLS) > LARGE_SHARE
            counts = moving & (self._near | large | (over > SURE * needed))
            self._near = near(moving, NEAR_BLOCKS)
            if counts.any():
                self._ended = flood(counts, changed)
                return True, False
        else:
            self._near = moving
        return False, bool((stands_out & still & self._ended).any())

    def _learn_limit(self, strongest: float) -> None:
        """Towards what nine frames of ten stay under, so that the weather sets its own bar."""
        step = max(0.02, 1 / (self._frames + 4))
        self._limit += step if strongest * LIMIT_MARGIN > self._limit else -step / 9
        self._limit = min(LIMIT_MOST, max(1.0, self._limit))

    def _learn(self, cells: Cells, fine: Cells, coarse: Cells, elapsed_us: int) -> None:
        held, elapsed_s = self._held, elapsed_us / SECOND_US
        self._frames += 1
        rate = min(0.3, max(elapsed_s / NOISE_S, 0.02, 1 / (self._frames + 4)))
        rates = np.where(held, np.float32(rate / 4), np.float32(rate))
        for noise, value, floor in ((self._fine, fine, 0.7), (self._coarse, coarse, 0.3)):
            # A single large difference is a visitor rather than noise: its weight is limited.
            noise += rates * (np.minimum(np.abs(value) * np.float32(1.25), noise * 4) - noise)
            np.maximum(noise, np.float32(floor), out=noise)
        recent = np.float32(min(1.0, elapsed_s / RECENT_S))
        self._recent = self._recent + recent * (cells - self._recent)
        follow = np.float32(min(1.0, max(elapsed_s / FOLLOW_S, 1 / (self._frames + 1))))
        self._mean = self._mean + np.where(held, np.float32(0), follow) * (cells - self._mean)
        self._changed_us = np.where(held, self._changed_us + np.float32(elapsed_us), 0)
        if held.any():
            self._settle(cells)

    def _settle(self, cells: Cells) -> None:
        """Let the background take over what is no visitor, or no longer."""
        settled = self._still_us >= np.where(self._ended, STAY_US, LEFT_US)
        settled |= self._uncovered(cells)
        for which, now in ((settled, cells), (self._changed_us >= RESTLESS_US, self._recent)):
            if which.any():
                self._mean[which] = now[which]
                self._still_us[which] = self._changed_us[which] = 0

    def _uncovered(self, cells: Cells) -> Marks:
        """Still places whose outline is an edge of the background rather than of the picture: what
        stood there left, and the background remembers it."""
        found = np.zeros(cells.shape, np.bool_)
        waiting, held = self._still_us >= GHOST_US, self._held
        if np.count_nonzero(waiting) < PATCH_LEAST:
            return found
        around = box(held.astype(np.float32), 7)
        outline = (around > 1e-3) & (around < 1 - 1e-3)
        now, before = (np.abs(gx) + np.abs(gy) for gx, gy in (slopes(cells), slopes(self._mean)))
        for _ in range(PLACES_MOST):
            seeds = np.zeros(cells.shape, np.bool_)
            seeds.flat[int(np.argmax(waiting))] = True
            place = flood(seeds, held)
            edge = place & outline
            still = np.count_nonzero(place & waiting) >= 0.7 * np.count_nonzero(place & held)
            if still and float(now[edge].sum()) < 0.7 * float(before[edge].sum()):
                found |= place & held
            waiting &= ~place
            if not waiting.any():
                break
        return found
