"""What can be played of a camera's [start, end): pieces of segments in order, holes with reasons.

Pure: rows, what the recorders still hold and gaps go in, a timeline comes out. Playlists, clips and
snapshots are made from it, so that all of them agree (docs/architecture.md, "Playback and live").

Nothing that was recorded is left out. Nominal intervals of pieces never overlap; where two
recorders recorded the same seconds the higher epoch has them. Media is cut only between fragments
and decoded only from key frames, so a piece's media may begin up to one GOP before its nominal
start and end up to one fragment after its nominal end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from shared import intervals
from shared.domain import Fragment, Gap, Segment
from shared.intervals import Interval

JOIN_TOLERANCE_US = 500_000
"""Segments of one connection this close run on: their wall times are rounded, `tfdt` is not."""

UNACCOUNTED = "unaccounted"
EXPIRED = "expired"


class Recorded(NamedTuple):
    """One segment as a reader knows it: archived (`key`), or with its recorder (`url`), or both."""

    segment: Segment
    effective: Interval
    key: str = ""
    url: str = ""
    growing: bool = False
    """Still being written: more fragments will come."""
    closed: str = ""
    """Why this viewer may not see it now; empty: may."""


class Piece(NamedTuple):
    """Consecutive fragments of one segment, the first of which begins with a key frame."""

    source: Recorded
    fragments: tuple[Fragment, ...]
    start_us: int
    end_us: int
    continues: bool = False
    """The media runs on from the piece before: same connection, same init section, no hole."""

    @property
    def media_start_us(self) -> int:
        return self.fragments[0].start_us

    @property
    def media_end_us(self) -> int:
        return self.fragments[-1].end_us


class Hole(NamedTuple):
    """Seconds with nothing to play, and why: a gap's reason, `expired` or `unaccounted`."""

    start_us: int
    end_us: int
    reason: str
    detail: str = ""


class Timeline(NamedTuple):
    """Pieces and holes of [start, end), both in order of time."""

    start_us: int
    end_us: int
    pieces: tuple[Piece, ...]
    holes: tuple[Hole, ...]

    def runs(self) -> list[tuple[Piece, ...]]:
        """Pieces that can be joined into one file without re-encoding, in order."""
        found: list[list[Piece]] = []
        for piece in self.pieces:
            if piece.continues and found:
                found[-1].append(piece)
            else:
                found.append([piece])
        return [tuple(run) for run in found]


def build(
    recorded: Iterable[Recorded],
    gaps: Iterable[Gap],
    start_us: int,
    end_us: int,
    until_us: int | None = None,
) -> Timeline:
    """The timeline of [start, end). After `until_us` (the present) nothing counts as a hole yet."""
    items = _once(recorded)
    shares = list(_shares(items, (start_us, end_us)))
    pieces: list[Piece] = []
    hidden: list[Hole] = []
    for item, share in sorted(shares, key=lambda pair: pair[1]):
        if item.closed:
            hidden.append(Hole(*share, item.closed))
        elif (piece := _piece(item, share)) is not None:
            pieces.append(piece)
    linked = _link(pieces)
    limit = end_us if until_us is None else min(end_us, until_us)
    holes = _holes(linked, hidden, list(gaps), (start_us, limit))
    return Timeline(start_us, end_us, tuple(linked), tuple(holes))


def _once(recorded: Iterable[Recorded]) -> list[Recorded]:
    """Each segment once. A segment on its way from the spool to the archive is in both lists: the
    row wins (its effective interval counts), the recorder's address is kept as a second place."""
    found: dict[str, Recorded] = {}
    for item in recorded:
        other = found.get(item.segment.id)
        if other is None:
            found[item.segment.id] = item
            continue
        best, spare = (item, other) if item.key and not other.key else (other, item)
        found[item.segment.id] = best._replace(url=best.url or spare.url)
    return list(found.values())


def _shares(items: Sequence[Recorded], span: Interval) -> Iterator[tuple[Recorded, Interval]]:
    """Which part of the span each segment gives; the higher epoch chooses first."""
    taken: list[Interval] = []
    for item in sorted(items, key=_priority):
        asked = (max(item.effective[0], span[0]), min(item.effective[1], span[1]))
        free = intervals.subtract([asked], taken)
        for share in free:
            yield item, share
        taken = intervals.union([*taken, *free])


def _priority(item: Recorded) -> tuple[int, int, str]:
    return -item.segment.epoch, item.segment.start_us, item.segment.id


def _piece(item: Recorded, share: Interval) -> Piece | None:
    """The fragments that show the share, begun at a key frame; None when none can be decoded."""
    first, last = window(item.segment.fragments, share)
    if first >= last:
        return None
    fragments = item.segment.fragments[first:last]
    start = max(share[0], fragments[0].start_us)
    end = min(share[1], max(fragments[-1].end_us, start + 1))
    return Piece(item, fragments, start, end) if start < end else None


def window(fragments: Sequence[Fragment], span: Interval) -> tuple[int, int]:
    """Indices [first, last) of the fragments needed to decode and show the span.

    From the key frame at or before its start; where there is none, from the first key frame after.
    """
    inside = [
        index
        for index, fragment in enumerate(fragments)
        if intervals.overlaps((fragment.start_us, fragment.end_us), span)
    ]
    if not inside:
        return 0, 0
    first, last = inside[0], inside[-1] + 1
    while first > 0 and not fragments[first].key:
        first -= 1
    while first < last and not fragments[first].key:
        first += 1
    return first, last


def _link(pieces: Sequence[Piece]) -> list[Piece]:
    """Mark the pieces whose media runs on from the one before."""
    linked: list[Piece] = []
    for piece in sorted(pieces, key=lambda each: (each.start_us, each.end_us)):
        runs_on = bool(linked) and _runs_on(linked[-1], piece)
        linked.append(piece._replace(continues=runs_on))
    return linked


def _runs_on(before: Piece, after: Piece) -> bool:
    a, b = before.source.segment, after.source.segment
    return (
        a.id != b.id
        and a.connection_id == b.connection_id
        and a.init_sha256 == b.init_sha256
        and a.timescale == b.timescale
        and before.fragments[-1] == a.fragments[-1]
        and after.fragments[0] == b.fragments[0]
        and before.fragments[-1].base_time < after.fragments[0].base_time
        and abs(after.media_start_us - before.media_end_us) <= JOIN_TOLERANCE_US
    )


def _holes(
    pieces: Sequence[Piece], hidden: Sequence[Hole], gaps: Sequence[Gap], span: Interval
) -> list[Hole]:
    """What no piece shows, each instant once: hidden first, then gap rows, then unaccounted."""
    shown = [(piece.start_us, piece.end_us) for piece in pieces]
    for before, after in pairwise(pieces):
        if after.continues:
            shown.append((before.end_us, after.start_us))
    left = intervals.subtract([span], shown)
    found: list[Hole] = []
    named = [
        *hidden,
        *(
            Hole(gap.start_us, gap.end_us, gap.reason.value, gap.detail)
            for gap in sorted(gaps, key=lambda gap: (-gap.epoch, gap.start_us, gap.id))
        ),
        Hole(span[0], span[1], UNACCOUNTED),
    ]
    for hole in named:
        mine = intervals.intersect(left, [(hole.start_us, hole.end_us)])
        found.extend(hole._replace(start_us=start, end_us=end) for start, end in mine)
        left = intervals.subtract(left, mine)
    return _merged(found)


def _merged(holes: Iterable[Hole]) -> list[Hole]:
    merged: list[Hole] = []
    for hole in sorted(holes):
        last = merged[-1] if merged else None
        if last and last.end_us == hole.start_us and last.reason == hole.reason:
            merged[-1] = last._replace(end_us=hole.end_us)
        else:
            merged.append(hole)
    return merged
