"""Decisions about spool items, as pure functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.archive import filing
from services.archive.filing import Span
from shared import intervals
from shared.errors import LamppostError
from shared.intervals import Interval
from tests.support.archiving import START_US, segment

_spans = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 12), st.integers(1, 3)), min_size=1, max_size=8
).map(
    lambda made: [
        Span(str(number), "cam", start, start + length, epoch)
        for number, (start, length, epoch) in enumerate(made)
    ]
)


def _effective(spans: list[Span]) -> dict[str, Interval]:
    return {
        key: interval
        for cluster in filing.clusters(spans)
        for key, interval in filing.effective(cluster).items()
    }


@given(_spans)
def test_each_second_counts_once_and_none_is_lost(spans: list[Span]) -> None:
    counted = _effective(spans)
    assert set(counted) == {span.id for span in spans}
    assert intervals.union(counted.values()) == intervals.union(span.interval for span in spans)
    assert sum(end - start for start, end in counted.values()) == intervals.total(
        span.interval for span in spans
    )
    for span in spans:
        start, end = counted[span.id]
        assert span.start_us <= start <= end <= span.end_us


@given(_spans, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(spans: list[Span], rng: object) -> None:
    mixed = list(spans)
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    assert _effective(mixed) == _effective(spans)


def test_the_higher_epoch_wins_the_seconds_both_have() -> None:
    spans = [Span("old", "cam", 0, 10, 1), Span("new", "cam", 6, 16, 2)]
    assert _effective(spans) == {"old": (0, 6), "new": (6, 16)}


def test_a_segment_inside_another_counts_for_nothing() -> None:
    spans = [Span("long", "cam", 0, 10, 1), Span("inside", "cam", 3, 5, 2)]
    assert _effective(spans) == {"long": (0, 10), "inside": (3, 3)}


def test_a_segment_that_is_covered_counts_for_nothing() -> None:
    spans = [Span("old", "cam", 3, 5, 1), Span("new", "cam", 0, 10, 2)]
    assert _effective(spans) == {"old": (3, 3), "new": (0, 10)}


def test_a_name_tells_camera_start_and_id() -> None:
    made = segment(camera_id="mk-argyle-01")
    name = filing.ids_name(made.camera_id, made.start_us, made.id)
    assert filing.named(name) == (START_US, "mk-argyle-01", made.id)
    assert filing.named(name + "x") is None
    assert filing.named("../" + name) is None


def test_a_whole_segment_passes() -> None:
    made = segment()
    filing.check_segment(made, filing.ids_name("cam", START_US, made.id), made.size_bytes)
    with pytest.raises(LamppostError):
        filing.check_segment(made, filing.ids_name("cam", START_US, made.id), 5)
