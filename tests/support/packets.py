"""Synthetic packets: real parameter sets, pictures of a few bytes that carry their own number."""

from __future__ import annotations

import functools
import io
import struct
from fractions import Fraction

import av

from services.ingest import nal
from services.ingest.source import Packet, StreamInfo
from shared import fmp4
from shared.domain import ClockSource, Codec
from tests.support.video import make_video

START_US = 1_790_000_000_000_000


@functools.cache
def extradata(codec: str = "libx264", width: int = 128, height: int = 96) -> bytes:
    data = make_video(codec=codec, frames=5, gop=5, width=width, height=height)
    with av.open(io.BytesIO(data)) as container:
        return bytes(container.streams.video[0].codec_context.extradata)


def stream_info(**changes: object) -> StreamInfo:
    info = StreamInfo(
        Codec.H264, 128, 96, extradata(), Fraction(1, 1000), 25.0, ClockSource.RECEIPT
    )
    return info._replace(**changes)


def unit(kind: int, number: int, size: int = 12) -> bytes:
    """One H.264 NAL unit with length field; `number` can be read back with `number_of`."""
    digits = bytes(0x80 | number >> shift & 0x7F for shift in (14, 7, 0))  # holds no zero byte
    body = bytes([0x60 | kind]) + digits + b"\x55" * size
    return struct.pack(">I", len(body)) + body


def picture(
    number: int,
    at_ms: int,
    *,
    key: bool = False,
    idr: bool = True,
    received_us: int | None = None,
    **more: object,
) -> Packet:
    data = unit(5 if key and idr else 1, number)
    wall = START_US + at_ms * 1000 if received_us is None else received_us
    packet = Packet(data, at_ms, at_ms, 0, key, wall)
    return packet._replace(**more)


def numbers(fragment: bytes) -> list[int]:
    """The numbers of the pictures in a fragment's bytes."""
    found = []
    for part in fmp4.parse_fragments(fragment):
        for sample in part.samples:
            data = fragment[sample.offset : sample.offset + sample.size]
            for start, _ in nal.length_spans(data) or []:
                if data[start] & 0x1F in (1, 5):
                    a, b, c = data[start + 1 : start + 4]
                    found.append((a & 0x7F) << 14 | (b & 0x7F) << 7 | c & 0x7F)
    return found
