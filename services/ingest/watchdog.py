"""Watchdogs of a connection that is up but records nothing of use. Pure: fed packets and times.

Silent: no packet of the video for `silent_s`.

Frozen: the camera goes on sending, but always the same picture. Two things must hold for
`frozen_s`: every inter frame is tiny (nothing but "skip"), and the key frames in between decode to
the same picture, compared as a 64x36 thumbnail of brightness, cell by cell, exactly. The noise of
a real sensor changes some cell of every key frame, an on-screen clock does so every second, and a
real scene with neither still has inter frames that are not tiny. A picture without structure (a
covered lens, a night without light) may be equal to itself for hours and is not called frozen.
What no picture shows cannot be told: with a key frame every 10 s it takes two of them, and an
encoder that goes on refining the same picture is found only once it has settled.

Jumps of the time stamps are the segmenter's (services/ingest/segmenter.py). docs/architecture.md,
"ingest".
"""

from __future__ import annotations

from collections.abc import Callable

import av

from services.ingest.source import Packet
from shared.clock import SECOND_US
from shared.domain import Codec

THUMB_WIDTH, THUMB_HEIGHT = 64, 36
TINY_BYTES = 512
TINY_SHARE = 0.02
FLAT_DEVIATION = 1.5

Thumbnail = Callable[[bytes], "bytes | None"]
"""A key frame's data to its thumbnail; None when it cannot be decoded or has no structure."""


class SilenceWatch:
    """Says when nothing has come for too long."""

    def __init__(self, limit_s: float, now_us: int) -> None:
        self._limit_us = round(limit_s * SECOND_US)
        self._last_us = now_us

    def seen(self, now_us: int) -> None:
        """A packet of the video came."""
        self._last_us = now_us

    def silent(self, now_us: int) -> bool:
        return now_us - self._last_us >= self._limit_us


class FrozenWatch:
    """Says when the picture has stood still for too long.

    `thumbnail` is called for key frames only, and only after nothing but tiny inter frames, so a
    moving picture costs nothing.
    """

    def __init__(self, limit_s: float, thumbnail: Thumbnail, now_us: int) -> None:
        self._limit_us = round(limit_s * SECOND_US)
        self._thumbnail = thumbnail
        self._since_us = now_us
        self._key = b""
        self._key_bytes = 0
        self._picture: bytes | None = None
        self._known = False
        self._moved = True

    @property
    def picture(self) -> bytes | None:
        """The thumbnail that stands, to be recognised on the next connection."""
        return self._picture if self._known else None

    def frozen(self, packet: Packet, now_us: int) -> bool:
        """Take one packet; true when it completes `limit_s` of the same picture."""
        if not packet.key:
            if len(packet.data) > max(TINY_BYTES, self._key_bytes * TINY_SHARE):
                self._moved, self._since_us = True, now_us
                self._key = b""  # 200 KB a camera that nobody asks for again
            return False
        same = bool(self._key) and not self._moved and self._same(packet.data)
        if not same:
            self._known = False
            if not self._moved:
                self._since_us = now_us
        self._key, self._key_bytes, self._moved = packet.data, len(packet.data), False
        return same and now_us - self._since_us >= self._limit_us

    def _same(self, data: bytes) -> bool:
        """Whether this key frame shows what the one before it showed."""
        if not self._known:
            self._picture, self._known = self._thumbnail(self._key), True
        if self._picture is None:
            return False
        return data == self._key or self._thumbnail(data) == self._picture


class KeyFrameDecoder:
    """Decodes single key frames of one stream to thumbnails and says what the decoder learnt."""

    def __init__(self, codec: Codec, extradata: bytes) -> None:
        self._codec, self._extradata = codec, extradata
        self.width = self.height = 0
        self.reorder_depth = 0
        self.rate_fps = 0.0

    def frame(self, data: bytes) -> av.VideoFrame | None:
        """The picture of a key frame; None when it cannot be decoded."""
        name = "h264" if self._codec is Codec.H264 else "hevc"
        context = av.CodecContext.create(name, "r")
        assert isinstance(context, av.VideoCodecContext)
        context.thread_count = 1
        context.extradata = self._extradata
        try:
            frames = [*context.decode(av.Packet(data)), *context.decode(None)]
        except av.FFmpegError:
            return None
        if not frames:
            return None
        self.width, self.height = frames[0].width, frames[0].height
        self.reorder_depth = context.reorder_depth
        rate = context.framerate
        self.rate_fps = float(rate) if rate and 0 < rate <= 240 else 0.0
        return frames[0]

    def thumbnail(self, data: bytes) -> bytes | None:
        """Mean brightness of 64x36 cells; None when undecodable or without structure."""
        frame = self.frame(data)
        return None if frame is None else thumbnail(frame)


def thumbnail(frame: av.VideoFrame) -> bytes | None:
    """Mean brightness of 64x36 cells; None for a picture without structure."""
    import numpy as np  # 6 MB that a recorder needs once a picture seems to stand still

    plane = frame.planes[0]
    luma = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[
        : frame.height, : frame.width
    ]
    rows, columns = frame.height // THUMB_HEIGHT, frame.width // THUMB_WIDTH
    if rows == 0 or columns == 0:
        return luma.tobytes() if luma.std() > FLAT_DEVIATION else None
    cells = luma[: rows * THUMB_HEIGHT, : columns * THUMB_WIDTH].reshape(
        THUMB_HEIGHT, rows, THUMB_WIDTH, columns
    )
    means = cells.mean(axis=(1, 3))
    return means.astype(np.uint8).tobytes() if means.std() > FLAT_DEVIATION else None
