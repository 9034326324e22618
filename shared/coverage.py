"""How much of a time anybody looked at, so that "nothing found" is not taken for "nothing there".

Pure arithmetic on segment rows and gaps; archive writes each segment's sums beside its boxes
(`shared.boxes.seen`), the api adds them up for a search. docs/architecture.md, "archive".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from shared import intervals
from shared.clock import HOUR_US
from shared.intervals import Interval

PENDING_US = HOUR_US
"""What has no sums, or no row, for longer than this is not on its way any more."""


class SegmentSeen(NamedTuple):
    """What a `segment` row says, by the names of its columns (`SegmentSeen._fields`): the sums are
    of its whole recorded interval, and None until the archive has decided them."""

    start_us: int
    end_us: int
    effective_start_us: int
    effective_end_us: int
    analysed_us: int | None
    gated_us: int | None
    dropped_us: int | None


class Coverage(NamedTuple):
    """Microseconds of a time asked, each instant in one of them. Add two cameras' with `plus`."""

    analysed_us: int = 0
    """A detector looked."""
    gated_us: int = 0
    """Nothing moved, so none had to."""
    dropped_us: int = 0
    """Sampled, but nobody looked: too late, too many, no model."""
    pending_us: int = 0
    """Too new: its results, or its recording, are still on their way."""
    unknown_us: int = 0
    """Recorded, and no frame was sampled: detection was off or away."""
    not_recorded_us: int = 0
    """A gap, or gone."""

    @property
    def total_us(self) -> int:
        """The whole time asked, up to now."""
        return sum(self)

    @property
    def looked_share(self) -> float:
        """The share of the time asked that was analysed or seen to be still; 0 of no time."""
        return (self.analysed_us + self.gated_us) / self.total_us if self.total_us else 0.0

    def plus(self, other: Coverage) -> Coverage:
        return Coverage(*(mine + its for mine, its in zip(self, other, strict=True)))


def coverage(
    segments: Iterable[SegmentSeen],
    gaps: Iterable[Interval],
    start_us: int,
    end_us: int,
    now_us: int,
) -> Coverage:
    """Of one camera and [start, end); what lies after `now_us` is no part of it.

    Give every segment and gap that touches the range and that the reader may know of: seconds that
    none of them has are not recorded, but for the newest, whose rows are still to come. A segment
    cut by the range counts in proportion.
    """
    end_us = min(end_us, now_us)
    if end_us <= start_us:
        return Coverage()
    sums = [0] * len(Coverage._fields)
    position = start_us
    for segment in sorted(segments, key=lambda one: one.effective_start_us):
        first = max(segment.effective_start_us, position)
        last = min(segment.effective_end_us, end_us)
        if first < last:
            for index, part_us in enumerate(of_segment(segment, last - first, now_us)):
                sums[index] += part_us
            position = last
    newest_us = max([position, now_us - PENDING_US, *(gap[1] for gap in gaps if gap[0] < end_us)])
    tail_us = max(0, end_us - newest_us)
    missing_us = end_us - start_us - sum(sums) - tail_us
    return Coverage(*sums).plus(Coverage(pending_us=tail_us, not_recorded_us=missing_us))


def of_segment(segment: SegmentSeen, length_us: int, now_us: int) -> Coverage:
    """The sums of a part of a segment, in proportion to its length."""
    if segment.analysed_us is None:
        on_its_way = segment.end_us > now_us - PENDING_US
        return Coverage(pending_us=length_us) if on_its_way else Coverage(unknown_us=length_us)
    whole_us = max(1, segment.end_us - segment.start_us)
    left_us = length_us
    shares = []
    for part_us in (segment.analysed_us, segment.gated_us or 0, segment.dropped_us or 0):
        share_us = min(left_us, part_us * length_us // whole_us)
        shares.append(share_us)
        left_us -= share_us
    return Coverage(shares[0], shares[1], shares[2], unknown_us=left_us)


def split(
    span: Interval,
    analysed: Iterable[Interval],
    gated: Iterable[Interval],
    dropped: Iterable[Interval],
) -> tuple[int, int, int]:
    """Microseconds of the span that were analysed, gated and dropped, each instant counted once,
    under the first of them that has it."""
    left = [span]
    found = []
    for parts in (analysed, gated, dropped):
        mine = intervals.intersect(left, parts)
        left = intervals.subtract(left, mine)
        found.append(intervals.total(mine))
    return found[0], found[1], found[2]
