"""Under which dates a time can stand: few, and never too few."""

from __future__ import annotations

from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from services.api.filing import ANY_ZONE, SETTLED_US, Filing
from shared import civil, retention
from shared.clock import DAY_US, HOUR_US
from shared.db.partitions import days_within

ZONES = (
    "Asia/Hong_Kong",
    "Europe/London",
    "Pacific/Apia",
    "America/New_York",
    "Pacific/Kiritimati",
)
FIRST_US = 1_700_000_000_000_000
instants = st.integers(FIRST_US - 3 * DAY_US, FIRST_US + 400 * DAY_US)
zones = st.sets(st.sampled_from(ZONES), min_size=1)


@given(instants, st.integers(0, 31 * DAY_US), zones, st.data())
def test_a_row_stands_on_one_of_them(
    low_us: int, length_us: int, of: set[str], data: st.DataObject
) -> None:
    """Filed under any policy there was; before the first, under any zone there is."""
    first, last = Filing(tuple(sorted(of)), FIRST_US).dates(low_us, low_us + length_us)
    at_us = data.draw(st.integers(low_us, low_us + length_us))
    known = of if low_us >= FIRST_US + SETTLED_US else ZONES
    zone = civil.zone(data.draw(st.sampled_from(sorted(known))))
    assert first <= retention.recording_date(at_us + 1, zone) <= last


def test_an_hour_of_one_zone_is_one_day() -> None:
    filing = Filing(("Asia/Hong_Kong",), FIRST_US)
    noon_us = civil.parse_instant("2026-11-25T12:00:00+08:00", civil.zone("UTC"))
    assert filing.dates(noon_us, noon_us + HOUR_US) == (date(2026, 11, 25), date(2026, 11, 25))
    assert filing.dates(noon_us, noon_us + 13 * HOUR_US)[1] == date(2026, 11, 26)


def test_before_the_first_policy_and_without_one_every_zone_counts() -> None:
    filing = Filing(("Asia/Hong_Kong",), FIRST_US)
    for us in (FIRST_US - DAY_US, FIRST_US, FIRST_US + SETTLED_US - 1):
        assert filing.dates(us, us) == days_within(us, us) == ANY_ZONE.dates(us, us)
