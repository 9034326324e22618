"""The ledger counts each instant of a day exactly once (architecture.md, invariant 6)."""

from __future__ import annotations

from datetime import date

from hypothesis import given, settings
from hypothesis import strategies as st

from shared import civil
from shared.clock import HOUR_US
from shared.ledger import Entry, Facts, Kind, account

interval = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: tuple(sorted(pair)))
intervals = st.lists(interval, max_size=6)
reasons = st.sampled_from(["silent", "frozen", "disabled"])
facts = st.builds(
    Facts,
    recorded=intervals,
    held=intervals,
    expired=intervals,
    gaps=st.lists(st.tuples(interval, reasons), max_size=6),
    active_from_us=st.none() | st.integers(0, 60),
    active_until_us=st.none() | st.integers(0, 60),
    waiting=st.lists(st.tuples(interval, st.sampled_from(["rec-a", "rec-b"])), max_size=6),
)


def inside(instant: int, claims: list[tuple[int, int]]) -> bool:
    return any(start <= instant < end for start, end in claims)


def naive(instant: int, known: Facts, now: int, pending: int) -> Kind:
    """The kind of one instant, by the order of the module's text."""
    if inside(instant, list(known.recorded)):
        return Kind.RECORDED
    if inside(instant, list(known.held)):
        return Kind.HELD
    if inside(instant, list(known.expired)):
        return Kind.EXPIRED
    if inside(instant, [claim for claim, _ in known.waiting]):
        return Kind.PENDING
    if inside(instant, [claim for claim, _ in known.gaps]):
        return Kind.GAP
    if instant >= now:
        return Kind.FUTURE
    if known.active_from_us is not None and instant < known.active_from_us:
        return Kind.INACTIVE
    if known.active_until_us is not None and instant >= known.active_until_us:
        return Kind.INACTIVE
    return Kind.PENDING if instant >= now - pending else Kind.UNACCOUNTED


@settings(max_examples=80, deadline=None)
@given(facts, interval, st.integers(0, 70), st.integers(0, 30))
def test_each_instant_is_counted_once_and_by_the_first_claim(
    known: Facts, span: tuple[int, int], now: int, pending: int
) -> None:
    start, end = span
    ledger = account(start, end, known, now_us=now, pending_us=pending)
    position = start
    for entry in ledger.entries:
        assert entry.start_us == position < entry.end_us, "disjoint, in order, without a hole"
        position = entry.end_us
        for instant in range(entry.start_us, entry.end_us):
            assert entry.kind is naive(instant, known, now, pending)
    assert position == max(start, end)
    assert sum(ledger.total_us(kind) for kind in Kind) == end - start
    assert sum(ledger.gaps_us().values()) == ledger.total_us(Kind.GAP)
    assert sum(ledger.pending_us().values()) == ledger.total_us(Kind.PENDING)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["Asia/Hong_Kong", "Europe/London", "Australia/Lord_Howe"]),
    st.dates(date(2024, 1, 1), date(2028, 12, 31)),
    st.lists(st.tuples(st.integers(-90_000, 90_000), st.integers(1, 7_200)), max_size=8),
)
def test_a_days_ledger_has_the_days_length(
    zone_name: str, day: date, recorded_s: list[tuple[int, int]]
) -> None:
    zone = civil.zone(zone_name)
    start, end = civil.day_bounds_us(day, zone)
    recorded = [
        (start + at * 1_000_000, start + (at + length) * 1_000_000) for at, length in recorded_s
    ]
    ledger = account(start, end, Facts(recorded=recorded), now_us=end)
    assert sum(ledger.total_us(kind) for kind in Kind) == end - start


def test_days_of_daylight_saving_have_23_and_25_hours() -> None:
    london = civil.zone("Europe/London")
    for day, hours in ((date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 6, 1), 24)):
        start, end = civil.day_bounds_us(day, london)
        ledger = account(start, end, Facts(), now_us=end)
        assert ledger.entries == (Entry(start, end, Kind.UNACCOUNTED),)
        assert ledger.total_us(Kind.UNACCOUNTED) == hours * HOUR_US


def test_a_gap_keeps_its_reason_and_gives_way_to_what_was_recorded() -> None:
    known = Facts(recorded=[(0, 10)], gaps=[((5, 20), "silent"), ((20, 30), "disabled")])
    ledger = account(0, 40, known, now_us=100)
    assert ledger.entries == (
        Entry(0, 10, Kind.RECORDED),
        Entry(10, 20, Kind.GAP, "silent"),
        Entry(20, 30, Kind.GAP, "disabled"),
        Entry(30, 40, Kind.UNACCOUNTED),
    )
    assert ledger.total_us(Kind.GAP, "silent") == 10
