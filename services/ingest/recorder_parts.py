"""What the recorder threads of one process share, and the shape of a camera's sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from services.ingest.media import FrameSampled, MediaEvent
from services.ingest.source import Packet, PacketSource, StreamInfo
from services.ingest.spool_guard import SpoolGuard
from shared.clock import Clock
from shared.domain import Camera
from shared.settings import Settings
from shared.spool import RecorderSpool


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
SamplerFactory = Callable[[Camera, Callable[[FrameSampled], None]], Sampling | None]


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
