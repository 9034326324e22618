"""Cameras of a real RTSP server recorded by the whole media path, and what they said."""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from services.ingest.media import MediaEvent, StateChanged
from services.ingest.nal import annexb_spans, length_spans
from services.ingest.pyav_media import PyAvMedia
from shared.clock import SystemClock
from shared.domain import (
    Camera,
    GapReason,
    RecordingState,
    Segment,
    Source,
)
from shared.settings import Settings
from tests.support.recording import read_spool, spool_of
from tests.support.servers.rtsp import RtspServer
from tests.support.video import write_video
from tests.support.wait import until

CLIP = {"rate": 10, "gop": 20, "frames": 60, "width": 320, "height": 240}
CLOCK = SystemClock()


def make_clips(folder: Path) -> dict[str, Path]:
    """Generated clips by name; GOP 2 s."""
    return {
        "small": write_video(folder / "small.mp4", **CLIP),
        "large": write_video(folder / "large.mp4", **{**CLIP, "width": 480, "height": 272}),
        "b": write_video(folder / "b.mp4", **CLIP, b_frames=2),
        "h265": write_video(folder / "h265.mp4", **CLIP, codec="libx265", b_frames=2),
        "still": write_still(folder / "still.mp4"),
    }


def write_still(path: Path) -> Path:
    """The same structured picture for 40 s: an encoder that works behind a sensor that hangs."""
    picture = np.random.default_rng(4).integers(40, 200, (360, 320), dtype=np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"qp": "30", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 20, 0
        for index in range(400):
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


class Watch:
    """The media path at work, and what its cameras said."""

    def __init__(self, media: PyAvMedia) -> None:
        self.media = media
        self.events: list[MediaEvent] = []

    def states(self, camera_id: str, since_us: int = 0) -> list[StateChanged]:
        return [
            event
            for event in self.events
            if isinstance(event, StateChanged)
            and event.camera_id == camera_id
            and event.at_us >= since_us
        ]

    def recording(self, camera_id: str, since_us: int = 0) -> int | None:
        """When it first said that it records."""
        return next(
            (
                event.at_us
                for event in self.states(camera_id, since_us)
                if event.state is RecordingState.RECORDING
            ),
            None,
        )

    def blamed(self, camera_id: str, reason: GapReason, since_us: int) -> int | None:
        """When it first gave this reason."""
        return next((e.at_us for e in self.states(camera_id, since_us) if e.reason is reason), None)

    async def pump(self) -> None:
        while True:
            self.events += await self.media.events(0.2)


def _threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("cam-", "sub-", "sample-", "probe-"))]


@asynccontextmanager
async def watching(settings: Settings, cameras: list[Camera]) -> AsyncIterator[Watch]:
    media = PyAvMedia(settings, CLOCK, spool_of(settings))
    watch = Watch(media)
    pump = asyncio.create_task(watch.pump())
    try:
        for camera in cameras:
            media.add(camera)
        await until(lambda: all(watch.recording(camera.id) for camera in cameras), 20, "all record")
        yield watch
    finally:
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)
        await media.close(GapReason.RECORDER_STOPPED)
        await until(lambda: not _threads(), 4, "every thread of the media path ends")


def camera(name: str, server: RtspServer, mount: str | None = None, **source: Any) -> Camera:
    return Camera(id=name, name=name, source=Source(url=server.url(mount or name), **source))


def check_account(settings: Settings, camera_id: str, since_us: int) -> list[GapReason]:
    """Every microsecond since then is in a segment or in a gap, once; the gaps' reasons."""
    segments, gaps = read_spool(settings)
    parts = sorted(
        [(s.start_us, s.end_us, None) for s, _ in segments if s.camera_id == camera_id]
        + [(g.start_us, g.end_us, g.reason) for g in gaps if g.camera_id == camera_id],
        key=lambda part: part[:2],
    )
    assert parts, camera_id
    for before, after in itertools.pairwise(parts):
        assert abs(after[0] - before[1]) <= 1, (camera_id, before, after)
    assert parts[0][0] <= since_us, camera_id
    return [reason for *_, reason in parts if reason is not None]


def vcl_digest(data: bytes, codec: str) -> str:
    """As rtsp_server.py logs it (`vcl`): the coded slices alone, which no payloader changes."""
    digest = hashlib.sha256()
    for start, end in length_spans(data) or annexb_spans(data):
        kind = data[start] & 31 if codec == "h264" else data[start] >> 1 & 63
        if (codec == "h264" and 1 <= kind <= 5) or (codec == "h265" and kind < 32):
            digest.update(data[start:end].rstrip(b"\x00"))
    return digest.hexdigest()[:16]


def recorded_digests(segments: list[tuple[Segment, bytes]], codec: str) -> list[str]:
    """Of every access unit of these segments, in order."""
    found = []
    for _, data in segments:
        with av.open(io.BytesIO(data)) as file:
            found += [vcl_digest(bytes(p), codec) for p in file.demux(video=0) if p.size]
    return found
