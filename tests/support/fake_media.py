"""A media path without cameras: remembers what it was told and reports what a test makes it report.

`segment_of` and `fragments_of` make plausible values; `write` puts the bytes into the spool as the
recorder does, so that the service's readers find files.
"""

from __future__ import annotations

import asyncio
import hashlib

from services.ingest.media import (
    FragmentWritten,
    FrameSampled,
    MediaEvent,
    OpenSegment,
    SegmentFiled,
    StateChanged,
)
from shared import ids
from shared.clock import SECOND_US, Clock
from shared.domain import (
    Camera,
    ClockSource,
    Codec,
    Fragment,
    GapReason,
    RecordingState,
    Segment,
    Source,
)
from shared.messages import FrameMeta
from shared.spool import RecorderSpool

INIT = b"init" * 8


def camera(camera_id: str, **changes: object) -> Camera:
    """A camera with the least it must have."""
    values: dict[str, object] = {
        "name": camera_id,
        "source": Source(url=f"rtsp://camera.example/{camera_id}"),
        **changes,
    }
    return Camera(id=camera_id, **values)  # type: ignore[arg-type]


class FakeMedia:
    """Port `MediaPath`."""

    def __init__(self, clock: Clock, epoch: int | None = None) -> None:
        self.epoch = epoch or clock.now_us()
        self.cameras: dict[str, Camera] = {}
        self.epochs: dict[str, int] = {}
        self.calls: list[tuple[str, str]] = []
        self.closed: GapReason | None = None
        self._clock = clock
        self._events: list[MediaEvent] = []
        self._wake = asyncio.Event()

    def add(self, camera: Camera, epoch: int | None = None) -> None:
        self.calls.append(("add", camera.id))
        if epoch is not None:
            self.epochs[camera.id] = epoch
        self.cameras[camera.id] = camera

    def remove(self, camera_id: str, reason: GapReason) -> None:
        self.calls.append(("remove", f"{camera_id} {reason.value}"))
        del self.cameras[camera_id]

    async def events(self, timeout_s: float) -> list[MediaEvent]:
        if not self._events and timeout_s > 0:
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                return []
        found, self._events = self._events, []
        return found

    async def close(self, reason: GapReason) -> None:
        self.closed = reason
        self.cameras.clear()

    def report(self, *events: MediaEvent) -> None:
        """What the media path says next."""
        self._events.extend(events)
        self._wake.set()

    def state(self, camera_id: str, state: RecordingState, **more: object) -> None:
        self.report(StateChanged(camera_id, state, self._clock.now_us(), **more))  # type: ignore[arg-type]

    def frame(self, camera_id: str, sequence: int, jpeg: bytes = b"\xff\xd8jpeg") -> None:
        meta = FrameMeta(camera_id, self._clock.now_us(), 0, 640, 360, self.epoch, sequence)
        self.report(FrameSampled(meta, jpeg))


class FakeRecording:
    """One segment of one camera, written fragment by fragment."""

    def __init__(
        self,
        spool: RecorderSpool,
        camera_id: str = "cam-1",
        start_us: int = 1_713_225_600_000_000,
        connection_id: str = "connection-1",
        init: bytes = INIT,
    ) -> None:
        self.open = OpenSegment(
            id=ids.new_id(),
            camera_id=camera_id,
            start_us=start_us,
            codec=Codec.H264,
            codec_string="avc1.64001f",
            width=640,
            height=360,
            timescale=90_000,
            init=init,
            connection_id=connection_id,
            epoch=7,
            clock_source=ClockSource.RECEIPT,
            clock_uncertainty_us=0,
        )
        self.fragments: list[Fragment] = []
        self.data = init
        self._spool = spool
        self._path = spool.open_path(camera_id, start_us, self.open.id)
        self._path.write_bytes(init)

    @property
    def end_us(self) -> int:
        return self.fragments[-1].end_us if self.fragments else self.open.start_us

    def write(self, data: bytes, *, key: bool = True, seconds: float = 1.0) -> FragmentWritten:
        """Append a fragment; the event that tells of it."""
        fragment = Fragment(
            offset=len(self.data),
            size=len(data),
            start_us=self.end_us,
            end_us=self.end_us + round(seconds * SECOND_US),
            key=key,
            sha256=hashlib.sha256(data).digest(),
            samples=25,
        )
        self.fragments.append(fragment)
        self.data += data
        with self._path.open("ab") as file:
            file.write(data)
        return FragmentWritten(self.open, fragment, (data,), self._path)

    def finish(self) -> SegmentFiled:
        """File it; the event that tells of it."""
        part = self.open
        segment = Segment(
            id=part.id,
            camera_id=part.camera_id,
            start_us=part.start_us,
            end_us=self.end_us,
            size_bytes=len(self.data),
            sha256=hashlib.sha256(self.data).hexdigest(),
            codec=part.codec,
            width=part.width,
            height=part.height,
            timescale=part.timescale,
            init_size=len(part.init),
            init_sha256=hashlib.sha256(part.init).hexdigest(),
            connection_id=part.connection_id,
            recorder="recorder-1",
            epoch=part.epoch,
            clock_source=part.clock_source,
            clock_uncertainty_us=0,
            fragments=tuple(self.fragments),
            codec_string=part.codec_string,
        )
        self._spool.file_segment(self._path, segment)
        return SegmentFiled(segment)
