"""Times as people type them: `14:02`, `2026-11-25T14:02`, `+5m`. Pure; the site's zone decides.

A time of day means its most recent occurrence, so that `14:02` never lies ahead.
"""

from __future__ import annotations

import re
from datetime import timedelta
from zoneinfo import ZoneInfo

from shared import civil
from shared.clock import SECOND_US
from shared.errors import Kind, LamppostError

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(s|m|h|d|)$")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_TIME_OF_DAY = re.compile(r"^(\d{1,2}):(\d{2})(?::(\d{2}))?$")


def parse_duration(text: str) -> float:
    """Seconds of `120s`, `5m`, `2h`, `1d` or a plain number."""
    match = _DURATION.match(text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise LamppostError(
            Kind.INVALID, f"{text!r} is not a length of time.", fix="Write 120s, 5m or 2h."
        )
    return float(match[1]) * _UNITS[match[2]]


def parse_range(start: str, end: str, zone: ZoneInfo, now_us: int) -> tuple[str, str]:
    """Both ends as RFC 3339 with the zone's offset; the end may be `+5m` or a time of day."""
    start_us = parse_start(start, zone, now_us)
    text = end.strip()
    if text.startswith("+"):
        end_us = start_us + round(parse_duration(text[1:]) * SECOND_US)
    elif _TIME_OF_DAY.match(text):
        end_us = _on(text, civil.local_date(start_us, zone).isoformat(), zone)
        if end_us <= start_us:
            day = civil.local_date(start_us, zone) + timedelta(days=1)
            end_us = _on(text, day.isoformat(), zone)
    else:
        end_us = civil.parse_instant(text, zone)
    if end_us <= start_us:
        raise LamppostError(Kind.INVALID, "The end must lie after the start.")
    return civil.rfc3339(start_us, zone), civil.rfc3339(end_us, zone)


def parse_start(text: str, zone: ZoneInfo, now_us: int) -> int:
    """UTC microseconds of a time; a time of day is today's, or yesterday's where that is ahead."""
    if not _TIME_OF_DAY.match(text.strip()):
        return civil.parse_instant(text, zone)
    today = civil.local_date(now_us, zone)
    found = _on(text, today.isoformat(), zone)
    if found > now_us:
        found = _on(text, (today - timedelta(days=1)).isoformat(), zone)
    return found


def _on(text: str, day: str, zone: ZoneInfo) -> int:
    match = _TIME_OF_DAY.match(text.strip())
    assert match is not None
    return civil.parse_instant(f"{day}T{int(match[1]):02}:{match[2]}:{match[3] or '00'}", zone)
