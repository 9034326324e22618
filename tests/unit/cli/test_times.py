"""Times as people type them."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from services.cli.times import parse_duration, parse_range, parse_start
from shared import civil
from shared.errors import LamppostError

HONG_KONG = ZoneInfo("Asia/Hong_Kong")
NOW = civil.parse_instant("2026-11-25T14:10:00", HONG_KONG)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("120s", 120), ("1.5m", 90), ("2h", 7200), ("1d", 86_400)]
)
def test_lengths(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5s", "5 weeks", "s", "1e9"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(LamppostError, match="length of time"):
        parse_duration(text)


def test_a_time_of_day_is_the_last_one_that_passed() -> None:
    assert parse_start("14:02", HONG_KONG, NOW) == NOW - 8 * 60_000_000
    assert parse_start("14:30", HONG_KONG, NOW) == NOW - (24 * 60 - 20) * 60_000_000


def test_the_end_may_be_a_length_or_a_time_of_day_or_a_time() -> None:
    start = "2026-11-25T14:02:00.000+08:00"
    assert parse_range("14:02", "+2m", HONG_KONG, NOW) == (start, "2026-11-25T14:04:00.000+08:00")
    assert parse_range("14:02", "14:05", HONG_KONG, NOW)[1] == "2026-11-25T14:05:00.000+08:00"
    assert parse_range("23:50", "00:10", HONG_KONG, NOW) == (
        "2026-11-24T23:50:00.000+08:00",
        "2026-11-25T00:10:00.000+08:00",
    )
    assert parse_range("2026-11-25T06:02Z", "2026-11-25T14:03", HONG_KONG, NOW) == (
        start,
        "2026-11-25T14:03:00.000+08:00",
    )


@pytest.mark.parametrize(
    ("start", "end"), [("14:02", "2026-11-25T14:01"), ("nonsense", "+5m"), ("25:00", "+5m")]
)
def test_impossible_ranges_are_refused(start: str, end: str) -> None:
    with pytest.raises(LamppostError):
        parse_range(start, end, HONG_KONG, NOW)


def test_a_doubled_local_time_asks_for_the_offset() -> None:
    london = ZoneInfo("Europe/London")
    now = civil.parse_instant("2026-10-25T12:00:00Z", london)
    with pytest.raises(LamppostError, match="happens twice"):
        parse_range("01:30", "+5m", london, now)
