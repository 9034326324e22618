"""Reading sequence parameter sets, and the avcC and hvcC records built from them.

Needed where a camera announces its parameter sets in band or as Annex B: the init section then
has to be made here. Fields are named as in H.264 7.3.2.1 and H.265 7.3.2.2; records as in
ISO/IEC 14496-15.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from shared.domain import Codec

_WITH_CHROMA = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 144, 244})


class Picture(NamedTuple):
    """What a sequence parameter set says of the picture: size in pixels after cropping."""

    width: int
    height: int
    chroma_format: int
    luma_bits: int
    chroma_bits: int


class _Bits:
    """A reader of an RBSP, emulation prevention removed; past the end it raises ValueError."""

    def __init__(self, unit: bytes, skip: int) -> None:
        raw = unit[skip : skip + 512].replace(b"\x00\x00\x03", b"\x00\x00")
        self._value = int.from_bytes(raw, "big")
        self._left = len(raw) * 8

    def u(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("parameter set is cut short")
        return (self._value >> self._left) & ((1 << count) - 1)

    def ue(self) -> int:
        zeros = 0
        while not self.u(1):
            zeros += 1
            if zeros > 31:
                raise ValueError("parameter set has no number where one must be")
        return (1 << zeros) - 1 + (self.u(zeros) if zeros else 0)

    def se(self) -> int:
        value = self.ue()
        return (value + 1) // 2 if value & 1 else -(value // 2)


def set_id(unit: bytes, codec: Codec) -> int:
    """The id that a parameter set has; 0 when it cannot be read."""
    try:
        if codec is Codec.H264:
            return _Bits(unit, 4 if unit[0] & 0x1F == 7 else 1).ue()
        kind = unit[0] >> 1 & 0x3F
        if kind == 32:
            return unit[2] >> 4
        bits = _Bits(unit, 2)
        if kind == 33:
            _skip_profile(bits)
        return bits.ue()
    except (ValueError, IndexError):
        return 0


def parse(unit: bytes, codec: Codec) -> Picture | None:
    """The picture of an SPS; None when it cannot be read."""
    try:
        picture = _parse_h264(unit) if codec is Codec.H264 else _parse_h265(unit)
    except (ValueError, IndexError):
        return None
    sane = 0 < picture.width <= 16_384 and 0 < picture.height <= 16_384
    return picture if sane else None


def _parse_h264(unit: bytes) -> Picture:
    bits = _Bits(unit, 4)
    profile = unit[1]
    bits.ue()
    chroma, luma_bits, chroma_bits, planes = 1, 8, 8, 0
    if profile in _WITH_CHROMA:
        chroma = bits.ue()
        planes = bits.u(1) if chroma == 3 else 0
        luma_bits, chroma_bits = 8 + bits.ue(), 8 + bits.ue()
        bits.u(1)
        if bits.u(1):
            _skip_scaling(bits, 12 if chroma == 3 else 8)
    bits.ue()
    order = bits.ue()
    if order == 0:
        bits.ue()
    elif order == 1:
        bits.u(1), bits.se(), bits.se()
        for _ in range(min(bits.ue(), 255)):
            bits.se()
    bits.ue(), bits.u(1)
    width, height = 16 * (bits.ue() + 1), 16 * (bits.ue() + 1)
    frames_only = bits.u(1)
    height *= 2 - frames_only
    if not frames_only:
        bits.u(1)
    bits.u(1)
    if bits.u(1):
        left, right, top, bottom = bits.ue(), bits.ue(), bits.ue(), bits.ue()
        across = 2 if chroma in (1, 2) and not planes else 1
        down = (2 if chroma == 1 and not planes else 1) * (2 - frames_only)
        width -= across * (left + right)
        height -= down * (top + bottom)
    return Picture(width, height, chroma, luma_bits, chroma_bits)


def _skip_scaling(bits: _Bits, lists: int) -> None:
    for index in range(lists):
        if not bits.u(1):
            continue
        last = following = 8
        for _ in range(16 if index < 6 else 64):
            if following:
                following = (last + bits.se()) % 256
            last = following or last


def _skip_profile(bits: _Bits) -> None:
    """From the start of an H.265 SPS to behind its `profile_tier_level`."""
    bits.u(4)
    layers = bits.u(3)
    bits.u(1)
    bits.u(96)
    flags = [(bits.u(1), bits.u(1)) for _ in range(layers)]
    if layers:
        bits.u(2 * (8 - layers))
    for has_profile, has_level in flags:
        bits.u(88 if has_profile else 0)
        bits.u(8 if has_level else 0)


def _parse_h265(unit: bytes) -> Picture:
    bits = _Bits(unit, 2)
    _skip_profile(bits)
    bits.ue()
    chroma = bits.ue()
    planes = bits.u(1) if chroma == 3 else 0
    width, height = bits.ue(), bits.ue()
    if bits.u(1):
        left, right, top, bottom = bits.ue(), bits.ue(), bits.ue(), bits.ue()
        across = 2 if chroma in (1, 2) and not planes else 1
        down = 2 if chroma == 1 and not planes else 1
        width -= across * (left + right)
        height -= down * (top + bottom)
    return Picture(width, height, chroma, 8 + bits.ue(), 8 + bits.ue())


def avcc(sps_units: list[bytes], pps_units: list[bytes]) -> bytes:
    """An AVCDecoderConfigurationRecord with length fields of 4 bytes."""
    first = sps_units[0]
    parts = [b"\x01", first[1:4], b"\xff", bytes([0xE0 | len(sps_units[:31])])]
    parts += [struct.pack(">H", len(unit)) + unit for unit in sps_units[:31]]
    parts.append(bytes([len(pps_units[:255])]))
    parts += [struct.pack(">H", len(unit)) + unit for unit in pps_units[:255]]
    if first[1] not in (66, 77, 88):
        picture = parse(first, Codec.H264) or Picture(0, 0, 1, 8, 8)
        parts.append(
            bytes(
                [
                    0xFC | picture.chroma_format,
                    0xF8 | (picture.luma_bits - 8),
                    0xF8 | (picture.chroma_bits - 8),
                    0,
                ]
            )
        )
    return b"".join(parts)


def hvcc(vps_units: list[bytes], sps_units: list[bytes], pps_units: list[bytes]) -> bytes:
    """An HEVCDecoderConfigurationRecord with length fields of 4 bytes."""
    plain = sps_units[0][2:64].replace(b"\x00\x00\x03", b"\x00\x00")
    layers, nested = (plain[0] >> 1 & 7) + 1, plain[0] & 1
    picture = parse(sps_units[0], Codec.H265) or Picture(0, 0, 1, 8, 8)
    head = b"\x01" + plain[1:13]
    head += struct.pack(
        ">HBBBBHB",
        0xF000,
        0xFC,
        0xFC | picture.chroma_format,
        0xF8 | (picture.luma_bits - 8),
        0xF8 | (picture.chroma_bits - 8),
        0,
        layers << 3 | nested << 2 | 3,
    )
    arrays = [(32, vps_units), (33, sps_units), (34, pps_units)]
    filled = [(kind, units) for kind, units in arrays if units]
    body = [bytes([len(filled)])]
    for kind, units in filled:
        body.append(struct.pack(">BH", kind, len(units)))
        body += [struct.pack(">H", len(unit)) + unit for unit in units]
    return head + b"".join(body)
