"""How a whole recording date leaves a database with a partition a day, as pure functions.

Segments are purged claim by claim, so that each has its tombstone. What grows with them row by row
(sightings, pictures, fragment tables) leaves with its day: one swap of the day's partition for one
that contains only what must stay. What must stay is given here as ranges of time, a superset by
construction: the exact rule is asked row by row of what remains (docs/retention.md, "How a purge
runs").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from shared import civil, intervals, retention
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.domain import Hold, HoldKind
from shared.intervals import Interval
from shared.retention import GRACE_US, MIN_UNCERTAINTY_US, HoldState, Policy
from shared.sightings import LONGEST_ROW_S

FEW = 2_000
"""So many rows are deleted one by one: a swap stops every user of the table for a moment."""
SHARE_MAX = 0.5
"""Where more than this of a day stays, copying it costs more than deleting the rest."""
ROWS_AFTER_US = 3 * HOUR_US
"""A swap that is refused for so long gives up: the bytes' limit of invariant 4 is for rows too."""
RANGES_MAX = 2_000
LONGEST_US = LONGEST_ROW_S * SECOND_US
NEVER_US = -(2**62)


class Range(NamedTuple):
    """Time of a camera, of which rows stay or are looked for."""

    camera_id: str
    start_us: int
    end_us: int
    from_us: int
    """Where what overlaps it may begin: no row is longer than `LONGEST_US`, and what begins before
    the camera's range before it ends and overlaps this one overlaps that one too, so that each row
    belongs to one range."""


class DayFacts(NamedTuple):
    """What is left of a recording date that is over. Counts are exact up to `FEW` + 1."""

    over_us: int
    segments: bool
    fragments_alone: int
    """Fragment tables whose segment is gone."""
    sightings: bool
    sightings_alone: int
    """Those that are expired and lie in no range that stays."""
    kept_share: float
    made_ahead: bool
    """The day's empty partitions would be made anew at once."""


class How(StrEnum):
    """By which way rows go."""

    NOT = "not"
    ROWS = "rows"
    SWAP = "swap"


class Decision(NamedTuple):
    """What to do about a day."""

    fragments: How
    sightings: How
    drop: bool
    """No segment and no sighting is left: the day's partitions go, with what belongs to none."""


def over_us(day: date, policy: Policy) -> int:
    """When everything recorded on that date has expired."""
    end_us = civil.midnight_us(day + timedelta(days=1), policy.zone)
    return retention.expires_at_us(end_us, policy)


def decide(facts: DayFacts, now_us: int, few: int = FEW) -> Decision:
    """For a day that is over; before that nothing. Up to `few` rows are deleted one by one."""
    if now_us < facts.over_us:
        return Decision(How.NOT, How.NOT, False)
    patient = now_us < facts.over_us + ROWS_AFTER_US
    worth_it = patient and facts.kept_share <= SHARE_MAX
    if not facts.segments and not facts.sightings and not facts.made_ahead:
        return Decision(How.NOT, How.NOT, True)
    return Decision(
        _how(facts.fragments_alone, few, worth_it),
        _how(facts.sightings_alone, few, worth_it),
        False,
    )


def _how(alone: int, few: int, worth_it: bool) -> How:
    if not alone:
        return How.NOT
    return How.SWAP if alone > few and worth_it else How.ROWS


def ranges(
    segments: Iterable[tuple[str, int, int]],
    unexpired: Iterable[tuple[str, int, int]],
    holds: Sequence[Hold],
    now_us: int,
    most: int = RANGES_MAX,
) -> tuple[Range, ...]:
    """Every time whose sightings may have to stay: of segments that are still there, of rows that
    are not expired, and of holds that keep something now."""
    spans: dict[str, list[Interval]] = {}
    for camera_id, start_us, end_us in (*segments, *unexpired):
        # One that lasts no time is a point, and still a row.
        spans.setdefault(camera_id, []).append((start_us - 1, max(end_us, start_us) + 1))
    for hold in holds:
        if may_keep(hold, now_us):
            wide = (hold.start_us - MIN_UNCERTAINTY_US - 1, hold.end_us + MIN_UNCERTAINTY_US + 1)
            for camera_id in hold.camera_ids:
                spans.setdefault(camera_id, []).append(wide)
    merged = {camera_id: _merged(found, 0) for camera_id, found in spans.items()}
    if sum(map(len, merged.values())) > most:
        merged = {camera_id: _merged(found, DAY_US) for camera_id, found in spans.items()}
    return tuple(
        Range(camera_id, start_us, end_us, max(start_us - LONGEST_US, before_us))
        for camera_id, found in sorted(merged.items())
        for (_, before_us), (start_us, end_us) in pairwise([(0, NEVER_US), *found])
    )


def between(
    spans: Mapping[str, Interval], segments: Iterable[tuple[str, int, int]]
) -> tuple[Range, ...]:
    """Of each camera's span the times without a segment."""
    there: dict[str, list[Interval]] = {}
    for camera_id, start_us, end_us in segments:
        there.setdefault(camera_id, []).append((start_us, end_us))
    return tuple(
        Range(camera_id, start_us, end_us, start_us)
        for camera_id, span in sorted(spans.items())
        for start_us, end_us in intervals.subtract([span], there.get(camera_id, ()))
    )


def may_keep(hold: Hold, now_us: int) -> bool:
    """Whether there is an expiry at which the hold keeps something now; grace counts at any."""
    found = retention.hold_end(hold)
    if found is None:
        return True
    end_us, state = found
    graced = state is not HoldState.LAPSED and hold.kind is HoldKind.OFFICER
    return now_us < (end_us + GRACE_US if graced else end_us)


def kept_share(found: Sequence[Range], cameras: int, day: date, policy: Policy) -> float:
    """About how much of a day's rows lies in the ranges, 0 to 1."""
    begin_us, end_us = civil.day_bounds_us(day, policy.zone)
    within = sum(max(0, min(one.end_us, end_us) - max(one.start_us, begin_us)) for one in found)
    return within / ((end_us - begin_us) * cameras) if cameras else 0.0


def _merged(spans: Sequence[Interval], nearer_us: int) -> list[Interval]:
    """Their union, with what lies nearer together than that made one."""
    found: list[Interval] = []
    for start_us, end_us in intervals.union(spans):
        if found and start_us - found[-1][1] <= nearer_us:
            found[-1] = (found[-1][0], max(found[-1][1], end_us))
        else:
            found.append((start_us, end_us))
    return found


def days_of(partitions: Iterable[str], tables: Iterable[str]) -> Mapping[date, set[str]]:
    """The recording dates of partitions' names (`schema.table_YYYYMMDD`), and of which tables."""
    known = set(tables)
    found: dict[date, set[str]] = {}
    for name in partitions:
        table, _, digits = name.partition(".")[2].rpartition("_")
        if table in known and len(digits) == 8 and digits.isdigit():
            day = date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
            found.setdefault(day, set()).add(table)
    return found
