"""The service detect, empty of models: it reads frames, counts them, and looks at none.

The reading side is real: frames too old to be worth decoding are skipped from their header, and
offsets are committed after the effect. See docs/architecture.md, "detect".
"""

from __future__ import annotations

from shared import log, metrics
from shared.bus import Consumer, Record
from shared.clock import SECOND_US
from shared.errors import Kind, LamppostError
from shared.messages import FRAMES, FrameMeta
from shared.platform import Platform
from shared.runtime import Stop, loop
from shared.settings import Settings

GROUP = "detect"
BATCH = 64
POLL_S = 0.3


class DetectService:
    """One member of group `detect`."""

    name = "detect"

    def __init__(self, platform: Platform, settings: Settings) -> None:
        self._bus = platform.bus
        self._clock = platform.clock
        self._member = settings.instance
        self._max_age_us = round(settings.detect.max_frame_age_s * SECOND_US)
        self._consumer: Consumer | None = None
        self._log = log.get("detect")

    async def run(self, stop: Stop) -> None:
        """Read frames until the stop."""
        self._log.info(
            "no model is loaded: frames are counted, none is analysed",
            how="this release has no detector; the next one takes an ONNX file by its path",
        )
        try:
            await loop("detect", self.run_once, stop, self._clock, idle_s=0)
        finally:
            await self.leave()

    async def run_once(self, timeout_s: float = POLL_S) -> bool:
        """Take one batch of frames; whether there was any."""
        if self._consumer is None:
            self._consumer = await self._bus.consumer(
                [FRAMES.name], group=GROUP, member=self._member, start="latest"
            )
        records = await self._consumer.poll(BATCH, timeout_s)
        for record in records:
            metrics.FRAMES_RECEIVED.inc()
            metrics.FRAMES_SKIPPED.labels(self._why_skipped(record)).inc()
        try:
            await self._consumer.commit(records)
        except LamppostError as error:
            if error.kind is not Kind.CONFLICT:
                raise
            # Another member has them now, and gets them again.
            self._log.info("frames moved to another detector", cause=str(error))
        return bool(records)

    async def leave(self) -> None:
        """Leave the group; a bus that is away notices the silence."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            try:
                await consumer.close()
            except LamppostError as error:
                self._log.warning("left without saying so", cause=str(error))

    def _why_skipped(self, record: Record) -> str:
        """Decided from the header; the JPEG is not touched."""
        try:
            meta = FrameMeta.of(record.headers)
        except LamppostError:
            metrics.BUS_POISON.labels(record.topic).inc()
            return "unreadable"
        if self._clock.now_us() - meta.capture_us > self._max_age_us:
            return "too_old"
        return "no_model"


def build(platform: Platform, settings: Settings) -> DetectService:
    """The detector of these settings."""
    return DetectService(platform, settings)
