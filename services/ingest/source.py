"""The seam between a camera's connection and its recorder thread.

A `PacketSource` belongs to one thread: `open`, then `read` until it raises, then `close`. Only
`interrupt` may be called from another thread.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple, Protocol

from shared.domain import ClockSource, Codec, GapReason


class StreamInfo(NamedTuple):
    """The video stream as the camera announced it. `extradata` is avcC/hvcC or Annex B."""

    codec: Codec
    width: int
    height: int
    extradata: bytes
    time_base: Fraction
    rate_fps: float
    clock_source: ClockSource


class Packet(NamedTuple):
    """One access unit as received, in the stream's time base."""

    data: bytes
    pts: int | None
    dts: int | None
    duration: int
    key: bool
    received_us: int
    """Wall time of receipt, UTC microseconds; for a replayed file its paced time."""
    capture_us: int | None = None
    """Capture time by the camera's own clock, where it sends one."""
    new_extradata: bytes | None = None
    """Parameter sets that changed out of band before this packet."""


class SourceError(Exception):
    """The connection cannot be made or ended: the gap that follows has this reason.

    `retry_after_s` None means the recorder's ordinary back-off.
    """

    def __init__(
        self, reason: GapReason, detail: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
        self.retry_after_s = retry_after_s


class PacketSource(Protocol):
    """One connection to a camera, or one reading of a file."""

    def open(self) -> StreamInfo:
        """Connect; raises SourceError with the reason."""
        ...

    def read(self) -> Packet:
        """The next packet of the video stream, waiting no longer than the watchdog allows;
        raises SourceError when the stream is silent, frozen, over or broken."""
        ...

    def interrupt(self) -> None:
        """Make a blocked `open` or `read` of another thread raise soon (at most 1 s)."""
        ...

    def close(self) -> None: ...
