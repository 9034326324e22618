"""When the stack's tests may judge a gap, and what is then lost."""

from __future__ import annotations

from tests.stack.books import Books

S = 1_000_000
CAMERAS = ("a", "b")
WHOLE_B = ("b", 0, 40 * S)


def test_a_gap_is_not_judged_before_the_segment_beside_it_is_filed() -> None:
    """One recorder filed a gap, another recorded meanwhile and closes its segment later."""
    gap = ("a", 10 * S, 30 * S, "moved")
    early = Books([("a", 0, 10 * S), WHOLE_B], [gap])
    assert early.unfiled(CAMERAS, 0, 30 * S) == {"a": 0.0}
    assert early.lost(0, 30 * S) == {"moved": 20.0}
    late = Books([*early.segments, ("a", 10 * S, 31 * S)], [gap])
    assert late.unfiled(CAMERAS, 0, 30 * S) == {}
    assert late.lost(0, 30 * S) == {}


def test_a_hole_is_waited_for() -> None:
    """What comes later is filed already: the one before it is on its way from another volume."""
    books = Books([("a", 0, 10 * S), ("a", 20 * S, 40 * S), WHOLE_B], [])
    assert books.unfiled(CAMERAS, 0, 30 * S) == {"a": 10.0}
    assert books.unfiled(CAMERAS, 20 * S, 30 * S) == {}
    assert books.unfiled(("a", "c"), 20 * S, 30 * S) == {"c": 10.0}


def test_less_than_a_second_between_two_segments_is_none() -> None:
    books = Books([("a", 0, 10 * S), ("a", 10 * S + 900_000, 40 * S), WHOLE_B], [])
    assert books.unfiled(CAMERAS, 0, 30 * S) == {}


def test_a_loss_is_counted_by_reason_between_the_two_moments() -> None:
    books = Books(
        [("a", 0, 12 * S), ("a", 18 * S, 40 * S), WHOLE_B],
        [("a", 10 * S, 20 * S, "recorder_down"), ("b", 5 * S, 6 * S, "moved"),
         ("a", 35 * S, 50 * S, "moved")],
    )  # fmt: skip
    assert books.lost(0, 30 * S) == {"recorder_down": 6.0}
    assert books.lost(14 * S, 16 * S) == {"recorder_down": 2.0}
    assert books.lost(0, 45 * S) == {"recorder_down": 6.0, "moved": 5.0}
