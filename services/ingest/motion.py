"""The motion gate of analysis frames: does anything move that a detector should see?

A simple first one behind a protocol: brightness in cells against a slow background. The next
release makes it good. docs/architecture.md, "ingest", analysis frames.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from shared.clock import SECOND_US

Luma = npt.NDArray[np.uint8]

CELL_PX = 8
THRESHOLD = 9.0
"""Brightness levels, mean of a cell: the noise of a cell of 64 pixels is under two."""
LEAST_CELLS = 2
"""A person far away covers about two cells of a frame 640 wide."""
BACKGROUND_S = 20.0
HOLD_US = 3 * SECOND_US
"""Frames pass on for so long after motion, so that a tracker sees the end of it."""
KEEP_ALIVE_US = 10 * SECOND_US


class MotionGate(Protocol):
    """Decides for each sampled frame of one camera, in order of time."""

    def moved(self, luma: Luma, at_us: int) -> bool:
        """Whether the frame is worth analysing. `luma` is height x width, masks already blank."""
        ...


class BackgroundGate:
    """Cells that differ from the background by more than THRESHOLD count as motion.

    The background follows slowly, so that a parked car becomes part of it within a minute. A
    change of the light as a whole is taken out first. One frame passes every KEEP_ALIVE_US
    whatever happens.
    """

    def __init__(self, threshold: float = THRESHOLD, keep_alive_us: int = KEEP_ALIVE_US) -> None:
        self._threshold, self._keep_alive_us = threshold, keep_alive_us
        self._background: npt.NDArray[np.float32] | None = None
        self._seen_us = 0
        self._passed_us: int | None = None
        self._moved_us: int | None = None

    def moved(self, luma: Luma, at_us: int) -> bool:
        cells = _cells(luma)
        if self._background is None or self._background.shape != cells.shape:
            self._background, self._moved_us = cells, None
            self._seen_us = self._passed_us = at_us
            return True
        difference = cells - self._background
        difference -= np.median(difference)
        if int((np.abs(difference) > self._threshold).sum()) >= LEAST_CELLS:
            self._moved_us = at_us
        elapsed_s = max(0, at_us - self._seen_us) / SECOND_US
        self._background += (cells - self._background) * min(1.0, elapsed_s / BACKGROUND_S)
        self._seen_us = at_us
        held = self._moved_us is not None and at_us - self._moved_us <= HOLD_US
        due = self._passed_us is None or at_us - self._passed_us >= self._keep_alive_us
        if held or due or (self._passed_us is not None and at_us < self._passed_us):
            self._passed_us = at_us
            return True
        return False


def _cells(luma: Luma) -> npt.NDArray[np.float32]:
    """Mean brightness of CELL_PX squares."""
    rows, columns = luma.shape[0] // CELL_PX, luma.shape[1] // CELL_PX
    if rows == 0 or columns == 0:
        return luma.astype(np.float32)
    used = luma[: rows * CELL_PX, : columns * CELL_PX]
    shaped = used.reshape(rows, CELL_PX, columns, CELL_PX)
    means: npt.NDArray[np.float32] = shaped.mean(axis=(1, 3), dtype=np.float32)
    return means
