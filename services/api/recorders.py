"""Where each camera's recorder is and what it does, kept in memory from topic `camera-status`, and
where detect workers are.

Recorders repeat their state every few seconds (`ingest.status_interval_s`); a directory begins with
what was said lately, so that a replica that has just started finds every recorder. What was not
repeated for three intervals is stale: its recorder is gone, whatever it said last.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from shared import log, metrics
from shared.bus import Bus, Consumer, Record
from shared.bus.recent import from_recent
from shared.clock import SECOND_US, Clock
from shared.domain import RecordingState
from shared.errors import Kind, LamppostError
from shared.messages import (
    CAMERA_STATUS,
    DetectorStatus,
    GapRecorded,
    RecorderStatus,
    StatusChanged,
    StatusEvent,
    decode,
)
from shared.runtime import Backoff, Stop

MAX_CAMERAS = 20_000
MAX_RECORDERS = 2_000
MAX_DETECTORS = 2_000
DETECTOR_STALE_S = 17
"""Detect workers speak every five seconds, whatever recorders are set to."""


class CameraState(NamedTuple):
    """The newest word of a camera's recorder."""

    status: StatusChanged
    stale: bool
    """Nothing was heard for three intervals."""


class RecorderDirectory:
    """Follows recorders and detect workers; reads never wait."""

    def __init__(self, bus: Bus, clock: Clock, *, status_interval_s: float = 5.0) -> None:
        self._bus = bus
        self._clock = self.clock = clock
        self._stale_us = round(3 * status_interval_s * SECOND_US) + 2 * SECOND_US
        self._cameras: dict[str, StatusChanged] = {}
        self._recorders: dict[str, RecorderStatus] = {}
        self._holding: dict[str, frozenset[str]] = {}
        """Of which cameras each recorder's spool has something."""
        self._detectors: dict[str, DetectorStatus] = {}
        self._heard_us: dict[str, int] = {}
        self._log = log.get("api.recorders")

    def state(self, camera_id: str) -> CameraState | None:
        """What the camera's recorder said last; None before the first word."""
        status = self._cameras.get(camera_id)
        return None if status is None else CameraState(status, self._is_stale(camera_id))

    def states(self) -> dict[str, CameraState]:
        """Every known camera."""
        return {
            camera_id: CameraState(status, self._is_stale(camera_id))
            for camera_id, status in self._cameras.items()
        }

    def url_for(self, camera_id: str) -> str | None:
        """Where the recorder that has the camera listens; None when there is none alive."""
        state = self.state(camera_id)
        if state is None or state.stale or not state.status.recorder_url:
            return None
        recorder = self._recorders.get(state.status.recorder)
        return None if recorder is not None and recorder.stopped else state.status.recorder_url

    def any_url(self) -> str | None:
        """Some live recorder, for a connection test; the one with the fewest cameras."""
        alive = [item for item in self.recorders() if not item.stopped and item.url]
        return min(alive, key=lambda item: len(item.cameras)).url if alive else None

    def recorders(self) -> list[RecorderStatus]:
        """Recorders heard of lately."""
        return [
            item for name, item in self._recorders.items() if not self._is_stale(f"recorder:{name}")
        ]

    def detectors(self) -> list[DetectorStatus]:
        """Detect workers heard of lately, those that have stopped left out."""
        return [
            item
            for name, item in self._detectors.items()
            if not item.stopped
            and not self._is_stale(f"detector:{name}", DETECTOR_STALE_S * SECOND_US)
        ]

    def processes(self) -> dict[str, str]:
        """Recorders and detect workers alive, and where each has its metrics: empty where it
        cannot listen. A worker named as a recorder is (both run by hand) is told apart."""
        found = {item.recorder: item.url for item in self.recorders() if not item.stopped}
        for worker in self.detectors():
            name = worker.worker
            found[f"{name}-detect" if name in self._recorders else name] = worker.url
        return found

    def holders(self, camera_id: str) -> list[str]:
        """Addresses of recorders that said lately that their spool has some of the camera."""
        return [
            item.url
            for item in self.recorders()
            if item.url and not item.stopped and camera_id in self._holding[item.recorder]
        ]

    def apply(self, event: StatusEvent, *, lately: bool = False) -> None:
        """Take one event in; an older word than the one known is ignored. `lately`: it was said
        before this process listened, so its own time says how long ago."""
        now = self._clock.monotonic_us()
        if lately and not isinstance(event, GapRecorded):
            now -= max(0, self._clock.now_us() - event.at_us)
        if isinstance(event, StatusChanged):
            known = self._cameras.get(event.camera_id)
            if known is not None and not self._is_news(known, event):
                return
            if known is None and len(self._cameras) >= MAX_CAMERAS:
                return
            self._cameras[event.camera_id] = event
            self._heard_us[event.camera_id] = now
        elif isinstance(event, RecorderStatus):
            if event.recorder not in self._recorders and len(self._recorders) >= MAX_RECORDERS:
                return
            self._recorders[event.recorder] = event
            self._holding[event.recorder] = frozenset(span.camera_id for span in event.waiting)
            self._heard_us[f"recorder:{event.recorder}"] = now
        elif isinstance(event, DetectorStatus):
            if event.worker not in self._detectors and len(self._detectors) >= MAX_DETECTORS:
                return
            self._detectors[event.worker] = event
            self._heard_us[f"detector:{event.worker}"] = now

    def _is_news(self, known: StatusChanged, event: StatusChanged) -> bool:
        """Whether the word counts before the one that is known of the camera."""
        if known.recorder == event.recorder:
            return (known.epoch, known.at_us) <= (event.epoch, event.at_us)
        if known.state is RecordingState.STOPPED or self._is_stale(known.camera_id):
            return True  # Clocks of two machines may differ; who is gone has nothing to say.
        if event.epoch <= known.epoch:
            return False
        # The old recorder goes on until the new one records: there the pictures are.
        records = RecordingState.RECORDING
        return event.state is records or known.state is not records

    def _is_stale(self, key: str, after_us: int | None = None) -> bool:
        heard = self._heard_us.get(key)
        limit_us = self._stale_us if after_us is None else after_us
        return heard is None or self._clock.monotonic_us() - heard > limit_us

    def take(self, records: list[Record], *, lately: bool = False) -> None:
        """Apply records of the bus; an unreadable one is counted and set aside."""
        for record in records:
            try:
                self.apply(decode(record.value, StatusEvent), lately=lately)  # type: ignore[arg-type]
            except LamppostError as error:
                metrics.BUS_POISON.labels(record.topic).inc()
                self._log.warning("unreadable status", cause=str(error))

    async def run(self, stop: Stop) -> None:
        """Follow the topic until the stop; a bus that is away is tried again."""
        backoff = Backoff()
        while not stop.is_set:
            try:
                consumer = await from_recent(self._bus, CAMERA_STATUS.name)
                try:
                    await self._follow(consumer, stop, backoff)
                finally:
                    await consumer.close()
            except LamppostError as error:
                if error.kind is Kind.CLOSED:
                    return
                self._log.warning("retrying", cause=str(error))
                await stop.sleep(self._clock, backoff.next_s())

    async def _follow(self, consumer: Consumer, stop: Stop, backoff: Backoff) -> None:
        while records := await consumer.poll(timeout_s=0):
            self.take(records, lately=True)
            await asyncio.sleep(0)
        while not stop.is_set:
            self.take(await consumer.poll(timeout_s=0.5))
            backoff.reset()
