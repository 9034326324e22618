"""The media path behind one interface: `add`, `remove`, and a stream of values.

Nothing above it sees a packet. PyAV is the first implementation (services/ingest/pyav_*.py); a
native recorder can take its place. See docs/architecture.md, "ingest".
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from shared.domain import (
    Camera,
    ClockSource,
    Codec,
    Fragment,
    Gap,
    GapReason,
    RecordingState,
    Segment,
)
from shared.messages import FrameMeta, FramesPassedOver


class OpenSegment(NamedTuple):
    """A segment that is being written: what a reader needs before it has a sidecar."""

    id: str
    camera_id: str
    start_us: int
    codec: Codec
    codec_string: str
    width: int
    height: int
    timescale: int
    init: bytes
    connection_id: str
    epoch: int
    clock_source: ClockSource
    clock_uncertainty_us: int


class FragmentWritten(NamedTuple):
    """About once a second a camera: these bytes are with the kernel, at `fragment.offset` of the
    file at `path` (where it is until it is filed; None: nobody else can read it)."""

    segment: OpenSegment
    fragment: Fragment
    parts: tuple[bytes, ...]
    path: Path | None = None

    @property
    def data(self) -> bytes:
        """The bytes in one piece, made when they are asked for."""
        return b"".join(self.parts)


class SegmentFiled(NamedTuple):
    """A segment is in the spool's `new/`."""

    segment: Segment


class GapFiled(NamedTuple):
    """A gap is in the spool's `new/`."""

    gap: Gap


class StateChanged(NamedTuple):
    """What the camera's recorder does now, and why."""

    camera_id: str
    state: RecordingState
    at_us: int
    reason: GapReason | None = None
    detail: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    clock_offset_us: int | None = None


class FrameSampled(NamedTuple):
    """One analysis frame that passed the motion gate: JPEG bytes."""

    meta: FrameMeta
    jpeg: bytes


AnalysisEvent = FrameSampled | FramesPassedOver
"""What a sampler says: each frame that detection should see, and the time of those it will not."""
MediaEvent = FragmentWritten | SegmentFiled | GapFiled | StateChanged | AnalysisEvent


class MediaPath(Protocol):
    """Records the cameras that were added. Its threads never block on a slow reader of `events`:
    fragments and frames are dropped for the reader (counted), filed segments and gaps are not lost
    because they stand in the spool."""

    @property
    def epoch(self) -> int:
        """This recorder process's epoch (`RecorderSpool.next_epoch`), known from the start."""
        ...

    def add(self, camera: Camera, epoch: int | None = None) -> None:
        """Record this camera; adding a changed configuration restarts only that camera, adding the
        same one does nothing. `epoch`: of a new assignment; none: as before. Returns at once."""
        ...

    def remove(self, camera_id: str, reason: GapReason) -> None:
        """Stop and file its open segment; `reason` begins the gap that follows. Returns at once."""
        ...

    async def events(self, timeout_s: float) -> list[MediaEvent]:
        """What happened since the last call, waiting up to `timeout_s` for the first."""
        ...

    async def close(self, reason: GapReason) -> None:
        """Stop every camera, file every open segment, end every thread; within 3 s."""
        ...
