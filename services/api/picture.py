"""Decodes one picture out of stored fragments, on a few named threads, within limits.

Bounded in bytes, waiters and seconds, so that snapshots can never starve playback. Blocking media
work of the api sits behind this one seam.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import NamedTuple

import av
import av.error
import numpy as np
import simplejpeg
from av.video.frame import VideoFrame

from shared import fmp4
from shared.clock import SECOND_US
from shared.domain import Fragment
from shared.errors import Kind, LamppostError

WORKERS = 2
MAX_WAITING = 16
MAX_BYTES = 64 * 1024 * 1024
"""Of one GOP: more than a minute at 8 Mbit/s."""
TIMEOUT_S = 20.0
QUALITY = 88


class Picture(NamedTuple):
    """A decoded picture and when it was captured."""

    jpeg: bytes
    captured_us: int
    width: int
    height: int


class PictureWorkers:
    """A bounded pool of decoding threads."""

    def __init__(self, workers: int = WORKERS, max_waiting: int = MAX_WAITING) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="picture")
        self._free = workers + max_waiting

    async def decode(
        self, init: bytes, fragments: tuple[Fragment, ...], media: bytes, at_us: int, timescale: int
    ) -> Picture:
        """The last picture captured at or before `at_us` (or the first of all).

        `media` is the fragments' bytes one after the other; the first begins with a key frame.
        LIMITED when too many wait, TIMEOUT, CORRUPT when nothing can be decoded.
        """
        if self._free <= 0:
            raise LamppostError(Kind.LIMITED, "Too many snapshots are being made.", fix="Wait.")
        self._free -= 1
        stopped = Event()
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(
            self._pool, _decode, init, fragments, media, at_us, timescale, stopped
        )
        future.add_done_callback(self._done)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await asyncio.shield(future)
        except TimeoutError as error:
            raise LamppostError(Kind.TIMEOUT, "The picture took too long to decode.") from error
        finally:
            stopped.set()

    def _done(self, future: asyncio.Future[Picture]) -> None:
        self._free += 1
        if not future.cancelled():
            future.exception()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _decode(
    init: bytes,
    fragments: tuple[Fragment, ...],
    media: bytes,
    at_us: int,
    timescale: int,
    stopped: Event,
) -> Picture:
    best: tuple[int, VideoFrame] | None = None
    data = init + media
    try:
        for captured, frame in _pictures(data, fragments, timescale):
            if stopped.is_set():
                raise LamppostError(Kind.TIMEOUT, "Nobody waits for the picture any more.")
            # Pictures come in order of presentation: the first one after the time ends it.
            if best is not None and captured > at_us:
                break
            best = captured, frame
    except av.error.FFmpegError as error:
        if best is None:
            raise LamppostError(Kind.CORRUPT, f"The picture cannot be decoded: {error}.") from error
    if best is None:
        raise LamppostError(Kind.CORRUPT, "No picture could be decoded.")
    captured, frame = best
    return Picture(_jpeg(frame), captured, frame.width, frame.height)


def _pictures(
    data: bytes, fragments: tuple[Fragment, ...], timescale: int
) -> Iterator[tuple[int, VideoFrame]]:
    """Each picture with its capture time, in order of presentation.

    The library moves all times when a composition offset is negative, so a picture's time is that
    of the stored sample its packet was made from.
    """
    stored = [sample.pts for part in fmp4.parse_fragments(data) for sample in part.samples]
    true_pts: dict[int, int] = {}
    with av.open(io.BytesIO(data), "r", format="mp4") as container:
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"
        for number, packet in enumerate(container.demux(stream)):
            if packet.pts is not None and number < len(stored):
                true_pts[packet.pts] = stored[number]
            for frame in packet.decode():
                if isinstance(frame, VideoFrame) and frame.pts is not None:
                    ticks = true_pts.get(frame.pts, frame.pts)
                    yield captured_us(ticks, fragments, timescale), frame


def captured_us(ticks: int, fragments: tuple[Fragment, ...], timescale: int) -> int:
    """Wall time of a media time, by the fragment it lies in."""
    home = fragments[0]
    for fragment in fragments:
        if fragment.base_time > ticks:
            break
        home = fragment
    return home.start_us + (ticks - home.base_time) * SECOND_US // timescale


def _jpeg(frame: VideoFrame) -> bytes:
    """JPEG straight from the planes, in the full range that JPEG means."""
    full = frame.reformat(format="yuvj420p", dst_color_range="JPEG")
    planes = [
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[
            :, : plane.width
        ]
        for plane in full.planes
    ]
    y, u, v = (np.ascontiguousarray(plane) for plane in planes)
    return bytes(simplejpeg.encode_jpeg_yuv_planes(y, u, v, quality=QUALITY, fastdct=False))
