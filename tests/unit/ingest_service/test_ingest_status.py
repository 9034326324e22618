"""What waits in the spool is measured cheaply; rates come from the newest fragments."""

from __future__ import annotations

import itertools
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.status import SpoolGauge, StatusBook
from services.ingest.waiting import PER_CAMERA, Waiting, filed, merged
from shared import metrics
from shared.clock import SECOND_US, SimulatedClock
from shared.domain import GapReason, RecordingState
from shared.ids import new_id
from shared.messages import SpoolWaiting
from shared.settings import Spool
from shared.spool import RecorderSpool
from tests.support.fake_media import FakeRecording, camera


class SlowClock(SimulatedClock):
    """Each look at the clock takes a second."""

    def monotonic_us(self) -> int:
        self.set_us(self.now_us() + SECOND_US)
        return super().monotonic_us()


def file_one(spool: RecorderSpool) -> int:
    made = FakeRecording(spool)
    made.write(b"x" * 1_000)
    made.finish()
    return len(made.data)


def test_segments_and_gaps_are_items_and_sidecars_are_not(tmp_path: Path) -> None:
    spool = RecorderSpool(tmp_path, "r")
    size = file_one(spool)
    gap = spool.new / f"{1:020d}-cam-{new_id()}.gap.json"
    gap.write_bytes(b"12345")
    (spool.new / "half.json.1.part").write_bytes(b"part")
    items, size_bytes, videos = filed(spool.new)
    assert (items, size_bytes, len(videos)) == (2, size + 5, 1)


def test_a_look_that_took_long_is_not_repeated_soon(tmp_path: Path) -> None:
    spool = RecorderSpool(tmp_path, "r")
    clock = SlowClock()
    gauge = SpoolGauge(spool.new, clock)
    assert gauge.read().items == 0
    file_one(spool)
    assert gauge.read().items == 0
    clock.set_us(clock.now_us() + 100 * SECOND_US)
    assert gauge.read().items == 1
    assert gauge.read().free_bytes > 0


def test_a_camera_that_is_not_recorded_has_no_rate(tmp_path: Path) -> None:
    clock = SimulatedClock()
    book = StatusBook(clock, "r", 7)
    spool = RecorderSpool(tmp_path, "r")
    book.begin(camera("cam-1"))
    made = FakeRecording(spool)
    book.fragment(made.write(b"x" * 1_000))
    assert book.message("cam-1").rate_fps == 0
    assert book.message("cam-1").recorded_us == SECOND_US
    assert book.message("cam-1").epoch == clock.now_us()


def test_since_is_when_the_state_began_and_news_is_news_once() -> None:
    clock = SimulatedClock()
    book = StatusBook(clock, "r", 7)
    book.begin(camera("a"))
    began_us = clock.now_us()
    assert book.refuse("a", "full")
    clock.set_us(began_us + SECOND_US)
    assert not book.refuse("a", "full")
    said = book.message("a")
    assert (said.since_us, said.at_us) == (began_us, began_us + SECOND_US)
    assert said.reason is GapReason.OVER_CAPACITY
    last = book.end("a")
    assert last is not None and last.state is RecordingState.STOPPED
    assert book.end("a") is None


def test_what_waits_is_said_by_camera_with_its_true_end(tmp_path: Path) -> None:
    spool = RecorderSpool(tmp_path, "r")
    made = FakeRecording(spool)
    made.write(b"x" * 1_000)
    segment = made.finish().segment
    gauge = SpoolGauge(spool.new, SimulatedClock(), 60.0)
    growing = SpoolWaiting("cam-9", 5, 7)
    own = SpoolWaiting(segment.camera_id, segment.start_us, segment.end_us)
    assert set(gauge.read([growing]).waiting) == {own, growing}
    for path in spool.new.iterdir():
        path.unlink()
    assert gauge.read().waiting == ()


def test_a_segment_without_a_readable_sidecar_is_taken_to_be_of_the_usual_length(
    tmp_path: Path,
) -> None:
    name = f"{7 * SECOND_US:020d}-cam-1-{new_id()}"
    found = Waiting(tmp_path, 60.0).look([name, "nonsense"])
    assert found == [SpoolWaiting("cam-1", 7 * SECOND_US, 67 * SECOND_US)]


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 5)), min_size=1))
def test_spans_are_few_and_say_all(items: list[tuple[int, int]]) -> None:
    spans = [
        SpoolWaiting("cam", start * SECOND_US, (start + length) * SECOND_US)
        for start, length in items
    ]
    found = merged(spans)
    assert len(found) <= PER_CAMERA
    assert all(a.end_us < b.start_us for a, b in itertools.pairwise(found))
    for span in spans:
        assert any(s.start_us <= span.start_us and span.end_us <= s.end_us for s in found)
    assert found[0].start_us == min(s.start_us for s in spans)
    assert found[-1].end_us == max(s.end_us for s in spans)


def test_the_room_that_is_left_knows_both_limits(tmp_path: Path) -> None:
    """What may be written until the guard stops recording: of the volume, and of the spool."""
    spool = RecorderSpool(tmp_path, "r")
    size = file_one(spool)
    limits = Spool(max_bytes=10_000, min_free_ratio=0)
    SpoolGauge(spool.new, SimulatedClock(), 60.0, limits).read()
    assert metrics.REGISTRY.get_sample_value("lamppost_spool_room_bytes") == 10_000 - size
    SpoolGauge(spool.new, SimulatedClock(), 60.0, Spool(min_free_ratio=0.999)).read()
    assert metrics.REGISTRY.get_sample_value("lamppost_spool_room_bytes") == 0
