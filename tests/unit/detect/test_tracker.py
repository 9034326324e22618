"""Boxes to tracks: the same thing stays the same track, at any rate, and nothing lasts for ever."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.detect.assignment import assign
from services.detect.sightings import MOTIONS
from services.detect.tracker import (
    HOLD_US,
    KEEP_NEW_US,
    KEEP_US,
    MAX_TRACKS,
    Seen,
    Track,
    Tracker,
)
from shared.clock import SECOND_US
from shared.sightings import MAX_SIGHTING_S

T0 = 1_700_000_000 * SECOND_US
WALK = 0.8
"""Heights a second: a person's usual pace seen from the side."""


def box(x: float, y: float = 0.5, h: float = 0.2, sure: float = 0.9) -> Seen:
    return Seen(x, y, h / 2.5, h, sure)


def run(
    tracker: Tracker, frames: list[tuple[float, list[Seen]]], covers_s: float | None = None
) -> list[list[Track | None]]:
    """Tracks of each frame's boxes; times in seconds."""
    covers_us = None if covers_s is None else round(covers_s * SECOND_US)
    return [
        tracker.update(T0 + round(at_s * SECOND_US), boxes, covers_us).tracks
        for at_s, boxes in frames
    ]


def names(steps: list[list[Track | None]]) -> set[Track]:
    return {track for step in steps for track in step if track is not None}


def person() -> Tracker:
    return Tracker(MOTIONS["person"])


def times(rate_fps: float, seconds: float, seed: int, jitter: float, lost: float) -> list[float]:
    """Of frames at a rate, each a little early or late, some lost."""
    dice = random.Random(seed)
    steps = [number / rate_fps for number in range(int(seconds * rate_fps))]
    return [
        max(0.0, at_s + dice.uniform(-jitter, jitter) / rate_fps)
        for number, at_s in enumerate(steps)
        if number < 2 or dice.random() >= lost
    ]


@pytest.mark.parametrize("rate_fps", [1, 2, 5, 10, 25])
def test_a_walker_is_one_track_at_any_rate(rate_fps: float) -> None:
    dice = random.Random(1)
    frames = [
        (at_s, [box(0.2 + WALK * 0.2 * at_s + dice.gauss(0, 0.008))])
        for at_s in times(rate_fps, 8, 2, jitter=0.2, lost=0.1)
    ]
    assert len(names(run(person(), frames))) == 1


@settings(max_examples=40, deadline=None)
@given(
    rate_fps=st.sampled_from([1.0, 2.0, 3.3, 5.0, 10.0, 25.0]),
    seed=st.integers(0, 10**6),
    pace=st.floats(0, 0.8),
    size=st.sampled_from([0.05, 0.3, 100.0]),
)
def test_jitter_lost_frames_and_the_unit_change_nothing(
    rate_fps: float, seed: int, pace: float, size: float
) -> None:
    dice = random.Random(seed)
    frames = []
    for at_s in times(rate_fps, 8, seed, jitter=0.2, lost=0.15):
        walker = box(dice.gauss(pace * at_s, 0.04) * size, dice.gauss(0.5, 0.04) * size, size)
        beside = box(dice.gauss(pace * at_s, 0.04) * size, dice.gauss(3.5, 0.04) * size, size)
        frames.append((at_s, [walker, beside]))
    steps = run(person(), frames)
    assert len(names(steps)) == 2
    assert all(step[0] is steps[0][0] for step in steps)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), shift_s=st.integers(0, 10**8))
def test_the_order_of_boxes_and_the_epoch_change_nothing(seed: int, shift_s: int) -> None:
    dice = random.Random(seed)
    one, other = person(), person()
    for number in range(12):
        at_us = T0 + number * 300_000
        boxes = [
            box(dice.random(), dice.random(), 0.15 + 0.1 * dice.random(), 0.2 + 0.8 * dice.random())
            for _ in range(dice.randint(0, 8))
        ]
        order = dice.sample(range(len(boxes)), len(boxes))
        first = one.update(at_us, boxes)
        second = other.update(at_us + shift_s * SECOND_US, [boxes[n] for n in order])
        for place, n in enumerate(order):
            ours, theirs = first.tracks[n], second.tracks[place]
            assert (ours is None) == (theirs is None)
            if ours is not None and theirs is not None:
                begun = (ours.first_us + shift_s * SECOND_US, ours.ordinal, ours.hits)
                assert (theirs.first_us, theirs.ordinal, theirs.hits) == begun


def test_two_who_cross_keep_their_names() -> None:
    steps = run(
        person(),
        [(n / 5, [box(0.2 + 0.03 * n, 0.5), box(0.8 - 0.03 * n, 0.54, 0.22)]) for n in range(20)],
    )
    assert len(names(steps)) == 2
    assert steps[-1][0] is steps[0][0] and steps[-1][1] is steps[0][1]


def test_who_was_hidden_for_two_seconds_goes_on() -> None:
    frames = [(n / 5, [box(0.2 + 0.032 * n)] if not 10 < n < 20 else []) for n in range(30)]
    assert len(names(run(person(), frames))) == 1


def test_a_jump_too_far_is_another_thing() -> None:
    frames = [(n / 2, [box(0.2 if n < 6 else 0.9)]) for n in range(12)]
    assert len(names(run(person(), frames))) == 2


def test_a_thing_of_another_size_is_another_thing() -> None:
    frames = [(n / 2, [box(0.5, h=0.2 if n < 6 else 0.6)]) for n in range(12)]
    assert len(names(run(person(), frames))) == 2


def test_a_faint_box_goes_on_a_track_and_begins_none() -> None:
    assert names(run(person(), [(n / 5, [box(0.5, sure=0.4)]) for n in range(5)])) == set()
    frames = [(n / 5, [box(0.5, sure=0.9 if n < 3 else 0.3)]) for n in range(8)]
    assert [track.hits for track in names(run(person(), frames))] == [8]


def test_one_box_alone_is_never_confirmed() -> None:
    tracker = person()
    run(tracker, [(0.0, [box(0.5)])])
    (track,) = tracker.tracks
    step = tracker.update(T0 + KEEP_NEW_US, [])
    assert step.ended == [track] and not track.confirmed


def test_a_box_that_doubles_another_begins_no_track() -> None:
    frames = [(n / 5, [box(0.5), box(0.504, sure=0.7)]) for n in range(5)]
    assert len(names(run(person(), frames))) == 1


def test_a_track_waits_three_seconds_unseen() -> None:
    tracker = person()
    run(tracker, [(n / 5, [box(0.5)]) for n in range(6)])
    (track,) = tracker.tracks
    assert tracker.update(T0 + SECOND_US + KEEP_US - 200_000, []).ended == []
    assert tracker.update(T0 + SECOND_US + KEEP_US + 200_000, []).ended == [track]


def test_a_track_ends_at_ten_minutes_and_another_goes_on_at_once() -> None:
    tracker = person()
    steps = run(tracker, [(float(n), [box(0.5)]) for n in range(700)])
    first, second = sorted(names(steps), key=lambda track: track.first_us)
    assert first.last_us - first.first_us == MAX_SIGHTING_S * SECOND_US
    assert second.first_us == first.last_us + SECOND_US
    assert second.confirmed and second.hits == 99


def test_what_stood_still_waits_while_a_gate_holds_frames_back() -> None:
    tracker = person()
    run(tracker, [(n / 2, [box(0.5)]) for n in range(10)], covers_s=0.5)
    assert tracker.silent(T0 + 20 * SECOND_US) == []
    steps = run(tracker, [(24.5, [box(0.52)]), (25.0, [box(0.53)])], covers_s=0.5)
    assert [step[0].hits for step in steps if step[0]] == [12, 12]
    assert len(tracker.silent(T0 + 25 * SECOND_US + HOLD_US + 1)) == 1


def test_what_moved_does_not_wait() -> None:
    tracker = person()
    run(tracker, [(n / 2, [box(0.1 + 0.08 * n)]) for n in range(10)], covers_s=0.5)
    assert len(tracker.silent(T0 + 9 * SECOND_US)) == 1


def test_vehicles_are_faster_than_persons() -> None:
    def driven(group: str) -> int:
        frames = [(float(n), [box(0.1 + 0.5 * n, h=0.1)]) for n in range(5)]
        return max(track.hits for track in names(run(Tracker(MOTIONS[group]), frames)))

    assert driven("vehicle") == 5
    assert driven("person") == 1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_nothing_outlives_its_limits_whatever_comes(seed: int) -> None:
    dice = random.Random(seed)
    tracker, at_us = person(), T0
    ended: set[Track] = set()
    for _ in range(60):
        at_us += dice.choice([40_000, 200_000, SECOND_US, 5 * SECOND_US, 20 * SECOND_US])
        boxes = [
            box(dice.choice([0.1, 0.5, 0.9]) + dice.gauss(0, 0.01), sure=dice.random())
            for _ in range(dice.randint(0, 6))
        ]
        step = tracker.update(at_us, boxes, dice.choice([None, 40_000, SECOND_US]))
        given_ = [track for track in step.tracks if track is not None]
        assert len(set(given_)) == len(given_)
        assert not ended & {*given_, *tracker.tracks}
        ended |= set(step.ended)
        for track in tracker.tracks:
            assert track.last_us - track.first_us <= MAX_SIGHTING_S * SECOND_US
            assert at_us - track.last_us <= HOLD_US + SECOND_US
            assert track.missed_us < KEEP_US
    left = set(tracker.silent(at_us + HOLD_US + 1))
    assert tracker.tracks == [] and not left & ended


def test_the_number_of_tracks_is_bounded() -> None:
    tracker = person()
    for number in range(3):
        boxes = [box(x, 3.0 * y) for x in range(20) for y in range(20)]
        tracker.update(T0 + number * SECOND_US, boxes)
        assert len(tracker.tracks) <= MAX_TRACKS


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(0, 4), columns=st.integers(0, 4), seed=st.integers(0, 10**6))
def test_the_matching_is_the_cheapest_of_all(rows: int, columns: int, seed: int) -> None:
    costs = np.random.default_rng(seed).uniform(-2, 6, (rows, columns))
    limit = 3.0
    pairs = assign(costs, limit)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert all(costs[pair] < limit for pair in pairs)
    best = 0.0
    for count in range(min(rows, columns) + 1):
        for some in itertools.permutations(range(rows), count):
            for others in itertools.combinations(range(columns), count):
                pairs_ = zip(some, others, strict=True)
                best = min(best, sum(costs[a, b] - limit for a, b in pairs_))
    assert sum(costs[pair] - limit for pair in pairs) == pytest.approx(best)
