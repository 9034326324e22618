"""NAL units of H.264 and H.265: splitting, kinds, and the parameter sets of a stream.

Packets come as Annex B (start codes) or length-prefixed (AVCC); some cameras and recorders mix the
two. Recording keeps every NAL unit as it is; only start codes become length fields. Parameter sets
in band decide when a new init section, and so a new segment, begins (docs/architecture.md,
"ingest").
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from services.ingest import sps
from shared.domain import Codec

_START = b"\x00\x00\x01"
_LONG_START = b"\x00\x00\x00\x01"
_unpack_length = struct.Struct(">I").unpack_from
_pack_length = struct.Struct(">I").pack

_SETS = {Codec.H264: frozenset({7, 8}), Codec.H265: frozenset({32, 33, 34})}
_IDR = {Codec.H264: frozenset({5}), Codec.H265: frozenset({16, 17, 18, 19, 20})}
_KEY = {Codec.H264: frozenset({5}), Codec.H265: frozenset(range(16, 22))}

Span = tuple[int, int]


class Unit(NamedTuple):
    """One access unit in length-prefixed form, and what a recorder needs to know of it."""

    data: bytes
    idr: bool
    """Nothing after it refers to anything before it (IDR or BLA)."""
    key: bool
    """IDR or, for H.265, CRA; H.264 recovery points are known from the packet's flag only."""
    sets: tuple[bytes, ...]
    """Parameter sets inside, in order."""
    picture: bool
    """Whether it holds a coded slice at all."""


def annexb_spans(data: bytes) -> list[Span]:
    """Where the NAL units of an Annex B buffer lie, without start codes and trailing zeros."""
    spans: list[Span] = []
    find = data.find
    start = find(_START)
    while start >= 0:
        start += 3
        following = find(_START, start)
        end = len(data) if following < 0 else following
        while end > start and data[end - 1] == 0:
            end -= 1
        if end > start:
            spans.append((start, end))
        start = following
    return spans


def length_spans(data: bytes, length_size: int = 4) -> list[Span] | None:
    """Where the NAL units of a length-prefixed buffer lie; None when the lengths do not add up."""
    spans: list[Span] = []
    position, total = 0, len(data)
    while position < total:
        if position + length_size > total:
            return None
        if length_size == 4:
            (size,) = _unpack_length(data, position)
        else:
            size = int.from_bytes(data[position : position + length_size], "big")
        position += length_size
        if size == 0:
            continue
        if position + size > total:
            return None
        spans.append((position, position + size))
        position += size
    return spans


def to_unit(data: bytes, codec: Codec, length_size: int | None) -> Unit | None:
    """A packet as a length-prefixed unit; None when it holds no NAL unit.

    `length_size` is the stream's own (avcC), None for Annex B. A packet of the other form is
    recognised: by its first bytes, or by lengths that do not add up.
    """
    spans: list[Span] | None = None
    kept = False
    if length_size is not None and not data.startswith(_LONG_START):
        spans = length_spans(data, length_size)
        kept = spans is not None and length_size == 4
    if spans is None:
        spans = annexb_spans(data)
        if not spans and length_size is None:
            spans = length_spans(data)
            kept = bool(spans)
    if not spans:
        return None
    if codec is Codec.H264:
        kinds = [data[start] & 0x1F for start, _ in spans]
        picture = any(1 <= kind <= 5 for kind in kinds)
    else:
        kinds = [data[start] >> 1 & 0x3F for start, _ in spans]
        picture = any(kind < 32 for kind in kinds)
    wanted = _SETS[codec]
    sets = tuple(
        data[start:end] for kind, (start, end) in zip(kinds, spans, strict=True) if kind in wanted
    )
    idr = not _IDR[codec].isdisjoint(kinds)
    key = idr or not _KEY[codec].isdisjoint(kinds)
    if not kept:
        data = b"".join([_pack_length(e - s) + data[s:e] for s, e in spans])
    return Unit(data, idr, key, sets, picture)


def length_size_of(extradata: bytes, codec: Codec) -> int | None:
    """The size of length fields that avcC/hvcC states; None for Annex B or nothing."""
    if codec is Codec.H264:
        return (extradata[4] & 3) + 1 if len(extradata) >= 7 and extradata[0] == 1 else None
    if len(extradata) >= 23 and extradata[0] in (0, 1) and not extradata.startswith(_START):
        return None if extradata.startswith(_LONG_START) else (extradata[21] & 3) + 1
    return None


def sets_of_extradata(extradata: bytes, codec: Codec) -> list[bytes]:
    """The parameter sets of avcC, hvcC or Annex B extradata; what cannot be read is left out."""
    if length_size_of(extradata, codec) is None:
        found = [extradata[start:end] for start, end in annexb_spans(extradata)]
    elif codec is Codec.H264:
        found = _avcc_sets(extradata)
    else:
        found = _hvcc_sets(extradata)
    wanted = _SETS[codec]
    return [item for item in found if item and kind_of(item, codec) in wanted]


def _avcc_sets(record: bytes) -> list[bytes]:
    found: list[bytes] = []
    position = 5
    for mask in (0x1F, 0xFF):
        if position >= len(record):
            break
        count = record[position] & mask
        position += 1
        for _ in range(count):
            size = int.from_bytes(record[position : position + 2], "big")
            found.append(record[position + 2 : position + 2 + size])
            position += 2 + size
    return found


def _hvcc_sets(record: bytes) -> list[bytes]:
    found: list[bytes] = []
    position = 23
    for _ in range(record[22]):
        count = int.from_bytes(record[position + 1 : position + 3], "big")
        position += 3
        for _ in range(count):
            size = int.from_bytes(record[position : position + 2], "big")
            found.append(record[position + 2 : position + 2 + size])
            position += 2 + size
            if position > len(record):
                return found
    return found


def kind_of(unit: bytes, codec: Codec) -> int:
    """`nal_unit_type`."""
    return unit[0] & 0x1F if codec is Codec.H264 else unit[0] >> 1 & 0x3F


class ParameterSets:
    """The parameter sets in force, by kind and id: a set replaces the one with its id."""

    MAX = 64

    def __init__(self, codec: Codec, extradata: bytes = b"") -> None:
        self.codec = codec
        self._sets: dict[tuple[int, int], bytes] = {}
        self.update(sets_of_extradata(extradata, codec))

    def update(self, sets: list[bytes] | tuple[bytes, ...]) -> bool:
        """Take these over; true when anything changed."""
        changed = False
        for item in sets:
            if not self._usable(item):
                continue
            key = (kind_of(item, self.codec), sps.set_id(item, self.codec))
            if self._sets.get(key) != item and (key in self._sets or len(self._sets) < self.MAX):
                self._sets[key] = item
                changed = True
        return changed

    def _usable(self, item: bytes) -> bool:
        """Damage on the way must not end in an init section: a sequence parameter set has to be
        readable once one is known."""
        if len(item) < 2 or item[0] & 0x80:
            return False
        kind = kind_of(item, self.codec)
        if kind != (7 if self.codec is Codec.H264 else 33):
            return True
        if len(item) < (5 if self.codec is Codec.H264 else 16):
            return False
        known = any(key[0] == kind for key in self._sets)
        return not known or sps.parse(item, self.codec) is not None

    def of_kind(self, kind: int) -> list[bytes]:
        """Those of one NAL unit type, in order of id."""
        return [self._sets[key] for key in sorted(self._sets) if key[0] == kind]

    def value(self) -> tuple[bytes, ...]:
        """All of them in order, comparable."""
        return tuple(self._sets[key] for key in sorted(self._sets))

    @property
    def complete(self) -> bool:
        """Whether a decoder could start with them (an H.265 VPS is not insisted on)."""
        kinds = {kind for kind, _ in self._sets}
        return {7, 8} <= kinds if self.codec is Codec.H264 else {33, 34} <= kinds
