"""Packets in, pictures out: the decoder of analysis frames. docs/architecture.md, "ingest"."""

from __future__ import annotations

from collections import OrderedDict

import av

from services.ingest.source import Packet, StreamInfo
from shared.domain import Codec

TIMES_MAX = 64
DECODERS = {Codec.H264: "h264", Codec.H265: "hevc"}


class Decoder:
    """A stream's decoder: packets in, frames with their packet's times out. One thread.

    Pictures decoded alone that are at least `coarse_px` wide are not smoothed at their blocks'
    edges: scaled down to half and less nobody sees it (52 dB), and it is a seventh of the work.
    """

    def __init__(self, coarse_px: int | None = None) -> None:
        self._coarse_px = coarse_px
        self._context: av.VideoCodecContext | None = None
        self._made_for: tuple[Codec, bytes] | None = None
        self._times: OrderedDict[int, Packet] = OrderedDict()
        self._number = 0

    def frames(
        self, packet: Packet, info: StreamInfo, *, alone: bool
    ) -> list[tuple[av.VideoFrame, Packet]]:
        """Frames that are ready; with `alone` the packet's own, decoded by itself.

        Raises av.FFmpegError on a picture that cannot be decoded.
        """
        context = self._open(info, packet.new_extradata or info.extradata, alone)
        self._number += 1
        self._times[self._number] = packet
        while len(self._times) > TIMES_MAX:
            self._times.popitem(last=False)
        coded = av.Packet(packet.data)
        coded.pts = self._number
        frames = list(context.decode(coded))
        if alone:
            frames += context.decode(None)
            # One picture every few seconds: a decoder kept for it would hold its frames meanwhile,
            # 9 MB a camera at 1080p, and the packets of those before it as much again.
            self._context = None
            self._times.clear()
            return [(frame, packet) for frame in frames]
        return [(frame, self._times.get(frame.pts or 0, packet)) for frame in frames]

    def reset(self) -> None:
        """Forget the stream: the next packet is a key frame."""
        self._context = self._made_for = None
        self._times.clear()

    def _open(self, info: StreamInfo, extradata: bytes, alone: bool) -> av.VideoCodecContext:
        wanted = (info.codec, extradata)
        if self._context is None or self._made_for != wanted:
            context = av.CodecContext.create(DECODERS[info.codec], "r")
            assert isinstance(context, av.VideoCodecContext)
            context.thread_count = 1
            context.extradata = extradata or None
            if alone and self._coarse_px is not None and info.width >= self._coarse_px:
                context.options = {"skip_loop_filter": "all"}
            self._context, self._made_for = context, wanted
        return self._context
