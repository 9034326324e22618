"""An MP4 file out of stored fragments, without re-encoding and without writing a file: pure.

The layout is known before a byte is read: the recorder's init section, a segment index (`sidx`, so
that players know the length and can seek), then the fragments as stored. Their times are moved so
that the file starts at zero and their sequence numbers run on; both are patched in place, so no
size changes, and any byte range of the file can be made by itself.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from services.api.timeline import Piece, Recorded
from shared import fmp4
from shared.clock import SECOND_US
from shared.domain import Fragment
from shared.errors import Kind, LamppostError
from shared.intervals import Interval

MAX_FRAGMENTS = 65_535
"""A `sidx` counts its references in 16 bits."""


class Entry(NamedTuple):
    """One fragment in the file: where it goes, where it comes from."""

    offset: int
    source: Recorded
    fragment: Fragment
    sequence: int
    duration: int
    """In the media timescale."""

    @property
    def end(self) -> int:
        return self.offset + self.fragment.size


class ClipFile(NamedTuple):
    """The layout of one clip: a gap-free run of one init section."""

    pieces: tuple[Piece, ...]
    init_size: int
    sidx: bytes
    entries: tuple[Entry, ...]
    base_time: int
    timescale: int

    @property
    def size(self) -> int:
        return self.entries[-1].end

    @property
    def media(self) -> Interval:
        """When the file's pictures were taken: it starts at the key frame before what was asked."""
        return self.pieces[0].media_start_us, self.pieces[-1].media_end_us

    @property
    def duration_us(self) -> int:
        return sum(entry.duration for entry in self.entries) * SECOND_US // self.timescale

    @property
    def etag(self) -> str:
        """Names the exact bytes: the same fragments in the same order."""
        digest = hashlib.sha256()
        for entry in self.entries:
            digest.update(entry.fragment.sha256)
            digest.update(struct.pack(">QI", entry.offset, entry.sequence))
        return f'"{digest.hexdigest()[:32]}"'

    def span(self, first: int, last: int) -> Interval | None:
        """Which instants the file's bytes [first, last) show; None: the header only."""
        touched = [entry for entry in self.entries if entry.offset < last and first < entry.end]
        if not touched:
            return None
        return touched[0].fragment.start_us, touched[-1].fragment.end_us

    def reads(self, first: int, last: int) -> Iterator[Entry]:
        """The entries that the bytes [first, last) need, in order."""
        at = max(0, bisect_right([entry.offset for entry in self.entries], first) - 1)
        for entry in self.entries[at:]:
            if entry.offset >= last:
                return
            if entry.end > first and first < last:
                yield entry


def layout(run: Sequence[Piece]) -> ClipFile:
    """The file of a run of pieces that run on; TOO_LARGE when an index cannot name its parts."""
    segment = run[0].source.segment
    placed = [(piece.source, fragment) for piece in run for fragment in piece.fragments]
    if len(placed) > MAX_FRAGMENTS:
        raise LamppostError(Kind.TOO_LARGE, "The clip is too long.", fix="Ask for it in parts.")
    durations = _durations([fragment for _, fragment in placed], segment.timescale)
    sidx = _sidx([fragment for _, fragment in placed], durations, segment.timescale)
    offset = segment.init_size + len(sidx)
    entries: list[Entry] = []
    for number, ((source, fragment), duration) in enumerate(
        zip(placed, durations, strict=True), start=1
    ):
        entries.append(Entry(offset, source, fragment, number, duration))
        offset += fragment.size
    base = placed[0][1].base_time
    return ClipFile(tuple(run), segment.init_size, sidx, tuple(entries), base, segment.timescale)


def _durations(fragments: Sequence[Fragment], timescale: int) -> list[int]:
    """Media time to the next fragment; of the last one its wall time."""
    last = fragments[-1]
    times = [fragment.base_time for fragment in fragments]
    end = last.base_time + (last.end_us - last.start_us) * timescale // SECOND_US
    return [after - before for before, after in zip(times, [*times[1:], end], strict=True)]


def _sidx(fragments: Sequence[Fragment], durations: Sequence[int], timescale: int) -> bytes:
    """ISO/IEC 14496-12, 8.16.3: version 1, one reference a fragment, all of them media."""
    body = struct.pack(">IIIQQHH", 1 << 24, 1, timescale, 0, 0, 0, len(fragments))
    for fragment, duration in zip(fragments, durations, strict=True):
        access_point = 0x90000000 if fragment.key else 0
        body += struct.pack(
            ">III", fragment.size & 0x7FFFFFFF, max(0, duration) & 0xFFFFFFFF, access_point
        )
    return struct.pack(">I4s", 8 + len(body), b"sidx") + body


def patched(head: bytes, clip: ClipFile, entry: Entry) -> bytes:
    """The first bytes of a stored fragment (its whole `moof` at least) as they stand in the clip:
    decode time from the clip's start, sequence number in the clip's order."""
    moved = bytearray(fmp4.rebase_tfdt(head, -clip.base_time))
    mfhd = fmp4.find(moved, None, b"moof", b"mfhd")
    if mfhd is None:
        raise LamppostError(Kind.CORRUPT, "A stored fragment has no sequence number.")
    struct.pack_into(">I", moved, mfhd.body + 4, entry.sequence)
    return bytes(moved)
