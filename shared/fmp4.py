"""Reading fragmented MP4 as this program writes it: `ftyp moov (moof mdat)*`, one video track.

The recorder repairs with it, the api finds samples with it and rebases times. Writing is the
recorder's (services/ingest/fmp4.py). All functions take `bytes`, `bytearray`, `memoryview` or
`mmap`, copy nothing they need not, and raise CORRUPT on what cannot be read.
See docs/architecture.md, "ingest" and "Playback and live".
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

from shared.domain import Codec
from shared.errors import Kind, LamppostError

Buffer = bytes | bytearray | memoryview | mmap.mmap

SYNC_SAMPLE = 0x02000000
"""sample_flags of a sample that depends on no other."""
NON_SYNC_SAMPLE = 0x01010000
"""sample_flags of a sample that depends on others and is no sync sample."""
_NOT_SYNC_BIT = 0x00010000

_SAMPLE_ENTRY_SIZE = 86
"""A VisualSampleEntry up to its first inner box."""


class Box(NamedTuple):
    """One box: its type, where it starts, its size with header, and where its body starts."""

    kind: bytes
    offset: int
    size: int
    body: int

    @property
    def end(self) -> int:
        return self.offset + self.size


class InitInfo(NamedTuple):
    """What an init section (`ftyp moov`) says; `config` is the avcC or hvcC record."""

    size: int
    timescale: int
    codec: Codec
    codec_string: str
    width: int
    height: int
    config: bytes


class Sample(NamedTuple):
    """One picture: `offset` counts from the start of the buffer; times in the media timescale."""

    offset: int
    size: int
    dts: int
    pts: int
    duration: int
    key: bool


class ParsedFragment(NamedTuple):
    """One `moof mdat` pair that is whole."""

    offset: int
    size: int
    base_time: int
    duration: int
    key: bool
    samples: tuple[Sample, ...]
    sequence: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.size


def _corrupt(message: str) -> LamppostError:
    return LamppostError(Kind.CORRUPT, f"Not a recording of ours: {message}.")


def walk(data: Buffer, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """The boxes that lie one after the other in `data[start:end]`; ends silently at the first that
    is cut short, raises CORRUPT at one whose size makes no sense."""
    position, limit = start, len(data) if end is None else end
    while position + 8 <= limit:
        size, kind = struct.unpack_from(">I4s", data, position)
        body = position + 8
        if size == 1:
            if position + 16 > limit:
                return
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        if size < body - position:
            raise _corrupt(f"a box of {size} bytes at {position}")
        if position + size > limit:
            return
        yield Box(kind, position, size, body)
        position += size


def find(data: Buffer, box: Box | None, *path: bytes) -> Box | None:
    """The first box along a path such as `b"moov", b"trak"`, inside `box` or at the top."""
    for kind in path:
        inner = walk(data) if box is None else walk(data, box.body, box.end)
        box = next((item for item in inner if item.kind == kind), None)
        if box is None:
            return None
    return box


def _need(data: Buffer, box: Box | None, *path: bytes) -> Box:
    found = find(data, box, *path)
    if found is None:
        raise _corrupt(f"no {'/'.join(part.decode('latin-1') for part in path)}")
    return found


def parse_init(data: Buffer) -> InitInfo:
    """The init section at the start of `data`; CORRUPT when it is missing, cut or not H.264/5."""
    try:
        moov = _need(data, None, b"moov")
        mdia = _need(data, moov, b"trak", b"mdia")
        mdhd = _need(data, mdia, b"mdhd")
        version = data[mdhd.body]
        (timescale,) = struct.unpack_from(">I", data, mdhd.body + (20 if version == 1 else 12))
        stsd = _need(data, mdia, b"minf", b"stbl", b"stsd")
        entry = next(walk(data, stsd.body + 8, stsd.end), None)
        if entry is None or entry.kind not in _ENTRIES:
            raise _corrupt("no H.264 or H.265 sample entry")
        width, height = struct.unpack_from(">HH", data, entry.offset + 32)
        codec, config_kind = _ENTRIES[entry.kind]
        inner = walk(data, entry.offset + _SAMPLE_ENTRY_SIZE, entry.end)
        box = next((item for item in inner if item.kind == config_kind), None)
        if box is None:
            raise _corrupt("no decoder configuration")
        config = bytes(data[box.body : box.end])
        return InitInfo(
            moov.end,
            timescale,
            codec,
            codec_string(entry.kind.decode(), config),
            width,
            height,
            config,
        )
    except (struct.error, IndexError) as error:
        raise _corrupt(str(error)) from error


_ENTRIES = {
    b"avc1": (Codec.H264, b"avcC"),
    b"avc3": (Codec.H264, b"avcC"),
    b"hvc1": (Codec.H265, b"hvcC"),
    b"hev1": (Codec.H265, b"hvcC"),
}


def codec_string(entry: str, config: bytes) -> str:
    """RFC 6381 name of a sample entry and its avcC/hvcC record, such as `avc1.64001f`."""
    if entry.startswith("avc"):
        return f"{entry}.{config[1:4].hex()}"
    profile, level = config[1], config[12]
    (compatibility,) = struct.unpack_from(">I", config, 2)
    mirrored = int(f"{compatibility:032b}"[::-1], 2)
    space = ("", "A", "B", "C")[profile >> 6]
    tier = "H" if profile & 0x20 else "L"
    constraints = [f"{byte:x}" for byte in config[6:12]]
    while constraints and constraints[-1] == "0":
        constraints.pop()
    parts = [entry, f"{space}{profile & 0x1F}", f"{mirrored:x}", f"{tier}{level}", *constraints]
    return ".".join(parts)


def parse_fragments(data: Buffer, start: int = 0) -> Iterator[ParsedFragment]:
    """The whole fragments from `start` (which must be a box boundary) on, skipping `ftyp`, `moov`
    and other boxes; stops at the first fragment that is cut short or cannot be read."""
    moof: Box | None = None
    try:
        for box in walk(data, start):
            if box.kind == b"moof":
                moof = box
            elif box.kind == b"mdat" and moof is not None:
                fragment = _parse_moof(data, moof, box)
                moof = None
                yield fragment
    except (LamppostError, struct.error, IndexError):
        return


def _parse_moof(data: Buffer, moof: Box, mdat: Box) -> ParsedFragment:
    (sequence,) = struct.unpack_from(">I", data, _need(data, moof, b"mfhd").body + 4)
    traf = _need(data, moof, b"traf")
    tfdt = _need(data, traf, b"tfdt")
    version = data[tfdt.body]
    (base_time,) = struct.unpack_from(">Q" if version == 1 else ">I", data, tfdt.body + 4)
    samples = _parse_trun(data, moof, _need(data, traf, b"trun"), base_time)
    last = samples[-1] if samples else None
    if last is None or last.offset + last.size > mdat.end or samples[0].offset < mdat.body:
        raise _corrupt("samples outside their mdat")
    return ParsedFragment(
        moof.offset,
        mdat.end - moof.offset,
        base_time,
        last.dts + last.duration - base_time,
        samples[0].key,
        samples,
        sequence,
    )


def _parse_trun(data: Buffer, moof: Box, trun: Box, base_time: int) -> tuple[Sample, ...]:
    word, count, data_offset = struct.unpack_from(">IIi", data, trun.body)
    if word & 0xFFFFFF != 0xF01:
        raise _corrupt("a trun with other fields than ours")
    if trun.body + 12 + 16 * count > trun.end:
        raise _corrupt("a trun that is too short")
    samples = []
    offset, dts = moof.offset + data_offset, base_time
    for duration, size, flags, shift in struct.iter_unpack(
        ">IIIi", data[trun.body + 12 : trun.body + 12 + 16 * count]
    ):
        key = not flags & _NOT_SYNC_BIT
        samples.append(Sample(offset, size, dts, dts + shift, duration, key))
        offset += size
        dts += duration
    return tuple(samples)


def rebase_tfdt(moof: Buffer, delta: int) -> bytes:
    """A copy of bytes that begin with a `moof` (the rest may follow), with its decode time moved by
    `delta` in the media timescale; never below 0."""
    changed = bytearray(moof)
    tfdt = _need(changed, None, b"moof", b"traf", b"tfdt")
    if changed[tfdt.body] != 1:
        raise _corrupt("a tfdt of 32 bits")
    (base_time,) = struct.unpack_from(">Q", changed, tfdt.body + 4)
    struct.pack_into(">Q", changed, tfdt.body + 4, max(0, base_time + delta))
    return bytes(changed)


def moof_size(data: Buffer) -> int:
    """The size of the `moof` that `data` begins with: what must be read before `rebase_tfdt`."""
    try:
        size, kind = struct.unpack_from(">I4s", data, 0)
    except struct.error as error:
        raise _corrupt(str(error)) from error
    if kind != b"moof":
        raise _corrupt("no moof where one was expected")
    return int(size)
