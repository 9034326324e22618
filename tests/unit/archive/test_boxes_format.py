"""The boxes object: small, the same bytes for the same facts, and sums that follow from it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import boxes
from shared.clock import SECOND_US
from shared.errors import Kind, LamppostError
from shared.messages import Box, FrameAnalysed, FramesPassedOver, encode

START = 1_713_225_600_000_000
END = START + 60 * SECOND_US
SHA = "a" * 64


def frame(at_s: float, covers_s: float = 1.0, *found: Box, **changes: object) -> FrameAnalysed:
    at_us = START + round(at_s * SECOND_US)
    covers_us = round(covers_s * SECOND_US)
    made = FrameAnalysed("cam", at_us, covers_us, 1, 0, 640, 360, "m", "f32", found, SHA)
    return msgspec.structs.replace(made, **changes)


def passed(start_s: float, end_s: float, reason: str = "gated") -> FramesPassedOver:
    first, last = (START + round(at * SECOND_US) for at in (start_s, end_s))
    return FramesPassedOver("cam", first, last, 1, reason)


def build(*events: FrameAnalysed | FramesPassedOver) -> boxes.SegmentBoxes:
    return boxes.build("segment", "cam", START, END, events)


WALKER = Box("person", 0.876, 0.12345, 0.5, 0.05, 0.2, "sighting-1")
CAR = Box("car", 0.5, 0.5, 0.5, 0.25, 0.125)


def test_what_was_seen_is_read_back_with_its_names() -> None:
    made = build(frame(1.0, 1.0, WALKER, CAR), frame(2.0), passed(2.0, 12.0, "too_old"))
    found = boxes.decode(boxes.encode(made))
    assert found == made
    first, second = boxes.frames(found)
    assert (first.capture_us, second.capture_us) == (START + SECOND_US, START + 2 * SECOND_US)
    assert first.model == boxes.Model("m", SHA, "f32")
    assert first.boxes == (msgspec.structs.replace(WALKER, x=0.1235), CAR) or first.boxes == (
        msgspec.structs.replace(WALKER, x=0.1234),
        CAR,
    )
    assert second.boxes == ()
    assert list(boxes.frames(found, START, START + 2 * SECOND_US)) == [first]
    assert boxes.seen(found) == (2 * SECOND_US, 0, 10 * SECOND_US)


def test_it_takes_a_quarter_of_the_messages() -> None:
    events = [frame(at, 1.0, *[WALKER] * 6, *[CAR] * 2) for at in range(1, 61)]
    assert len(boxes.encode(build(*events))) * 4 < sum(len(encode(event)) for event in events)


def test_a_frame_after_the_end_stands_for_the_end() -> None:
    made = build(frame(59.5), frame(60.4, 0.9), frame(61.5, 1.1))
    assert [row.ms for row in made.frames] == [59_500, 60_400]
    assert boxes.seen(made).analysed_us == 1_500_000


def test_each_instant_counts_once_and_a_look_counts_most() -> None:
    made = build(frame(10.0, 4.0), passed(8.0, 14.0), passed(0.0, 20.0, "superseded"))
    assert boxes.seen(made) == (4 * SECOND_US, 4 * SECOND_US, 12 * SECOND_US)


def test_a_frame_that_covers_nothing_is_kept_for_its_boxes() -> None:
    made = build(frame(5.0, 0.0, WALKER), frame(-5.0, 0.0, WALKER), frame(60.0, 0.0, WALKER))
    assert [row.ms for row in made.frames] == [5_000]
    assert boxes.seen(made) == (0, 0, 0)


def test_a_lie_about_what_it_covers_is_cut() -> None:
    assert boxes.seen(build(frame(30.0, 3_000.0))).analysed_us == 10 * SECOND_US


def test_nothing_is_nothing() -> None:
    assert build().is_empty
    assert build(frame(100.0, 1.0), passed(-20.0, 0.0)).is_empty


events = st.lists(
    st.one_of(
        st.builds(
            lambda at, covers, found: frame(at / 10, covers / 10, *found),
            st.integers(-20, 620),
            st.integers(0, 30),
            st.lists(st.sampled_from([WALKER, CAR]), max_size=2),
        ),
        st.builds(
            lambda at, length, why: passed(at / 10, (at + length) / 10, why),
            st.integers(-20, 620),
            st.integers(1, 30),
            st.sampled_from(["gated", "too_old"]),
        ),
    ),
    max_size=12,
)


@given(events, st.randoms(use_true_random=False))
def test_order_and_repetition_change_no_byte(
    found: list[FrameAnalysed | FramesPassedOver], chance: object
) -> None:
    again = [*found, *found[: len(found) // 2]]
    chance.shuffle(again)  # type: ignore[attr-defined]
    assert boxes.encode(build(*again)) == boxes.encode(build(*found))


@given(events, events)
def test_merging_is_building_of_both(
    one: list[FrameAnalysed | FramesPassedOver], other: list[FrameAnalysed | FramesPassedOver]
) -> None:
    merged = boxes.merge(build(*one), boxes.decode(boxes.encode(build(*other))))
    assert merged == build(*one, *other)


@given(events)
def test_the_sums_fit_the_segment(found: list[FrameAnalysed | FramesPassedOver]) -> None:
    sums = boxes.seen(build(*found))
    assert min(sums) >= 0
    assert sum(sums) <= END - START


@pytest.mark.parametrize("change", ["format", "class", "model", "bytes"])
def test_nonsense_is_refused(change: str) -> None:
    made = build(frame(1.0, 1.0, WALKER))
    data = {
        "format": boxes.encode(msgspec.structs.replace(made, format="lamppost-boxes/2")),
        "class": boxes.encode(msgspec.structs.replace(made, classes=())),
        "model": boxes.encode(msgspec.structs.replace(made, models=())),
        "bytes": boxes.encode(made)[:-3],
    }[change]
    with pytest.raises(LamppostError) as caught:
        boxes.decode(data)
    assert caught.value.kind is Kind.CORRUPT
