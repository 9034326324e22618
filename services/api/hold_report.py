"""What a hold keeps, as a pure function from rows to a report (docs/retention.md, "Holds").

Every second asked for ends in exactly one list: preserved, a gap, or not preserved with its reason.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec
from sqlalchemy import RowMapping

from shared import intervals, retention
from shared.clock import SECOND_US
from shared.db.rows import facts_of
from shared.domain import Gap, Hold
from shared.intervals import Interval
from shared.retention import Facts, HoldState, Policy

FILING_US = 300 * SECOND_US
"""What was recorded so lately may still be on its way from the recorder to the archive."""


class Why(StrEnum):
    """Why a part of what was asked for is not preserved."""

    EXPIRED = "expired"
    BEING_PURGED = "being_purged"
    PURGED = "purged"
    BYTES_MISSING = "bytes_missing"
    TAG_PENDING = "tag_pending"
    """In force and safe from the purge; the object store has not confirmed its tag yet."""


class Part(msgspec.Struct, frozen=True):
    """Seconds of one camera."""

    camera_id: str
    start_us: int
    end_us: int


class Unkept(msgspec.Struct, frozen=True):
    """Seconds of one camera without a preserved recording, and why: a gap's reason, a `Why`,
    `to_come`, `not_filed_yet` or `unaccounted`."""

    camera_id: str
    start_us: int
    end_us: int
    reason: str


class HoldReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a hold's placement, and its state at any later time."""

    hold: Hold
    state: HoldState
    at_us: int
    asked: tuple[Part, ...]
    preserved: tuple[Part, ...]
    margin: tuple[Part, ...]
    """Kept beyond the request, because segments are kept whole."""
    gaps: tuple[Unkept, ...]
    not_preserved: tuple[Unkept, ...]
    segments: int
    size_bytes: int

    @property
    def partial(self) -> bool:
        """Something asked for is not preserved: the api answers 207, never plain success."""
        return bool(self.not_preserved)


class Rows(NamedTuple):
    """What the database says of the hold's cameras and range."""

    segments: Sequence[RowMapping]
    gaps: Sequence[Gap]
    purged: Mapping[str, list[Interval]]
    holds: Sequence[Hold]
    """Every hold that touches them, the reported one among them."""


def facts(row: RowMapping, policy: Policy) -> Facts:
    """A row's facts with the expiry that counts."""
    stored = facts_of(row)
    expires_us = retention.effective_expiry_us(stored.expires_at_us, stored.end_us, policy)
    return stored._replace(expires_at_us=expires_us)


def bound(hold: Hold, rows: Rows, policy: Policy) -> list[RowMapping]:
    """The rows that the hold keeps: live, and readable or kept when it was placed."""
    return [
        row
        for row in rows.segments
        if row["state"] == "live"
        and any(found.id == hold.id for found in retention.binding(facts(row, policy), rows.holds))
    ]


def compose(
    hold: Hold,
    rows: Rows,
    policy: Policy,
    now_us: int,
    missing: Collection[str] = (),
    pending: Collection[str] = (),
) -> HoldReport:
    """The report; `missing` are keys without bytes, `pending` keys whose tag is not confirmed."""
    kept = bound(hold, rows, policy)
    kept_ids = {row["id"] for row in kept}
    preserved: list[Part] = []
    margin: list[Part] = []
    gaps: list[Unkept] = []
    lost: list[Unkept] = []
    for camera_id in hold.camera_ids:
        left: list[Interval] = [(hold.start_us, hold.end_us)]
        of_camera = [row for row in rows.segments if row["camera_id"] == camera_id]
        sure = [
            (row["start_us"], row["end_us"])
            for row in of_camera
            if row["id"] in kept_ids and row["key"] not in missing and row["key"] not in pending
        ]
        preserved += _parts(camera_id, intervals.intersect(left, sure))
        margin += _parts(camera_id, intervals.subtract(sure, left))
        left = intervals.subtract(left, sure)
        gone = rows.purged.get(camera_id, [])
        for why, spans in _lost(of_camera, kept_ids, missing, pending, gone):
            lost += _unkept(camera_id, intervals.intersect(left, spans), why.value)
            left = intervals.subtract(left, spans)
        for gap in rows.gaps:
            if gap.camera_id == camera_id:
                known = [(gap.start_us, gap.end_us)]
                gaps += _unkept(camera_id, intervals.intersect(left, known), gap.reason.value)
                left = intervals.subtract(left, known)
        for reason, span in _empty(policy, hold, now_us):
            target = lost if reason == Why.EXPIRED else gaps
            target += _unkept(camera_id, intervals.intersect(left, [span]), reason)
            left = intervals.subtract(left, [span])
    return HoldReport(
        hold=hold,
        state=retention.hold_state(hold, now_us),
        at_us=now_us,
        asked=tuple(Part(camera_id, hold.start_us, hold.end_us) for camera_id in hold.camera_ids),
        preserved=tuple(preserved),
        margin=tuple(margin),
        gaps=_merged(gaps),
        not_preserved=_merged(lost),
        segments=len(kept),
        size_bytes=sum(row["size_bytes"] for row in kept),
    )


def _lost(
    of_camera: Sequence[RowMapping],
    kept_ids: Collection[str],
    missing: Collection[str],
    pending: Collection[str],
    purged: Sequence[Interval],
) -> list[tuple[Why, list[Interval]]]:
    """What was recorded and is not preserved, by reason; the first reason counts."""
    spans: dict[Why, list[Interval]] = {why: [] for why in Why}
    for row in of_camera:
        span = (row["start_us"], row["end_us"])
        if row["id"] in kept_ids:
            if row["key"] in missing:
                spans[Why.BYTES_MISSING].append(span)
            elif row["key"] in pending:
                spans[Why.TAG_PENDING].append(span)
        elif row["state"] != "live":
            spans[Why.BEING_PURGED].append(span)
        else:
            spans[Why.EXPIRED].append(span)
    spans[Why.PURGED].extend(purged)
    return list(spans.items())


def _empty(policy: Policy, hold: Hold, now_us: int) -> list[tuple[str, Interval]]:
    """What to call seconds that no row speaks of. Nothing is guessed: what should have a row and
    has none is unaccounted."""
    expired_us = retention.expired_before_us(hold.placed_at_us, policy)
    far = max(hold.end_us, now_us) + 1
    filing_us = max(expired_us, now_us - FILING_US)
    return [
        (Why.EXPIRED.value, (min(hold.start_us, expired_us), expired_us)),
        ("unaccounted", (expired_us, filing_us)),
        ("not_filed_yet", (filing_us, now_us)),
        ("to_come", (now_us, far)),
    ]


def _parts(camera_id: str, spans: Sequence[Interval]) -> list[Part]:
    return [Part(camera_id, start, end) for start, end in spans]


def _unkept(camera_id: str, spans: Sequence[Interval], reason: str) -> list[Unkept]:
    return [Unkept(camera_id, start, end, reason) for start, end in spans]


def _merged(parts: Sequence[Unkept]) -> tuple[Unkept, ...]:
    """Adjoining seconds of one camera and reason as one part, in order of time."""
    spans: dict[tuple[str, str], list[Interval]] = {}
    for part in parts:
        spans.setdefault((part.camera_id, part.reason), []).append((part.start_us, part.end_us))
    found = [
        Unkept(camera_id, start, end, reason)
        for (camera_id, reason), known in spans.items()
        for start, end in intervals.union(known)
    ]
    return tuple(sorted(found, key=lambda part: (part.camera_id, part.start_us)))
