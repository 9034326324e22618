"""What each sampled frame stands for, and the runs of frames that no detector will see.

A search that finds nothing must say whether anybody looked, so every sampled frame accounts for the
time since the one before it: analysed, or passed over with a reason. docs/architecture.md,
"ingest", analysis frames.
"""

from __future__ import annotations

from collections.abc import Callable

from shared.clock import SECOND_US
from shared.messages import FrameMeta, FramesPassedOver

LONGEST_US = 10 * SECOND_US
"""Most that one frame stands for, and most that one message tells of."""


class Account:
    """Of one camera, in one thread. Frames come in order of capture; one that is older than its
    predecessor (reordering, a clock set back) stands for no time."""

    def __init__(self, camera_id: str, emit: Callable[[FramesPassedOver], None]) -> None:
        self._camera_id, self._emit = camera_id, emit
        self._last_us: int | None = None
        self._run: FramesPassedOver | None = None

    def sent(self, at_us: int) -> int:
        """A frame goes to detection: ends a run; how much time the frame covers, 0 to 10 s."""
        self.flush()
        return self._advance(at_us)

    def passed_over(self, reason: str, at_us: int, frames: int = 1) -> None:
        """`frames` sampled frames, the last one taken at `at_us`, that nobody will look at."""
        covers_us = self._advance(at_us)
        if covers_us == 0:
            return
        run = self._run
        start_us, before = at_us - covers_us, 0
        joins = run is not None and run.reason == reason and run.end_us == start_us
        if run is not None and joins and at_us - run.start_us <= LONGEST_US:
            start_us, before = run.start_us, run.frames
        else:
            self.flush()
        self._run = FramesPassedOver(self._camera_id, start_us, at_us, before + frames, reason)
        if at_us - start_us >= LONGEST_US:
            self.flush()

    def flush(self) -> None:
        """Tell of the run that is open."""
        run, self._run = self._run, None
        if run is not None:
            self._emit(run)

    def _advance(self, at_us: int) -> int:
        last_us = self._last_us
        if last_us is None or last_us - at_us > LONGEST_US:
            # The first frame, or a clock set back: a new time to count from.
            self._last_us = at_us
            return 0
        self._last_us = max(at_us, last_us)
        return min(self._last_us - last_us, LONGEST_US)


def unseen(meta: FrameMeta, reason: str = "late") -> FramesPassedOver | None:
    """Of a frame that was on its way and got lost, `late` for want of room; None where it stands
    for no time."""
    start_us = meta.capture_us - meta.covers_us
    if not meta.covers_us:
        return None
    return FramesPassedOver(meta.camera_id, start_us, meta.capture_us, 1, reason)
