"""Times at the edge: RFC 3339 or local time in, RFC 3339 with the site's offset out.

A local time that daylight saving skips or repeats is refused, and the answer names both offsets
(shared/civil.py); a reply's offset tells the two apart.
"""

from __future__ import annotations

from datetime import date
from zoneinfo import ZoneInfo

from shared import civil
from shared.errors import Kind, LamppostError

FIRST_US = 0
LAST_US = 7_258_118_400_000_000  # 2200-01-01: far from the calendar's end, where offsets overflow


def instant(text: str, zone: ZoneInfo) -> int:
    """UTC microseconds of a time as a person or program writes it; INVALID says how to write it."""
    # A `+` of an offset arrives as a space where the sender did not escape it in a query.
    head, space, tail = text.strip().rpartition(" ")
    repaired = f"{head}+{tail}" if space and "T" in head and ":" in tail else text
    us = civil.parse_instant(repaired, zone)
    if not FIRST_US <= us <= LAST_US:
        raise LamppostError(
            Kind.INVALID, "The time is not between 1970 and 2200.", fix="Check the year."
        )
    return us


def interval(start: str, end: str, zone: ZoneInfo, *, max_us: int | None = None) -> tuple[int, int]:
    """A half-open interval of two times; INVALID when it is empty, backwards or too long."""
    start_us, end_us = instant(start, zone), instant(end, zone)
    if end_us <= start_us:
        raise LamppostError(
            Kind.INVALID, "The end is not after the start.", fix="Name `start` before `end`."
        )
    if max_us is not None and end_us - start_us > max_us:
        raise LamppostError(
            Kind.INVALID,
            f"The range is longer than {max_us // 1_000_000} seconds.",
            fix="Ask for it in parts.",
        )
    return start_us, end_us


def text(us: int, zone: ZoneInfo) -> str:
    """RFC 3339 with the offset that holds at that instant."""
    return civil.rfc3339(us, zone)


def maybe_text(us: int | None, zone: ZoneInfo) -> str | None:
    return None if us is None else civil.rfc3339(us, zone)


def day(value: str) -> date:
    """A calendar date of the site."""
    try:
        found = date.fromisoformat(value.strip())
    except ValueError as error:
        raise LamppostError(
            Kind.INVALID, f"{value!r} is not a date.", fix="Write 2026-11-25."
        ) from error
    if not 1970 < found.year < 2200:
        raise LamppostError(
            Kind.INVALID, "The date is not between 1971 and 2199.", fix="Check the year."
        )
    return found
