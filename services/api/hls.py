"""HLS media playlists over stored segments: byte ranges, no copy (RFC 8216, version 7).

A part is a run of fragments of one segment that begins with a key frame, of about two to six
seconds; it is named by its byte range in the segment's file, and says its own wall time: media
time alone is up to some tenths of a second off, since wall time follows receipt while a line to the
camera settles (services/ingest/timeline.py). Holes are date ranges with their reason, and the part
after a hole says a discontinuity.

Parts depend only on where the range begins, so a playlist that is read again while footage still
arrives only grows (docs/architecture.md, "Playback and live").
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from math import ceil
from typing import NamedTuple

from services.api.timeline import Hole, Piece, Timeline
from shared import civil
from shared.clock import SECOND_US
from shared.domain import Fragment

MIN_PART_US = 2 * SECOND_US
TARGET_S = 6
GAP_CLASS = "org.lamppost.gap"


class Part(NamedTuple):
    """One media segment of the playlist: `size` bytes at `offset` of a segment's file."""

    segment_id: str
    offset: int
    size: int
    start_us: int
    duration_us: int
    key: bool
    whole: bool
    """No fragment can be added to it any more."""


def parts(piece: Piece) -> list[Part]:
    """The piece in parts: cut before the first key frame after `MIN_PART_US`."""
    segment, growing = piece.source.segment, piece.source.growing
    groups: list[list[Fragment]] = []
    group: list[Fragment] = []
    for fragment in piece.fragments:
        if not group or (fragment.key and fragment.start_us - group[0].start_us >= MIN_PART_US):
            group = [fragment]
            groups.append(group)
        else:
            group.append(fragment)
    found: list[Part] = []
    after = _next_fragment(piece)
    for at, group in enumerate(groups, start=1):
        first, last, is_last = group[0], group[-1], at == len(groups)
        found.append(
            Part(
                segment.id,
                first.offset,
                last.offset + last.size - first.offset,
                first.start_us,
                _duration_us(first, last, after if is_last else groups[at][0], segment.timescale),
                first.key,
                not is_last or not growing,
            )
        )
    return found


def shifts(pieces: Sequence[Piece]) -> list[int]:
    """How far each piece's decode times are moved, so that they only ever go up.

    Each connection counts from its own zero. Players that join all bytes into one stream (FFmpeg's
    is one) drop what goes back in time, so a later run is moved to where the wall clock has it,
    counted from the first run, and never before the end of the run in front.
    """
    found: list[int] = []
    shift = end = 0
    for piece in pieces:
        first, last = piece.fragments[0], piece.fragments[-1]
        scale = piece.source.segment.timescale
        if not found:
            origin, origin_us = first.base_time, first.start_us
        elif not piece.continues:
            wall = origin + (first.start_us - origin_us) * scale // SECOND_US
            shift = max(wall, end) - first.base_time
        found.append(shift)
        length = (last.end_us - last.start_us) * scale // SECOND_US
        end = last.base_time + shift + length
    return found


def _next_fragment(piece: Piece) -> Fragment | None:
    """The fragment after the piece in its own segment, where there is one."""
    fragments = piece.source.segment.fragments
    at = bisect_right(fragments, piece.fragments[-1].offset, key=lambda each: each.offset)
    return fragments[at] if at < len(fragments) else None


def _duration_us(first: Fragment, last: Fragment, follower: Fragment | None, timescale: int) -> int:
    """Media time to the fragment that follows; at the segment's end its wall time."""
    if follower is not None and follower.base_time > first.base_time:
        return (follower.base_time - first.base_time) * SECOND_US // timescale
    return max(1, last.end_us - first.start_us)


def playlist(
    timeline: Timeline,
    *,
    ended: bool,
    grows: bool = False,
    segment_url: str = "segments/{id}.mp4",
) -> str:
    """The media playlist of a timeline.

    `ended`: the range is complete. Otherwise footage still arrives: the last part of a growing
    segment is left out until it is whole, so that no listed part ever changes. `grows`: it was not
    complete when the reader came, whose playlist type (EVENT) then stays the same to the end.
    """
    moved = shifts(timeline.pieces)
    listed = [
        (piece, _listed(piece, ended), shift)
        for piece, shift in zip(timeline.pieces, moved, strict=True)
    ]
    every = [part for _, own, _ in listed for part in own]
    longest = max((ceil(part.duration_us / SECOND_US) for part in every), default=TARGET_S)
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:7",
        f"#EXT-X-PLAYLIST-TYPE:{'VOD' if ended and not grows else 'EVENT'}",
        f"#EXT-X-TARGETDURATION:{max(TARGET_S, longest)}",
        "#EXT-X-MEDIA-SEQUENCE:0",
    ]
    if all(part.key for part in every):
        lines.append("#EXT-X-INDEPENDENT-SEGMENTS")
    lines.extend(_media(listed, timeline.holes, segment_url, ended))
    if ended:
        lines.append("#EXT-X-ENDLIST")
    return "\n".join(lines) + "\n"


def _listed(piece: Piece, ended: bool) -> list[Part]:
    return [part for part in parts(piece) if ended or part.whole]


def _date_range(hole: Hole) -> str:
    seconds = (hole.end_us - hole.start_us) / SECOND_US
    return (
        f'#EXT-X-DATERANGE:ID="gap-{hole.start_us}",CLASS="{GAP_CLASS}",'
        f'START-DATE="{civil.rfc3339(hole.start_us)}",DURATION={seconds:.6f},'
        f'X-REASON="{hole.reason}"'
    )


def _media(
    listed: Sequence[tuple[Piece, list[Part], int]],
    holes: Sequence[Hole],
    segment_url: str,
    ended: bool,
) -> Iterator[str]:
    """Parts in order, each hole before the part that ends it; an open hole once all has ended."""
    left = list(holes)
    first = True
    for piece, own, shift in listed:
        if not own:
            continue
        while left and left[0].start_us < piece.start_us:
            yield _date_range(left.pop(0))
        segment = piece.source.segment
        url = segment_url.format(id=segment.id) + (f"?shift={shift}" if shift else "")
        if not piece.continues:
            if not first:
                yield "#EXT-X-DISCONTINUITY"
            yield f'#EXT-X-MAP:URI="{url}",BYTERANGE="{segment.init_size}@0"'
        for part in own:
            yield f"#EXT-X-PROGRAM-DATE-TIME:{civil.rfc3339(part.start_us)}"
            yield f"#EXTINF:{part.duration_us / SECOND_US:.6f},"
            yield f"#EXT-X-BYTERANGE:{part.size}@{part.offset}"
            yield url
        first = False
    if ended:
        yield from map(_date_range, left)
