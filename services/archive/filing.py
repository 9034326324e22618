"""Decisions about one spool item as pure functions: is it whole, is it late, when does it expire,
and which part of it counts where two recorders overlap (docs/retention.md, docs/architecture.md,
"Assignment and failover").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date
from typing import NamedTuple

from shared import ids, intervals, retention
from shared.clock import DAY_US, HOUR_US
from shared.domain import Gap, GapReason, Hold, Segment
from shared.errors import Kind, LamppostError
from shared.intervals import Interval
from shared.retention import Facts, Policy, Protection

MAX_SEGMENT_US = HOUR_US
"""No recorder writes longer segments (ingest.segment_s is at most 600): bounds overlap queries."""
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(rf"(\d{{20}})-([a-z0-9-]{{1,63}})-({_UUID.pattern})")


class Accepted(NamedTuple):
    """The segment is stored and indexed so."""

    segment: Segment
    key: str
    recording_date: date
    expires_at_us: int
    policy_version: int
    held: bool


class Refused(NamedTuple):
    """The segment is too late to be kept."""

    segment: Segment
    reason: str


class Named(NamedTuple):
    """What an item's name says, when its sidecar says nothing."""

    start_us: int
    camera_id: str
    item_id: str


def named(name: str) -> Named | None:
    """The parts of a spool item's name; None when it is not one."""
    found = _NAME.fullmatch(name)
    return Named(int(found[1]), found[2], found[3]) if found else None


def check_segment(segment: Segment, name: str, size_bytes: int) -> None:
    """CORRUPT, with what is wrong, unless the sidecar fits its file and itself."""
    problems = [
        ("its id is not a UUID", not _UUID.fullmatch(segment.id)),
        ("its camera id is not one", not ids.CAMERA_ID.match(segment.camera_id)),
        ("its end is not after its start", segment.end_us <= segment.start_us),
        ("its times lie before 1970", segment.start_us < 0),
        ("it is longer than an hour", segment.end_us - segment.start_us > MAX_SEGMENT_US),
        (f"the file has {size_bytes} bytes, not {segment.size_bytes}",
         segment.size_bytes != size_bytes),
        ("its SHA-256 is not one", not _SHA256.fullmatch(segment.sha256)),
        ("its fragments do not fit the file", not _fragments_fit(segment)),
    ]  # fmt: skip
    problems.append(
        (
            "its name is another's",
            name != ids_name(segment.camera_id, segment.start_us, segment.id),
        )
    )
    for text, wrong in problems:
        if wrong:
            raise LamppostError(Kind.CORRUPT, f"The segment cannot be filed: {text}.")


def check_gap(gap: Gap) -> None:
    """CORRUPT unless the gap can be a row."""
    if not (gap.id and len(gap.id) <= 64 and ids.CAMERA_ID.match(gap.camera_id)):
        raise LamppostError(Kind.CORRUPT, "The gap cannot be filed: its id or camera is not one.")
    if gap.end_us <= gap.start_us:
        raise LamppostError(
            Kind.CORRUPT, "The gap cannot be filed: its end is not after its start."
        )


def ids_name(camera_id: str, start_us: int, item_id: str) -> str:
    """As the spool names items."""
    return f"{max(0, start_us):020d}-{camera_id}-{item_id}"


def _fragments_fit(segment: Segment) -> bool:
    position = segment.init_size
    for fragment in segment.fragments:
        if fragment.offset < position or fragment.size <= 0:
            return False
        position = fragment.offset + fragment.size
    return segment.init_size >= 0 and position <= segment.size_bytes


def facts_of(segment: Segment, expires_at_us: int) -> Facts:
    return Facts(
        segment.camera_id,
        segment.start_us,
        segment.end_us,
        expires_at_us,
        segment.clock_uncertainty_us,
    )


def expiry_us(end_us: int, now_us: int, policy: Policy) -> int:
    """When the segment expires; footage from a clock that ran ahead counts as recorded now, so that
    a wrong clock never lengthens retention (edge case 13, invariant 10)."""
    return retention.expires_at_us(min(end_us, now_us), policy)


def decide(
    segment: Segment, policy: Policy, holds: Sequence[Hold], now_us: int, late_max_days: int
) -> Accepted | Refused:
    """Footage is filed with its dates; over `late_max_days` late or already expired it is refused,
    unless a hold keeps it (edge case 12)."""
    expires = expiry_us(segment.end_us, now_us, policy)
    kept, _ = retention.protection(facts_of(segment, expires), holds, now_us)
    held = kept is Protection.HELD
    if not held and kept is not Protection.GRACE:
        days = (now_us - segment.end_us) // DAY_US
        if now_us - segment.end_us > late_max_days * DAY_US:
            return Refused(segment, f"{days} days late; at most {late_max_days} are kept")
        if now_us >= expires:
            return Refused(segment, f"{days} days late and already past its expiry")
    day = retention.recording_date(segment.end_us, policy.zone)
    key = ids.object_key(day, segment.camera_id, segment.start_us, segment.id)
    return Accepted(segment, key, day, expires, policy.version, held)


def lost_gap(segment: Segment, reason: GapReason, detail: str) -> Gap:
    """The gap in place of a segment that is not kept; the same one at every retry."""
    return Gap(
        id=ids.derived_id(reason.value, segment.id),
        camera_id=segment.camera_id,
        start_us=segment.start_us,
        end_us=segment.end_us,
        reason=reason,
        detail=detail[:500],
        recorder=segment.recorder,
        epoch=segment.epoch,
    )


def damaged_gap(item: Named, end_us: int, detail: str) -> Gap:
    """The gap in place of a video whose sidecar says nothing."""
    return Gap(
        id=ids.derived_id(GapReason.SEGMENT_DAMAGED.value, item.item_id),
        camera_id=item.camera_id,
        start_us=item.start_us,
        end_us=max(end_us, item.start_us + 1),
        reason=GapReason.SEGMENT_DAMAGED,
        detail=detail[:500],
    )


class Span(NamedTuple):
    """What the effective interval of a row depends on."""

    id: str
    camera_id: str
    start_us: int
    end_us: int
    epoch: int

    @property
    def interval(self) -> Interval:
        return self.start_us, self.end_us


def clusters(spans: Iterable[Span]) -> list[list[Span]]:
    """Groups of one camera's spans that overlap, directly or through others."""
    found: list[list[Span]] = []
    end = 0
    for span in sorted(spans, key=lambda one: (one.start_us, one.end_us, one.id)):
        if found and span.start_us < end:
            found[-1].append(span)
            end = max(end, span.end_us)
        else:
            found.append([span])
            end = span.end_us
    return found


def effective(cluster: Sequence[Span]) -> dict[str, Interval]:
    """The part of each span that counts, so that each second counts once and none is lost.

    The higher epoch wins; of one epoch the earlier start. A span that would be cut in two by
    better ones inside it keeps its whole middle, and those inside count for nothing: one interval
    is all a row can say, and the seconds are the same.
    """
    taken: dict[str, Interval] = {}
    ranked = sorted(cluster, key=lambda one: (-one.epoch, one.start_us, -one.end_us, one.id))
    for span in ranked:
        pieces = intervals.subtract([span.interval], taken.values())
        if not pieces:
            taken[span.id] = (span.start_us, span.start_us)
            continue
        whole = (pieces[0][0], pieces[-1][1])
        for other, interval in taken.items():
            if len(pieces) > 1 and intervals.overlaps(interval, whole):
                taken[other] = (interval[0], interval[0])
        taken[span.id] = whole
    return taken
