"""What the recorder threads of one process share, and the shape of a camera's sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from services.ingest.media import AnalysisEvent, MediaEvent
from services.ingest.source import Packet, PacketSource, StreamInfo
from services.ingest.spool_guard import SpoolGuard
from shared.clock import Clock
from shared.domain import Camera, GapReason, RecordingState
from shared.settings import Settings
from shared.spool import RecorderSpool

REFUSED = frozenset(
    {
        GapReason.UNSUPPORTED_CODEC,
        GapReason.ENCRYPTED,
        GapReason.HOST_NOT_ALLOWED,
        GapReason.CREDENTIALS_REFUSED,
        GapReason.MASK_NOT_BUILT,
    }
)
"""Reasons that only a person ends."""
MASK_DETAIL = "masks that must be burned in here are not built: let the camera mask for itself"


class Sampling(Protocol):
    """Takes analysis frames of one camera (services/ingest/sampler.py)."""

    def start(self) -> None: ...

    def offer(self, packet: Packet, info: StreamInfo) -> None:
        """A packet of the main stream; returns at once."""
        ...

    def stop(self) -> None:
        """End its thread, soon."""
        ...


SourceFactory = Callable[[Camera], PacketSource]
SamplerFactory = Callable[[Camera, Callable[[AnalysisEvent], None]], Sampling | None]


class Tools(NamedTuple):
    """Shared by all recorders; safe from any thread."""

    settings: Settings
    clock: Clock
    spool: RecorderSpool
    guard: SpoolGuard
    epoch: int
    source_factory: SourceFactory
    sampler_factory: SamplerFactory
    emit: Callable[[MediaEvent], None]


def recorded_as(camera: Camera) -> tuple[object, ...]:
    """What of a camera decides how it is recorded; a change of anything else interrupts nothing."""
    return (
        camera.source,
        camera.mask,
        camera.sample_fps,
        camera.enabled,
        camera.deleted_at_us,
        camera.created_at_us,
    )


def standing_reason(camera: Camera) -> tuple[RecordingState, GapReason, str] | None:
    """Why this camera is not to be recorded at all; None when it is."""
    if not camera.enabled or camera.deleted_at_us is not None:
        return RecordingState.DISABLED, GapReason.DISABLED, ""
    if camera.mask.applied_by == "lamppost" and camera.mask.polygons:
        return RecordingState.REFUSED, GapReason.MASK_NOT_BUILT, MASK_DETAIL
    return None
