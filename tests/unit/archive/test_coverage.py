"""Each second of a time asked is in exactly one sum, and in the right one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.clock import HOUR_US
from shared.coverage import PENDING_US, Coverage, SegmentSeen, coverage, split

NOW = 100 * HOUR_US


def seen(
    start: int,
    end: int,
    sums: tuple[int, int, int] | None,
    effective: tuple[int, int] | None = None,
) -> SegmentSeen:
    first, last = effective or (start, end)
    return SegmentSeen(start, end, first, last, *(sums or (None, None, None)))


def test_each_kind_of_second_has_its_name() -> None:
    found = coverage(
        [seen(0, 100, (50, 20, 10)), seen(100, 200, None), seen(300, 400, (0, 0, 0))],
        [(200, 300)],
        0,
        500,
        NOW,
    )
    assert found == Coverage(
        analysed_us=50, gated_us=20, dropped_us=10, unknown_us=20 + 100 + 100, not_recorded_us=200
    )
    assert found.looked_share == 70 / 500


def test_the_newest_seconds_are_on_their_way() -> None:
    start = NOW - 1_000
    rows = [seen(start, start + 400, (400, 0, 0)), seen(start + 400, start + 600, None)]
    found = coverage(rows, [(start + 600, start + 700)], start, NOW + 5_000, NOW)
    assert found == Coverage(analysed_us=400, pending_us=200 + 300, not_recorded_us=100)


def test_what_never_got_a_row_is_not_on_its_way_for_ever() -> None:
    found = coverage([], [], NOW - 2 * PENDING_US, NOW, NOW)
    assert found == Coverage(pending_us=PENDING_US, not_recorded_us=PENDING_US)


def test_a_segment_cut_by_the_range_counts_in_proportion() -> None:
    rows = [seen(0, 1_000, (500, 250, 0))]
    assert coverage(rows, [], 900, 1_000, NOW) == Coverage(
        analysed_us=50, gated_us=25, unknown_us=25
    )


def test_no_time_is_no_share() -> None:
    assert coverage([], [], 10, 10, NOW) == Coverage()
    assert coverage([], [], NOW + 1, NOW + 9, NOW).looked_share == 0.0


spans = st.tuples(st.integers(0, 60), st.integers(1, 30)).map(lambda pair: (pair[0], sum(pair)))


@given(
    segments=st.lists(st.tuples(spans, st.booleans(), st.integers(0, 9)), max_size=8),
    gaps=st.lists(spans, max_size=4),
    asked=spans,
)
def test_every_instant_counts_once(
    segments: list[tuple[tuple[int, int], bool, int]],
    gaps: list[tuple[int, int]],
    asked: tuple[int, int],
) -> None:
    rows = [
        seen(*span, ((span[1] - span[0]) * part // 30, part // 3, 0) if decided else None)
        for span, decided, part in segments
    ]
    found = coverage(rows, gaps, *asked, NOW)
    assert found.total_us == asked[1] - asked[0]
    assert min(found) >= 0
    covered = {at for span, *_ in segments for at in range(*span)} & set(range(*asked))
    assert found.total_us - found.not_recorded_us == len(covered)


@given(st.tuples(*(st.lists(spans, max_size=4) for _ in range(3))), spans)
def test_splitting_is_what_counting_instants_says(
    parts: tuple[list[tuple[int, int]], ...], span: tuple[int, int]
) -> None:
    counts = [0, 0, 0]
    for at in range(*span):
        for index, some in enumerate(parts):
            if any(first <= at < last for first, last in some):
                counts[index] += 1
                break
    assert split(span, *parts) == tuple(counts)
