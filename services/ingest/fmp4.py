"""Writing fragmented MP4: the init section and one `moof mdat` at a time.

One video track, id 1, 90,000 units a second, signed composition offsets, no edit list
(docs/architecture.md, "ingest"). Writing it here rather than through a muxer keeps each fragment
one buffer with known bytes: one write, one hash, no seek, and a fragment table for nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from services.ingest import nal, sps
from shared import fmp4 as reader
from shared.domain import Codec

TIMESCALE = 90_000
MAX_FRAGMENT_SAMPLES = 4_096

_UNITY = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_U32 = 0xFFFFFFFF


class Sample(NamedTuple):
    """One picture in length-prefixed form; times in the media timescale."""

    data: bytes
    dts: int
    shift: int
    """Composition offset: presentation minus decode time, may be negative."""
    key: bool


class Init(NamedTuple):
    """An init section and what it says."""

    data: bytes
    codec: Codec
    codec_string: str
    width: int
    height: int


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _full(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *parts)


def decoder_config(sets: nal.ParameterSets) -> bytes:
    """The avcC or hvcC record of complete parameter sets."""
    if sets.codec is Codec.H264:
        return sps.avcc(sets.of_kind(7), sets.of_kind(8))
    return sps.hvcc(sets.of_kind(32), sets.of_kind(33), sets.of_kind(34))


def make_init(codec: Codec, config: bytes, width: int, height: int) -> Init:
    """`ftyp moov` of one track with this avcC/hvcC record."""
    entry, config_kind = (b"avc1", b"avcC") if codec is Codec.H264 else (b"hvc1", b"hvcC")
    ftyp = _box(b"ftyp", b"iso6", struct.pack(">I", 1), b"iso6mp41")
    mvhd = _full(
        b"mvhd",
        0,
        0,
        struct.pack(">4I", 0, 0, TIMESCALE, 0),
        struct.pack(">IH10x", 0x10000, 0x100),
        _UNITY,
        bytes(24),
        struct.pack(">I", 2),
    )
    trex = _full(b"trex", 0, 0, struct.pack(">5I", 1, 1, 0, 0, 0))
    track = _track(_sample_entry(entry, config_kind, config, width, height), width, height)
    moov = _box(b"moov", mvhd, track, _box(b"mvex", trex))
    name = reader.codec_string(entry.decode(), config)
    return Init(ftyp + moov, codec, name, width, height)


def _sample_entry(kind: bytes, config_kind: bytes, config: bytes, width: int, height: int) -> bytes:
    return _box(
        kind,
        struct.pack(">6xH16xHHIIIH32xHh", 1, width, height, 0x480000, 0x480000, 0, 1, 0x18, -1),
        _box(config_kind, config),
    )


def _track(entry: bytes, width: int, height: int) -> bytes:
    tkhd = _full(
        b"tkhd",
        0,
        3,
        struct.pack(">5I", 0, 0, 1, 0, 0),
        bytes(16),
        _UNITY,
        struct.pack(">II", width << 16, height << 16),
    )
    mdhd = _full(b"mdhd", 0, 0, struct.pack(">4IHH", 0, 0, TIMESCALE, 0, 0x55C4, 0))
    hdlr = _full(b"hdlr", 0, 0, bytes(4), b"vide", bytes(12), b"video\x00")
    stbl = _box(
        b"stbl",
        _full(b"stsd", 0, 0, struct.pack(">I", 1), entry),
        _full(b"stts", 0, 0, bytes(4)),
        _full(b"stsc", 0, 0, bytes(4)),
        _full(b"stsz", 0, 0, bytes(8)),
        _full(b"stco", 0, 0, bytes(4)),
    )
    dinf = _box(b"dinf", _full(b"dref", 0, 0, struct.pack(">I", 1), _full(b"url ", 0, 1)))
    minf = _box(b"minf", _full(b"vmhd", 0, 1, bytes(8)), dinf, stbl)
    return _box(b"trak", tkhd, _box(b"mdia", mdhd, hdlr, minf))


_MFHD = struct.Struct(">I4sII")
_TRAF_HEAD = struct.Struct(">I4s I4sII I4sIQ I4sIIi")


def make_fragment(sequence: int, samples: Sequence[Sample], end: int) -> tuple[bytes, ...]:
    """`moof mdat` of these samples, in parts that follow each other, because joining them would
    take as much memory again; `end` is the decode time at which the next one begins."""
    count = len(samples)
    trun_size = 20 + 16 * count
    traf_size = 8 + 16 + 20 + trun_size
    moof_size = 8 + 16 + traf_size
    fields: list[int] = []
    for index, sample in enumerate(samples):
        following = samples[index + 1].dts if index + 1 < count else end
        flags = reader.SYNC_SAMPLE if sample.key else reader.NON_SYNC_SAMPLE
        fields += ((following - sample.dts) & _U32, len(sample.data), flags, sample.shift)
    head = struct.pack(">I4s", moof_size, b"moof") + _MFHD.pack(16, b"mfhd", 0, sequence & _U32)
    traf = _TRAF_HEAD.pack(
        *(traf_size, b"traf"),
        *(16, b"tfhd", 0x020000, 1),
        *(20, b"tfdt", 1 << 24, samples[0].dts),
        *(trun_size, b"trun", 1 << 24 | 0xF01, count, moof_size + 8),
    )
    size = 8 + sum(len(sample.data) for sample in samples)
    trun = struct.pack(">" + "IIIi" * count, *fields)
    first = b"".join([head, traf, trun, struct.pack(">I4s", size, b"mdat")])
    return (first, *[sample.data for sample in samples])
