"""The rule as pure functions: expiry in every zone and season, holds, access."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared import civil, retention
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.domain import Hold, HoldKind, HoldReason
from shared.errors import LamppostError
from shared.retention import Access, Facts, Policy, Protection

ZONES = [
    "Asia/Hong_Kong",
    "Europe/London",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Cairo",
    "America/Santiago",
    "Asia/Beirut",
    "Pacific/Apia",
    "Asia/Kathmandu",
    "UTC",
]
instants = st.integers(
    civil.to_us(datetime(2000, 1, 1, tzinfo=UTC)), civil.to_us(datetime(2060, 1, 1, tzinfo=UTC))
)
seams = st.sampled_from(
    [
        civil.to_us(datetime(*parts, tzinfo=UTC))
        for parts in (
            (2024, 2, 28, 16), (2024, 2, 29, 15, 59, 59), (2024, 2, 29, 16), (2023, 12, 31, 16),
            (2024, 3, 31, 1), (2024, 10, 27, 1), (2024, 3, 30, 23, 59, 59), (2024, 10, 26, 23),
            (2028, 1, 30, 12), (2100, 2, 28, 12), (2011, 12, 30, 10),
        )
    ]
)  # fmt: skip
policies = st.builds(
    Policy,
    st.just(1),
    st.integers(1, 30),
    st.sampled_from(["civil_date", "instant"]),
    st.sampled_from(ZONES),
)


def at(text: str, zone: str = "Asia/Hong_Kong") -> int:
    return civil.parse_instant(text, ZoneInfo(zone))


HONG_KONG = Policy(1, 30, "civil_date", "Asia/Hong_Kong")


@pytest.mark.parametrize(
    ("end", "expires"),
    [
        ("2024-04-16T00:01", "2024-05-17T00:00"),
        ("2024-04-16T23:59", "2024-05-17T00:00"),
        ("2024-04-17T00:00", "2024-05-17T00:00"),
        ("2024-04-17T00:00:00.000001", "2024-05-18T00:00"),
        ("2024-01-30T12:00", "2024-03-01T00:00"),
        ("2023-01-30T12:00", "2023-03-02T00:00"),
        ("2023-12-31T12:00", "2024-01-31T00:00"),
    ],
)
def test_thirty_whole_days_follow_the_recording_date(end: str, expires: str) -> None:
    assert retention.expires_at_us(at(end), HONG_KONG) == at(expires)


@pytest.mark.parametrize(
    ("end", "expires"),
    [
        ("2024-03-01T12:00", "2024-04-01T00:00"),  # summer time begins on its way
        ("2024-10-01T12:00", "2024-11-01T00:00"),  # and ends
        ("2024-03-31T02:30", "2024-05-01T00:00"),  # the day of 23 hours
        ("2024-10-27T12:00", "2024-11-27T00:00"),  # the day of 25 hours
    ],
)
def test_edge_07_london_expires_at_local_midnight(end: str, expires: str) -> None:
    policy = Policy(1, 30, "civil_date", "Europe/London")
    assert retention.expires_at_us(at(end, "Europe/London"), policy) == at(expires, "Europe/London")


@given(st.one_of(instants, seams), policies)
@settings(max_examples=300, deadline=None)
def test_edge_07_never_early_never_over_a_day_late(end_us: int, policy: Policy) -> None:
    """Daylight saving, leap days and year ends: in civil days by an independent count."""
    expires = retention.expires_at_us(end_us, policy)
    if policy.basis == "instant":
        assert expires == end_us + policy.retention_days * DAY_US
        return
    zone = policy.zone
    recorded = datetime.fromtimestamp((end_us - 1) // SECOND_US, zone).date()
    last_kept = datetime.fromtimestamp(expires // SECOND_US - 1, zone).date()
    first_gone = datetime.fromtimestamp(expires // SECOND_US, zone).date()
    assert first_gone > last_kept
    assert first_gone >= recorded + timedelta(days=policy.retention_days + 1)
    kept_days = (last_kept - recorded).days
    assert kept_days <= policy.retention_days
    assert kept_days == policy.retention_days or policy.timezone == "Pacific/Apia"


@given(st.one_of(instants, seams), policies, st.integers(-2, 2))
@settings(max_examples=300, deadline=None)
def test_expired_before_is_the_inverse_of_the_expiry(
    now_us: int, policy: Policy, step: int
) -> None:
    edge = retention.expired_before_us(now_us, policy)
    assert retention.expires_at_us(edge, policy) <= now_us
    assert retention.expires_at_us(edge + 1, policy) > now_us
    end_us = edge + step
    assert (retention.expires_at_us(end_us, policy) <= now_us) is (end_us <= edge)


@given(st.one_of(instants, seams), st.integers(1, DAY_US), policies)
@settings(max_examples=200, deadline=None)
def test_later_footage_never_expires_earlier(end_us: int, step_us: int, policy: Policy) -> None:
    assert retention.expires_at_us(end_us, policy) <= retention.expires_at_us(
        end_us + step_us, policy
    )


@given(instants, policies, policies, st.integers(-40 * DAY_US, 40 * DAY_US))
@settings(max_examples=200, deadline=None)
def test_a_new_policy_never_lengthens_and_never_reaches_back(
    end_us: int, old: Policy, new: Policy, since_us: int
) -> None:
    stored = retention.expires_at_us(end_us, old)
    new = new._replace(effective_from_us=end_us + since_us)
    expires = retention.effective_expiry_us(stored, end_us, new)
    assert expires <= stored
    assert expires >= min(stored, new.effective_from_us)


@given(st.dates(date(2000, 1, 1), date(2060, 1, 1)), st.sampled_from(ZONES))
@settings(max_examples=300, deadline=None)
@example(date(2011, 12, 30), "Pacific/Apia")
@example(date(2024, 9, 8), "America/Santiago")
@example(date(2024, 4, 26), "Africa/Cairo")
def test_days_meet_without_gap_or_overlap(day: date, name: str) -> None:
    zone = ZoneInfo(name)
    first, last = civil.day_bounds_us(day, zone)
    assert last == civil.day_bounds_us(day + timedelta(days=1), zone)[0]
    if last > first:
        assert civil.local_date(first, zone) == day == civil.local_date(last - 1, zone)
        assert civil.local_date(first - 1, zone) < day
    hours = (last - first) / HOUR_US
    assert hours in (23, 23.5, 24, 24.5, 25) or (name == "Pacific/Apia" and hours == 0)


def test_a_gap_that_begins_before_midnight_starts_the_day_at_its_end() -> None:
    zone = ZoneInfo("America/Toronto")
    first = civil.midnight_us(date(1919, 3, 31), zone)
    assert civil.to_datetime(first, zone).strftime("%H:%M") == "00:30"
    assert civil.local_date(first - 1, zone) == date(1919, 3, 30)


def test_local_times_that_daylight_saving_skips_or_repeats_are_refused() -> None:
    london = ZoneInfo("Europe/London")
    for text in ("2024-03-31T01:30", "2024-10-27T01:30"):
        with pytest.raises(LamppostError) as caught:
            civil.parse_instant(text, london)
        assert "+00:00" in str(caught.value) and "+01:00" in str(caught.value)
    assert civil.parse_instant("2024-10-27T01:30+00:00", london) == at("2024-10-27T01:30Z")


FACTS = Facts("cam", 100 * DAY_US, 100 * DAY_US + 60 * SECOND_US, 130 * DAY_US, 0)
EXPIRY = FACTS.expires_at_us


def hold(name: str = "h", **changes: Any) -> Hold:
    values: dict[str, Any] = {
        "id": name,
        "camera_ids": ("cam",),
        "start_us": FACTS.start_us,
        "end_us": FACTS.end_us,
        "case_ref": "c",
        "reason": HoldReason.COURT_ORDER,
        "requester_id": "me",
        "placed_at_us": EXPIRY - DAY_US,
    }
    return Hold(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "covered"),
    [
        ({}, True),
        ({"camera_ids": ("other",)}, False),
        ({"end_us": FACTS.start_us - 2 * SECOND_US}, False),
        ({"start_us": FACTS.start_us - DAY_US, "end_us": FACTS.start_us - 2 * SECOND_US + 1}, True),
        ({"start_us": FACTS.end_us + 2 * SECOND_US, "end_us": FACTS.end_us + DAY_US}, False),
        ({"start_us": FACTS.end_us + 2 * SECOND_US - 1, "end_us": FACTS.end_us + DAY_US}, True),
    ],
)
def test_cover_is_widened_by_two_seconds(changes: dict[str, Any], covered: bool) -> None:
    start = min(FACTS.start_us, changes.get("end_us", FACTS.end_us) - 1)
    found = hold(**{"start_us": start, **changes})
    assert retention.covers(found, "cam", FACTS.start_us, FACTS.end_us, 0) is covered


def test_a_segment_without_length_can_be_held() -> None:
    point = FACTS.start_us
    assert retention.covers(hold(), "cam", point, point, 0)


def test_a_lapse_gives_no_grace_and_a_release_after_expiry_does() -> None:
    lapse = EXPIRY + HOUR_US
    assert retention.protection(FACTS, [hold(lapses_at_us=lapse)], lapse) == (
        Protection.NONE,
        None,
    )
    for end in ("released_at_us", "ends_at_us"):
        ended = hold(**{end: lapse})
        assert retention.protection(FACTS, [ended], lapse) == (
            Protection.GRACE,
            lapse + 72 * HOUR_US,
        )
        assert retention.protection(FACTS, [ended], lapse + 72 * HOUR_US)[0] is Protection.NONE
        early = hold(**{end: EXPIRY - 1})
        assert retention.protection(FACTS, [early], EXPIRY)[0] is Protection.NONE
    system = hold(kind=HoldKind.SYSTEM, released_at_us=lapse)
    assert retention.protection(FACTS, [system], lapse)[0] is Protection.NONE


def test_a_hold_binds_only_what_was_not_due_when_it_was_placed() -> None:
    late = hold("late", placed_at_us=EXPIRY)
    assert retention.binding(FACTS, [late]) == []
    assert retention.access(FACTS, [late], EXPIRY + 1) is Access.CLOSED
    first = hold("first", released_at_us=EXPIRY + HOUR_US)
    again = hold("again", placed_at_us=EXPIRY + 73 * HOUR_US - 1)
    chain = hold("chain", placed_at_us=EXPIRY + 80 * HOUR_US)
    found = retention.binding(FACTS, [chain, again, first])
    assert [one.id for one in found] == ["first", "again", "chain"]
    missed = hold("again", placed_at_us=EXPIRY + 73 * HOUR_US)
    assert [one.id for one in retention.binding(FACTS, [missed, first])] == ["first"]
    clip = hold("clip", kind=HoldKind.SYSTEM, lapses_at_us=EXPIRY + 2 * HOUR_US)
    assert retention.binding(FACTS, [clip, hold("x", placed_at_us=EXPIRY + 1)]) == [clip]


def test_access_stops_at_expiry_for_all_but_the_holds_officers() -> None:
    found = [hold(officers=("me", "colleague"))]
    assert retention.access(FACTS, found, EXPIRY - 1, "anybody") is Access.OPEN
    assert retention.access(FACTS, found, EXPIRY, "anybody") is Access.CLOSED
    for viewer in ("me", "colleague", None):
        assert retention.access(FACTS, found, EXPIRY, viewer) is Access.HOLD_ONLY
    assert retention.access(FACTS, [], EXPIRY) is Access.CLOSED
    released = [hold(released_at_us=EXPIRY + 1)]
    assert retention.access(FACTS, released, EXPIRY + 2, "me") is Access.CLOSED


hold_ends = st.one_of(st.none(), st.integers(EXPIRY - 5 * DAY_US, EXPIRY + 9 * DAY_US))
some_holds = st.lists(
    st.builds(
        lambda placed, lapse, end, released: hold(
            f"h{placed}",
            placed_at_us=placed,
            lapses_at_us=max(lapse or placed + 72 * HOUR_US, placed + 1),
            ends_at_us=None if end is None else max(end, placed + 1),
            released_at_us=None if released is None else max(released, placed + 1),
        ),
        st.integers(EXPIRY - 5 * DAY_US, EXPIRY + 5 * DAY_US),
        hold_ends,
        hold_ends,
        hold_ends,
    ),
    max_size=5,
)


@given(some_holds, st.integers(EXPIRY - 6 * DAY_US, EXPIRY + 12 * DAY_US))
@settings(max_examples=400, deadline=None)
def test_protection_never_comes_back_once_footage_is_due(found: list[Hold], now_us: int) -> None:
    """What may be purged now may be purged at any later time, with the same holds."""
    is_due = now_us >= EXPIRY and retention.protection(FACTS, found, now_us)[0] is Protection.NONE
    if is_due:
        for later in (now_us + 1, now_us + HOUR_US, now_us + 3 * DAY_US):
            standing = [one for one in found if one.placed_at_us <= now_us]
            assert retention.protection(FACTS, standing, later)[0] is Protection.NONE
            late = hold("late", placed_at_us=now_us)
            assert retention.protection(FACTS, [*standing, late], later)[0] is Protection.NONE
    elif now_us >= EXPIRY:
        state, until = retention.protection(FACTS, found, now_us)
        assert until is None or until > now_us
        viewable = retention.access(FACTS, found, now_us) is Access.HOLD_ONLY
        assert viewable is (state is Protection.HELD)
