"""Whether a recorder has taken its cameras over: what its readiness says.

A camera is taken over once it is recorded, or once something else was heard of it: one that does
not answer must stop no update. One of which nothing is heard counts as taken after `PATIENCE_US`.
A recorder that has no share of the cameras yet, or has had one for a moment only, is not ready:
what it is to record is still on its way. docs/architecture.md, "Recording".
"""

from __future__ import annotations

from services.ingest.assignment import PATIENCE_US
from shared.clock import SECOND_US, Clock
from shared.domain import RecordingState
from shared.probes import Missing

SETTLE_US = 3 * SECOND_US
"""So long after its first share it may still be told of cameras that are its own."""


class Taking:
    """Belongs to the event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since_us: dict[str, int] = {}
        self._share_us: int | None = None

    def begin(self, camera_id: str) -> None:
        """The camera is this recorder's from now on."""
        self._since_us[camera_id] = self._clock.monotonic_us()

    def heard(self, camera_id: str, state: RecordingState) -> None:
        """What its recorder does now."""
        if state is not RecordingState.CONNECTING:
            self._since_us.pop(camera_id, None)

    def end(self, camera_id: str) -> None:
        """It is somebody else's."""
        self._since_us.pop(camera_id, None)

    def check(self, has_a_share: bool) -> None:
        """Raises what is missing."""
        now_us = self._clock.monotonic_us()
        if not has_a_share:
            self._share_us = None
            raise Missing("the bus has given it no share of the cameras, or is away")
        if self._share_us is None:
            self._share_us = now_us
        waiting = sum(now_us - since < PATIENCE_US for since in self._since_us.values())
        if waiting:
            raise Missing(f"cameras that are being taken over: {waiting}")
        if now_us - self._share_us < SETTLE_US:
            raise Missing("its cameras are just being told to it")
