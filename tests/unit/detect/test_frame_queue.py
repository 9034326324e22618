"""Newest wins, nobody starves, nothing old is looked at, and every frame ends somewhere once."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from services.detect.frame_queue import SUPERSEDED, TOO_OLD, Frame, FrameQueue
from services.detect.progress import Progress
from shared.clock import SECOND_US
from shared.messages import FrameMeta

MAX_AGE_US = 2 * SECOND_US


def frame(camera: str, at_us: int, size: int = 10, offset: int = 0) -> Frame:
    meta = FrameMeta(camera, at_us, 0, 64, 48, 1, offset)
    return Frame(meta, b"x" * size, ("frames", 0), offset)


def test_the_newest_frame_of_a_camera_counts() -> None:
    queue = FrameQueue(MAX_AGE_US)
    first, second = frame("a", 1), frame("a", 2)
    assert queue.put(first, 2) == []
    assert queue.put(second, 2) == [(first, SUPERSEDED)]
    assert queue.take(8, 2) == ([second], [])
    assert len(queue) == 0


def test_a_frame_is_judged_when_it_comes_and_again_when_its_turn_does() -> None:
    queue = FrameQueue(MAX_AGE_US)
    old = frame("a", 0)
    assert queue.put(old, MAX_AGE_US + 1) == [(old, TOO_OLD)]
    fresh = frame("a", 10)
    assert queue.put(fresh, MAX_AGE_US) == []
    assert queue.take(8, MAX_AGE_US + 11) == ([], [(fresh, TOO_OLD)])


def test_a_rare_camera_goes_before_those_that_were_looked_at_since() -> None:
    """At one frame in a while its only frame would grow too old behind the queue of the others."""
    queue = FrameQueue(MAX_AGE_US)
    queue.put(frame("rare", 0), 0)
    assert queue.take(1, 0)[0][0].meta.camera_id == "rare"
    for turn in range(8):
        for number in range(20):
            queue.put(frame(f"busy-{number:02}", turn), turn)
        queue.take(1, turn)
    for number in range(20):
        queue.put(frame(f"busy-{number:02}", 9), 9)
    queue.put(frame("rare", 9), 9)
    taken = [queue.take(1, 9)[0][0].meta.camera_id for _ in range(13)]
    assert "rare" in taken, "it goes before the cameras that had a turn since"


def test_memory_is_bounded() -> None:
    queue = FrameQueue(MAX_AGE_US, max_bytes=100)
    passed = [one for n in range(20) for one in queue.put(frame(f"cam-{n}", n, 10), 20)]
    assert len(queue) == 10
    assert [one.frame.meta.capture_us for one in passed] == list(range(10))


def test_what_is_no_longer_its_own_is_forgotten() -> None:
    queue = FrameQueue(MAX_AGE_US)
    queue.put(frame("a", 1), 1)
    queue.put(frame("b", 1), 1)
    assert [f.meta.camera_id for f in queue.forget(lambda f: f.meta.camera_id == "a")] == ["a"]
    assert [f.meta.camera_id for f in queue.take(8, 1)[0]] == ["b"]


@bounded(max_examples=60, deadline=None)
@given(
    cameras=st.integers(2, 12),
    batch=st.integers(1, 4),
    arrivals=st.lists(st.lists(st.integers(0, 11), max_size=30), min_size=20, max_size=60),
)
def test_no_camera_starves(cameras: int, batch: int, arrivals: list[list[int]]) -> None:
    """Camera 0 always has a fresh frame; whatever the others send, it is taken within a round."""
    queue = FrameQueue(MAX_AGE_US)
    waited = most = now_us = 0
    for burst in arrivals:
        now_us += SECOND_US // 10
        for number in [0, *burst]:
            queue.put(frame(f"cam-{number % cameras}", now_us), now_us)
        taken, _ = queue.take(batch, now_us)
        waited = 0 if any(f.meta.camera_id == "cam-0" for f in taken) else waited + 1
        most = max(most, waited)
        assert len({f.meta.camera_id for f in taken}) == len(taken) <= batch
    assert most <= -(-(cameras - 1) // batch)


@bounded(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 4 * SECOND_US), st.booleans()), max_size=80
    )
)
def test_each_frame_ends_once_and_no_old_one_is_looked_at(
    steps: list[tuple[int, int, bool]],
) -> None:
    queue = FrameQueue(MAX_AGE_US, max_bytes=35)
    now_us, ended = 0, Counter[int]()
    for offset, (number, age_us, take) in enumerate(steps):
        now_us += SECOND_US // 2
        passed = queue.put(frame(f"cam-{number}", now_us - age_us, 10, offset), now_us)
        if take:
            frames, aged = queue.take(1, now_us)
            assert all(not queue.too_old(f.meta, now_us) for f in frames)
            ended.update(f.offset for f in frames)
            passed += aged
        ended.update(one.frame.offset for one in passed)
    ended.update(f.offset for f in queue.forget(lambda _: True))
    assert ended == Counter(range(len(steps)))


def test_offsets_are_due_only_up_to_the_first_open_frame() -> None:
    progress, place = Progress(), ("frames", 3)
    for offset in (4, 5, 6):
        progress.begin(place, offset)
    progress.end(place, 5)
    progress.end(place, 6)
    assert [record.offset for record in progress.due()] == [3]
    progress.settled(progress.due())
    assert progress.due() == []
    progress.end(place, 4)
    assert [(record.partition, record.offset) for record in progress.due()] == [(3, 6)]


def test_a_lost_partition_is_not_committed() -> None:
    progress, place = Progress(), ("frames", 0)
    progress.begin(place, 7)
    progress.lose([place])
    progress.end(place, 7)
    assert progress.due() == []
