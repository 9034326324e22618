"""What cameras, recorders and detect workers said last on topic `camera-status`, while a run lasts.

The supervisor and its table look here for what has no row yet: the state of a camera now, the
segment that is being written, how detection fares.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import msgspec

from shared.bus import Record
from shared.clock import SECOND_US
from shared.domain import RecordingState
from shared.errors import LamppostError
from shared.messages import (
    CAMERA_STATUS,
    DetectorStatus,
    RecorderStatus,
    StatusChanged,
    StatusEvent,
)
from shared.platform import Platform
from shared.runtime import Stop

DETECTOR_STALE_US = 15 * SECOND_US
_decoder = msgspec.json.Decoder(StatusEvent)


class Detection(NamedTuple):
    """What the detect workers do, all together; counts are of this run."""

    workers: int = 0
    """That were heard lately."""
    model: str = ""
    """With its precision; empty while there is none."""
    rate_fps: float = 0.0
    lag_s: float = 0.0
    analysed: int = 0
    sightings: int = 0
    detail: str = ""
    """What keeps them from looking, and what to do."""


class Board:
    """The newest status of each camera and recorder, read from the bus."""

    def __init__(self) -> None:
        self.cameras: dict[str, StatusChanged] = {}
        self.recorders: dict[str, RecorderStatus] = {}
        self._recorded: dict[str, tuple[int, int]] = {}
        self.ever_recorded: set[str] = set()
        self.detectors: dict[str, DetectorStatus] = {}
        self._rates: dict[str, float] = {}
        self._before = (0, 0)
        """Frames and sightings of detect processes that were followed by others."""

    async def run(self, platform: Platform, stop: Stop) -> None:
        """Follow the topic until the stop."""
        consumer = await platform.bus.consumer([CAMERA_STATUS.name], start="latest")
        try:
            while not stop.is_set:
                for record in await consumer.poll(timeout_s=0.5):
                    self.take(record)
        finally:
            with contextlib.suppress(LamppostError):
                await consumer.close()

    def take(self, record: Record) -> None:
        """One record; an unreadable one changes nothing."""
        try:
            event = _decoder.decode(record.value)
        except msgspec.MsgspecError:
            return
        if isinstance(event, RecorderStatus):
            self.recorders[event.recorder] = event
        elif isinstance(event, DetectorStatus):
            self._take_detector(event)
        elif isinstance(event, StatusChanged):
            known = self.cameras.get(event.camera_id)
            if known is None or event.epoch >= known.epoch:
                self.cameras[event.camera_id] = event
                self._count(event)

    def _count(self, event: StatusChanged) -> None:
        done, current = self._recorded.get(event.camera_id, (0, 0))
        if event.recorded_us < current:  # another process began to count anew
            done += current
        self._recorded[event.camera_id] = (done, event.recorded_us)
        # One that stopped before this board was listening says how much it had recorded.
        if event.state is RecordingState.RECORDING or event.recorded_us > 0:
            self.ever_recorded.add(event.camera_id)

    def _take_detector(self, event: DetectorStatus) -> None:
        """A worker that was started again counts anew: its processes are told apart."""
        known = self.detectors.get(event.worker)
        if known is not None and known.started_us == event.started_us:
            took_us = event.at_us - known.at_us
            if took_us > 0 and not event.stopped:
                frames = event.analysed - known.analysed
                self._rates[event.worker] = frames * SECOND_US / took_us
        elif known is not None:
            analysed, sightings = self._before
            self._before = analysed + known.analysed, sightings + known.sightings
            self._rates.pop(event.worker, None)
        self.detectors[event.worker] = event

    @property
    def analysed(self) -> int:
        """Frames looked at while this board was watching."""
        return self._before[0] + sum(one.analysed for one in self.detectors.values())

    def detection(self, now_us: int) -> Detection:
        """The workers together; those not heard for 15 s are left out."""
        heard = [
            event
            for event in self.detectors.values()
            if not event.stopped and abs(now_us - event.at_us) <= DETECTOR_STALE_US
        ]
        models = sorted({f"{one.model} ({one.precision})" for one in heard if one.model})
        return Detection(
            workers=len(heard),
            model=", ".join(models),
            rate_fps=sum(self._rates.get(one.worker, 0.0) for one in heard),
            lag_s=max((one.lag_s for one in heard), default=0.0),
            analysed=self.analysed,
            sightings=self._before[1] + sum(one.sightings for one in self.detectors.values()),
            detail=next((one.detail for one in heard if one.detail), ""),
        )

    def recorded_us(self, camera_id: str) -> int:
        """Recorded while this board was watching, rows or not."""
        return sum(self._recorded.get(camera_id, (0, 0)))
