"""Coded pictures as RTP packets: H.264 (RFC 6184), H.265 (RFC 7798), and sender reports (RFC 3550).

A picture is packed once, as the bytes of an RTSP connection: every packet behind its four bytes of
interleaving (RFC 2326, 10.12). What differs between two cameras, or two rounds of a loop, is three
numbers a packet: the sequence number, the timestamp and the source. So a camera's picture is one
copy, a few stores, and one write. No sockets, no clock.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from shared.domain import Codec

CLOCK_HZ = 90_000
PAYLOAD_TYPE = 96
MAX_PAYLOAD_BYTES = 1_400
"""Of one packet: what fits an Ethernet frame, as from a camera, whatever the way allows."""
NTP_TO_UNIX_S = 2_208_988_800
CNAME = b"lamppost-replay"
_HEAD = struct.Struct(">BBHBBHII")
_PATCH = struct.Struct(">HII").pack_into
_SEQUENCE_AT = 6
"""Where the sequence number lies in a packet, its interleaving counted."""


class Template(NamedTuple):
    """A picture's packets one behind the other, and where each one's sequence number lies."""

    data: bytes
    marks: tuple[int, ...]
    payload_bytes: int


def packed(nals: Sequence[bytes], codec: Codec) -> Template:
    """The packets of one picture; the marker ends it."""
    payloads: list[bytes] = []
    for unit in nals:
        payloads += _payloads(unit, codec)
    data, marks = bytearray(), []
    for number, payload in enumerate(payloads):
        marker = 0x80 if number == len(payloads) - 1 else 0
        marks.append(len(data) + _SEQUENCE_AT)
        data += _HEAD.pack(0x24, 0, 12 + len(payload), 0x80, marker | PAYLOAD_TYPE, 0, 0, 0)
        data += payload
    return Template(bytes(data), tuple(marks), sum(map(len, payloads)))


def _payloads(unit: bytes, codec: Codec) -> list[bytes]:
    """One NAL unit as payloads: itself, or fragments."""
    if len(unit) <= MAX_PAYLOAD_BYTES:
        return [unit]
    if codec is Codec.H264:
        lead, kind, body = bytes((unit[0] & 0xE0 | 28,)), unit[0] & 0x1F, unit[1:]
    else:
        lead = bytes((unit[0] & 0x81 | 49 << 1, unit[1]))
        kind, body = unit[0] >> 1 & 0x3F, unit[2:]
    room = MAX_PAYLOAD_BYTES - len(lead) - 1
    found = []
    for start in range(0, len(body), room):
        flags = (0x80 if start == 0 else 0) | (0x40 if start + room >= len(body) else 0)
        found.append(lead + bytes((flags | kind,)) + body[start : start + room])
    return found


def stamped(
    template: Template, sequence: int, timestamp: int, source: int, channel: int
) -> bytearray:
    """One camera's copy of a picture, its first packet numbered `sequence`."""
    data = bytearray(template.data)
    for mark in template.marks:
        _PATCH(data, mark, sequence, timestamp, source)
        sequence = (sequence + 1) & 0xFFFF
    if channel:
        for mark in template.marks:
            data[mark - _SEQUENCE_AT + 1] = channel
    return data


def sender_report(
    source: int, wall_us: int, timestamp: int, packets: int, octets: int, channel: int
) -> bytes:
    """A sender report and the source's name, interleaved: at `wall_us` it was `timestamp`."""
    seconds, part = divmod(wall_us, 1_000_000)
    report = struct.pack(
        ">BBHIIIIII", 0x80, 200, 6, source, seconds + NTP_TO_UNIX_S & 0xFFFFFFFF,
        (part << 32) // 1_000_000, timestamp & 0xFFFFFFFF, packets & 0xFFFFFFFF,
        octets & 0xFFFFFFFF,
    )  # fmt: skip
    item = struct.pack(">IBB", source, 1, len(CNAME)) + CNAME + b"\x00"
    item += bytes(-len(item) % 4)
    report += struct.pack(">BBH", 0x81, 202, len(item) // 4) + item
    return b"$" + bytes((channel,)) + len(report).to_bytes(2, "big") + report


def goodbye(source: int, channel: int) -> bytes:
    """BYE, interleaved: the camera ends the stream."""
    return b"$" + bytes((channel,)) + struct.pack(">HBBHI", 8, 0x81, 203, 1, source)
