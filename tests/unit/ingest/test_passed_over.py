"""Every sampled frame accounts for the time since the one before it."""

from __future__ import annotations

import pytest

from services.ingest.passed_over import Account, unseen
from shared.clock import SECOND_US
from shared.messages import FrameMeta, FramesPassedOver

S = SECOND_US


class Book:
    def __init__(self) -> None:
        self.told: list[FramesPassedOver] = []
        self.account = Account("mk-1", self.told.append)

    @property
    def runs(self) -> list[tuple[float, float, int, str]]:
        return [(r.start_us / S, r.end_us / S, r.frames, r.reason) for r in self.told]


def test_a_sent_frame_covers_the_time_since_the_one_before_it_whatever_became_of_that() -> None:
    book = Book()
    assert book.account.sent(100 * S) == 0
    assert book.account.sent(100 * S + S // 2) == S // 2
    book.account.passed_over("gated", 102 * S)
    assert book.account.sent(103 * S) == S
    assert book.runs == [(100.5, 102.0, 1, "gated")]


def test_no_frame_stands_for_more_than_ten_seconds() -> None:
    book = Book()
    book.account.sent(100 * S)
    assert book.account.sent(200 * S) == 10 * S
    book.account.passed_over("late", 300 * S)
    assert book.runs == [(290.0, 300.0, 1, "late")]


@pytest.mark.parametrize("step_ms", [100, 500, 1000, 3000, 4000])
def test_runs_are_at_most_ten_seconds_and_leave_no_time_out(step_ms: int) -> None:
    book = Book()
    book.account.sent(0)
    frames = 60_000 // step_ms
    for number in range(1, frames + 1):
        book.account.passed_over("gated", number * step_ms * 1000)
    book.account.flush()
    assert all(run.end_us - run.start_us <= 10 * S for run in book.told)
    assert book.told[0].start_us == 0 and book.told[-1].end_us == frames * step_ms * 1000
    edges = zip(book.told, book.told[1:], strict=False)
    assert all(one.end_us == two.start_us for one, two in edges)
    assert sum(run.frames for run in book.told) == frames
    assert len(book.told) <= 8


def test_a_run_ends_with_another_reason_and_with_a_hole() -> None:
    book = Book()
    book.account.sent(0)
    for at, reason in ((1, "gated"), (2, "gated"), (3, "late"), (4, "gated"), (30, "gated")):
        book.account.passed_over(reason, at * S)
    book.account.flush()
    assert book.runs == [
        (0.0, 2.0, 2, "gated"),
        (2.0, 3.0, 1, "late"),
        (3.0, 4.0, 1, "gated"),
        (20.0, 30.0, 1, "gated"),
    ]


def test_reordered_frames_count_no_time_twice_and_a_clock_set_back_begins_anew() -> None:
    book = Book()
    book.account.sent(100 * S)
    assert book.account.sent(102 * S) == 2 * S
    assert book.account.sent(101 * S) == 0
    assert book.account.sent(103 * S) == S
    assert book.account.sent(50 * S) == 0
    assert book.account.sent(51 * S) == S
    assert book.told == []


def test_a_frame_lost_on_its_way_is_told_of_with_the_time_it_stood_for() -> None:
    meta = FrameMeta("mk-1", 100 * S, 0, 640, 360, 1, 1, covers_us=2 * S)
    assert unseen(meta) == FramesPassedOver("mk-1", 98 * S, 100 * S, 1, "late")
    assert unseen(meta._replace(covers_us=0)) is None
