"""Each second of a camera, from its first `add` on, is in a segment or in a gap with a reason.

One `Account` a camera, used by its recorder thread: it knows up to when time is accounted for and
what is to blame for what follows. Gaps of a long outage are filed in pieces of at most a minute, so
that the ledger is current. See docs/architecture.md, invariant 6.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from services.ingest import repair
from shared import ids, intervals, log, metrics
from shared.clock import SECOND_US
from shared.domain import Camera, Gap, GapReason
from shared.spool import RecorderSpool, read_state

PIECE_US = 60 * SECOND_US
ALIVE_US = 5 * SECOND_US
AHEAD_US = 60 * SECOND_US
"""Delays and rounding never put an account so far ahead of the clock."""
NEW_US = 3600 * SECOND_US
MAX_DETAIL = 200
_logger = log.get("ingest")


def recorded_elsewhere(spool: RecorderSpool, camera_id: str, now_us: int) -> int | None:
    """Up to when recorders beside this one, on the same volume, accounted for a camera; now when
    one of them is writing. A camera that moves away from a dead recorder leaves no hole."""
    latest: int | None = None
    for folder in spool.dir.parent.iterdir():
        if folder == spool.dir or not (folder / "state").is_dir():
            continue
        state = read_state(folder / "state", camera_id)
        if state is None:
            continue
        until = state.until_us
        for path in (folder / "tmp").glob(f"*-{camera_id}-*.mp4"):
            if path.stem[21:-37] == camera_id:
                # What cannot be read is repair's affair: it may not stop the camera here.
                with contextlib.suppress(OSError):
                    until = max(until, _open_until(path, now_us))
        latest = until if latest is None else max(latest, until)
    return None if latest is None else min(latest, now_us)


def _open_until(path: Path, now_us: int) -> int:
    """Up to when an open file records its camera: what repair will file of it, to the microsecond,
    because pictures wait before they are written, and longer on a busy machine."""
    if now_us - path.stat().st_mtime_ns // 1_000 < ALIVE_US:
        return now_us
    return repair.recorded_until(path, now_us) or 0


class Account:
    """Times are wall time. Nothing is filed while a segment is open but through `recorded`."""

    def __init__(
        self,
        camera: Camera,
        spool: RecorderSpool,
        recorder: str,
        epoch: int,
        filed: Callable[[Gap], None],
    ) -> None:
        self.camera = camera
        self.until_us: int | None = spool.accounted_until(camera.id)
        self.reason = GapReason.CONNECTING
        self._detail = ""
        self._spool = spool
        self._recorder = recorder
        self._epoch = epoch
        self._filed = filed

    def begin(self, now_us: int, *, replay: bool) -> None:
        """Account for the time since this camera was last recorded here. A replay faster than real
        time has times of its own: its account begins with its first picture, or runs on."""
        stopped = self._spool.stopped_because(self.camera.id)
        self._spool_reason(stopped)
        if replay:
            return
        elsewhere = recorded_elsewhere(self._spool, self.camera.id, now_us)
        if elsewhere is not None and (self.until_us is None or elsewhere > self.until_us):
            self.until_us, self.reason = elsewhere, GapReason.RECORDER_DOWN
        if self.until_us is None:
            self.until_us = self._first_us(now_us)
            self._remember()
        self._not_ahead(now_us)
        self._gap(now_us)
        self.reason, self._detail = GapReason.CONNECTING, ""

    def _first_us(self, now_us: int) -> int:
        """Where the account of a camera that was never recorded begins: at its creation, when that
        was lately. Long ago means that it was recorded, or disabled, elsewhere."""
        made_us = self.camera.created_at_us
        is_new = made_us > 0 and 0 <= now_us - made_us <= NEW_US
        return made_us if is_new else now_us

    def _spool_reason(self, stopped: str) -> None:
        try:
            self.reason = GapReason(stopped)
        except ValueError:
            self.reason = GapReason.RECORDER_DOWN

    def _not_ahead(self, now_us: int) -> None:
        """The clock was ahead and is right again: what follows is accounted for anew, because the
        long gap that stands over it says nothing of what really happens."""
        if self.until_us is not None and self.until_us > now_us + AHEAD_US:
            _logger.warning("the clock went back", camera=self.camera.id, was_us=self.until_us)
            self.until_us = now_us
            self._remember()

    def recorded_until(self, end_us: int) -> None:
        """The video before `end_us` is durable and about to be filed: a death between the two, by
        a power cut too, leaves a file that repair files."""
        if self.until_us is None or end_us > self.until_us:
            self.until_us = end_us
            self._remember()

    def opened(self, start_us: int) -> None:
        """A segment begins: what lies before it was not recorded for the reason in force."""
        if self.until_us is None:
            self.until_us = start_us
        self._not_ahead(start_us)
        self._gap(start_us)
        self.reason, self._detail = GapReason.CONNECTION_LOST, ""

    def blame(self, reason: GapReason, detail: str, now_us: int) -> None:
        """From now on this is why nothing is recorded."""
        if self.until_us is None:
            self.until_us = now_us
        if reason is not self.reason:
            self._gap(now_us)
        self.reason, self._detail = reason, log.redact(detail)[:MAX_DETAIL]

    def turn(self, reason: GapReason, detail: str = "") -> None:
        """This is why nothing is recorded, since the last account."""
        self.reason, self._detail = reason, log.redact(detail)[:MAX_DETAIL]

    def tick(self, now_us: int) -> None:
        """Keep the ledger current while nothing is recorded."""
        if self.until_us is not None and now_us - self.until_us >= PIECE_US:
            self._gap(now_us)

    def stop(self, reason: GapReason, now_us: int) -> None:
        """A clean stop: the gap that follows begins with this reason."""
        self._gap(now_us)
        self._remember(reason.value)

    def _remember(self, stopped: str = "") -> None:
        """For the next life. Where the volume refuses it, that life files a longer gap than it
        need: what was recorded counts first."""
        if self.until_us is None:
            return
        try:
            self._spool.set_accounted_until(self.camera.id, self.until_us, stopped)
        except OSError as error:
            _logger.warning("an account could not be kept", camera=self.camera.id, cause=str(error))

    def _gap(self, end_us: int) -> None:
        if self.until_us is None or end_us <= self.until_us:
            return
        try:
            for start, end, reason in self._pieces(self.until_us, end_us):
                gap = Gap(
                    id=ids.new_id(),
                    camera_id=self.camera.id,
                    start_us=start,
                    end_us=end,
                    reason=reason,
                    detail=self._detail if reason is self.reason else "",
                    recorder=self._recorder,
                    epoch=self._epoch,
                )
                self._spool.file_gap(gap)
                self.until_us = end
                metrics.GAP_SECONDS.labels(reason.value).inc((end - start) / SECOND_US)
                self._filed(gap)
            self._remember()
        except OSError as error:
            _logger.warning("a gap could not be filed yet", camera=self.camera.id, cause=str(error))

    def _pieces(self, start_us: int, end_us: int) -> list[tuple[int, int, GapReason]]:
        """The interval by reason: planned maintenance explains whatever lies inside it."""
        whole = [(start_us, end_us)]
        planned = intervals.intersect(
            whole, [(item.start_us, item.end_us) for item in self.camera.maintenance]
        )
        pieces = [(start, end, GapReason.MAINTENANCE) for start, end in planned]
        pieces += [(s, e, self.reason) for s, e in intervals.subtract(whole, planned)]
        return sorted(pieces)

    def in_maintenance(self, now_us: int) -> bool:
        """Whether maintenance is planned for now."""
        return any(item.start_us <= now_us < item.end_us for item in self.camera.maintenance)
