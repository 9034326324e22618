"""What a recorder does before it records cameras that are new to it: an epoch for the assignment,
and an account that begins where another recorder's ended.

The epoch is higher than any this recorder used and any that is heard of these cameras, so that
clocks of two machines that differ put no order upside down while the bus speaks. A recorder that
died says no more: the seconds after those that its last word accounts for are a gap of this one's,
until its own spool says that it recorded them after all. See docs/architecture.md, "Assignment and
failover".
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.ingest.peers import Peers
from shared import log
from shared.clock import SECOND_US, Clock
from shared.domain import Camera, GapReason, RecordingState
from shared.errors import LamppostError
from shared.messages import StatusChanged
from shared.spool import RecorderSpool

LISTEN_S = 1.0
"""So long a first recording waits at most for what others said of the camera."""
MOST_US = 24 * 3600 * SECOND_US
"""The topic keeps a day: an older word is of another life."""
LATE_US = 1 * SECOND_US
"""A word that does not say up to when the camera is accounted for comes this long after it: packets
gather, and a fragment is whole once the next one begins."""


class Takeover:
    """Belongs to the task of the membership."""

    def __init__(
        self,
        spool: RecorderSpool,
        clock: Clock,
        peers: Peers,
        *,
        first_epoch: int,
        status_interval_s: float,
    ) -> None:
        self.peers = peers
        self._spool = spool
        self._clock = clock
        self._epoch = first_epoch
        self._used = False
        self._quiet_us = round(1.5 * status_interval_s * SECOND_US)
        self._log = log.get("ingest.assignment")

    async def begin(self, cameras: Sequence[Camera]) -> int:
        """The epoch that these cameras are recorded under from now on."""
        try:
            async with asyncio.timeout(LISTEN_S):
                await self.peers.listen()
        except (LamppostError, TimeoutError) as error:
            # Recording comes first: without their words it begins as if there were none.
            self._log.warning("other recorders cannot be heard", cause=repr(error))
        heard = max((self.peers.epoch_of(camera.id) for camera in cameras), default=0)
        await asyncio.to_thread(self._raise, heard)
        await asyncio.to_thread(self._take_up, cameras)
        return self._epoch

    def _raise(self, heard: int) -> None:
        # Of this moment even where nothing can be heard: whoever recorded them lets a camera go by
        # a word whose epoch is not older than its own, and this recorder may have started earlier.
        wanted = max(self._clock.now_us(), heard + 1, self._epoch + self._used)
        self._used = True
        if wanted == self._epoch:
            return
        try:
            self._epoch = self._spool.next_epoch(wanted)
        except OSError as error:
            self._epoch = wanted
            self._log.warning("an epoch could not be kept", cause=str(error))

    def _take_up(self, cameras: Sequence[Camera]) -> None:
        """Begin an account at the last word of a recorder that speaks no more."""
        now_us = self._clock.now_us()
        for camera in cameras:
            replay = camera.source.url.startswith("file:") and camera.source.speed > 1
            word = self.peers.last(camera.id)
            if word is None or not camera.enabled or replay:
                continue
            if not now_us - MOST_US <= word.at_us < now_us:
                continue
            ended = word.state is RecordingState.STOPPED
            until_us = word.at_us if ended else _accounted_until(word)
            known_us = self._spool.accounted_until(camera.id)
            if known_us is not None and known_us >= until_us:
                continue
            goes_on = not ended and now_us - word.at_us <= self._quiet_us
            if goes_on and known_us is None:
                continue
            stopped = GapReason.RECORDER_STOPPED.value if ended else ""
            stopped = GapReason.MOVED.value if goes_on else stopped
            try:
                self._spool.set_accounted_until(camera.id, until_us, stopped)
            except OSError as error:
                self._log.warning("an account waits", camera=camera.id, cause=str(error))


def _accounted_until(word: StatusChanged) -> int:
    """Up to when the video and the gaps of a recorder reach by its own word. Never after the word:
    a gap may reach into what was recorded, which counts first, and the other way leaves a hole."""
    if word.accounted_until_us is None:
        return word.at_us - LATE_US
    return min(word.accounted_until_us, word.at_us)
