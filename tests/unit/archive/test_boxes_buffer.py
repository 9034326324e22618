"""What waits for a segment is bounded, and nothing is committed that somebody may still need."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.archive.boxes_buffer import KEEP_US, OVERHEAD, Buffer
from shared.bus import Record
from shared.clock import SECOND_US
from shared.messages import DETECTIONS, FrameAnalysed
from tests.support.archiving import MINUTE_US, START_US

END_US = START_US + MINUTE_US
CAMERAS = ("a", "b", "c")


def record(offset: int, part: int = 0) -> Record:
    return Record(DETECTIONS.name, part, offset, "cam", b"x" * 100, (), 0)


def frame(at_s: float, camera_id: str = "a") -> FrameAnalysed:
    at_us = START_US + round(at_s * SECOND_US)
    return FrameAnalysed(camera_id, at_us, SECOND_US, 1, 0, 640, 360, "m", "f32", ())


def offsets(buffer: Buffer) -> list[tuple[int, int]]:
    return [(one.partition, one.offset) for one in buffer.committable()]


def test_a_message_waits_until_all_its_time_is_decided() -> None:
    buffer = Buffer()
    buffer.add(record(0), frame(59.5))
    buffer.add(record(1), frame(60.5))
    buffer.settle("a", [(START_US, END_US)], [], 0)
    assert offsets(buffer) == [(0, 0)]
    buffer.settle("a", [(START_US, END_US), (END_US + 5, END_US + MINUTE_US)], [], 0)
    assert offsets(buffer) == [(0, 1)]
    assert offsets(buffer) == [] and buffer.size_bytes == 0


def test_an_open_segment_keeps_its_messages_however_old() -> None:
    buffer = Buffer()
    buffer.add(record(0), frame(30))
    assert buffer.settle("a", [], [(START_US, END_US)], END_US + 2 * KEEP_US) == 0
    assert offsets(buffer) == []
    assert buffer.settle("a", [], [], END_US + 2 * KEEP_US) == 1
    assert offsets(buffer) == [(0, 0)]


def test_a_lost_partition_is_forgotten_with_how_far_it_had_come() -> None:
    buffer = Buffer()
    buffer.add(record(0, part=0), frame(10, "a"))
    buffer.add(record(0, part=1), frame(20, "b"))
    buffer.keep_only({(DETECTIONS.name, 1)})
    assert buffer.cameras == ["b"]
    assert list(buffer.newest_us) == ["b"]
    assert buffer.size_bytes == 100 + OVERHEAD


def test_times_that_step_far_back_begin_anew() -> None:
    buffer = Buffer()
    for offset, at_s in enumerate((4_000, 3_990, 10)):
        buffer.add(record(offset), frame(at_s))
        expected = 4_000 if at_s > 3_000 else 10
        assert buffer.newest_us["a"] == START_US + expected * SECOND_US


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 1), st.sampled_from(CAMERAS), st.integers(0, 180)),
            st.tuples(st.sampled_from(CAMERAS), st.integers(0, 2)),
            st.just(None),
        ),
        max_size=60,
    ),
    st.integers(1, 20),
)
def test_only_what_is_over_is_committed(steps: list[tuple[object, ...] | None], room: int) -> None:
    """Against the plainest of books: which messages wait, by partition and offset."""
    buffer = Buffer(max_bytes=room * (100 + OVERHEAD))
    nexts, dropped = [0, 0], 0
    committed = [-1, -1]
    waiting: dict[tuple[int, int], FrameAnalysed] = {}
    for step in steps:
        if step is None:
            for part, offset in offsets(buffer):
                assert offset > committed[part]
                committed[part] = offset
                assert not any(key[0] == part and key[1] <= offset for key in waiting)
        elif len(step) == 2:
            camera_id, minute = step
            span = (START_US + minute * MINUTE_US, START_US + (minute + 1) * MINUTE_US)  # type: ignore[operator]
            buffer.settle(camera_id, [span], [], 0)  # type: ignore[arg-type]
            for key, event in list(waiting.items()):
                first_us = event.capture_us - event.covers_us
                if (
                    event.camera_id == camera_id
                    and span[0] <= first_us <= event.capture_us <= span[1]
                ):
                    del waiting[key]
        else:
            part, camera_id, at_s = step
            # A camera's messages are all in one partition.
            part = CAMERAS.index(camera_id) % 2  # type: ignore[arg-type]
            event = frame(at_s, camera_id)  # type: ignore[arg-type]
            buffer.add(record(nexts[part], part), event)
            waiting[part, nexts[part]] = event
            nexts[part] += 1
            while len(waiting) > room:
                del waiting[next(iter(waiting))]
                dropped += 1
        assert buffer.dropped == dropped
        assert buffer.size_bytes == len(waiting) * (100 + OVERHEAD)
