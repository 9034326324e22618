"""The motion gate of analysis frames: is there anything that a detector should look at?

Real scenes move all the time: rain, noise, clouds, trees, a mast in the wind. services/ingest/
background.py tells what moves beside them; the gate decides which frames pass.
docs/decisions/0006-motion-gate.md says what was weighed.
"""

from __future__ import annotations

from typing import Protocol

from services.ingest.background import Background
from services.ingest.cells import LEAST_PX, Luma
from shared.clock import SECOND_US

FIRST_FRAMES = 3
"""Pass at the start and after a change of the whole picture, so that a tracker can begin with what
stands there."""
CHANGED_SHARE = 0.5
STILL_EVERY_US = 1_400_000
"""How often a picture passes in which something stands still: a track outlives twice as much."""
KEEP_ALIVE_US = 30 * SECOND_US
GAP_US = 60 * SECOND_US
"""After a longer pause, or a clock set back by more, the background is no longer trusted."""


class MotionGate(Protocol):
    """Decides for each sampled frame of one camera, in order of time."""

    def moved(self, luma: Luma, at_us: int) -> bool:
        """Whether the frame is worth analysing. `luma` is height x width, masks already blank."""
        ...


class CellGate:
    """The gate of one camera; belongs to one thread.

    A frame passes while something moves; every other second while what moved stands still, for
    half a minute; and every KEEP_ALIVE_US whatever happens.
    """

    def __init__(self, keep_alive_us: int = KEEP_ALIVE_US) -> None:
        self._keep_alive_us = keep_alive_us
        self._background: Background | None = None
        self._shape = (0, 0)
        self._first_frames = 0
        self._at_us = 0
        self._passed_us = 0

    def moved(self, luma: Luma, at_us: int) -> bool:
        """See MotionGate."""
        if min(luma.shape) >= LEAST_PX and not self._worth(luma, at_us):
            return False
        self._passed_us = at_us
        return True

    def _worth(self, luma: Luma, at_us: int) -> bool:
        elapsed_us, self._at_us = at_us - self._at_us, at_us
        if self._background is None or luma.shape != self._shape or abs(elapsed_us) > GAP_US:
            self._begin(luma)
        else:
            # Reordered frames step back a little.
            seen = self._background.look(luma, max(0, elapsed_us))
            if seen.changed_share > CHANGED_SHARE:
                self._begin(luma)
            elif seen.moving or (seen.still and at_us - self._passed_us >= STILL_EVERY_US):
                return True
        if self._first_frames > 0:
            self._first_frames -= 1
            return True
        return at_us - self._passed_us >= self._keep_alive_us

    def _begin(self, luma: Luma) -> None:
        self._background, self._shape = Background(luma), luma.shape
        self._first_frames = FIRST_FRAMES
