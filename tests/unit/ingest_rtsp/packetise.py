"""NAL units as RTP packets, the way a camera's payloader makes them."""

from __future__ import annotations

import struct

from shared.domain import Codec

MTU = 60


def payloads(units: list[bytes], codec: Codec, *, aggregate: bool) -> list[bytes]:
    """As a payloader does it: small ones together, large ones in fragments."""
    made: list[bytes] = []
    if aggregate and len(units) > 1 and sum(map(len, units)) < MTU:
        head = bytes([0x78]) if codec is Codec.H264 else bytes([48 << 1, 1])
        return [head + b"".join(struct.pack(">H", len(u)) + u for u in units)]
    for unit in units:
        if len(unit) <= MTU:
            made.append(unit)
            continue
        body = unit[1:] if codec is Codec.H264 else unit[2:]
        parts = [body[at : at + MTU] for at in range(0, len(body), MTU)]
        for number, part in enumerate(parts):
            flags = (0x80 if number == 0 else 0) | (0x40 if number == len(parts) - 1 else 0)
            if codec is Codec.H264:
                head = bytes([(unit[0] & 0xE0) | 28, flags | (unit[0] & 31)])
            else:
                head = bytes([49 << 1 | (unit[0] & 0x81), unit[1], flags | (unit[0] >> 1 & 63)])
            made.append(head + part)
    return made


def packets(
    pictures: list[list[bytes]],
    codec: Codec,
    *,
    aggregate: bool = False,
    marker: str = "last",
    first: int = 65_530,
    step: int = 3_000,
) -> list[bytes]:
    sequence, made = first, []
    for number, units in enumerate(pictures):
        body = payloads(units, codec, aggregate=aggregate)
        for at, part in enumerate(body):
            marked = marker == "all" or (marker == "last" and at == len(body) - 1)
            head = struct.pack(
                ">BBHII", 0x80, 96 | (128 if marked else 0), sequence & 0xFFFF, number * step, 7
            )
            made.append(head + part)
            sequence += 1
    return made


def interleaved(made: list[bytes], channel: int = 0) -> bytes:
    """RTP packets as they stand between RTSP messages on one TCP connection."""
    return b"".join(b"$" + bytes([channel]) + struct.pack(">H", len(p)) + p for p in made)
