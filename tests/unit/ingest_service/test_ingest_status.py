"""What waits in the spool is measured cheaply; rates come from the newest fragments."""

from __future__ import annotations

from pathlib import Path

from services.ingest.status import SpoolGauge, StatusBook, count
from shared.clock import SECOND_US, SimulatedClock
from shared.domain import GapReason, RecordingState
from shared.ids import new_id
from shared.spool import RecorderSpool
from tests.support.fake_media import FakeRecording, camera


class SlowClock(SimulatedClock):
    """Each look at the clock takes a second."""

    def monotonic_us(self) -> int:
        self.set_us(self.now_us() + SECOND_US)
        return super().monotonic_us()


def filed(spool: RecorderSpool) -> int:
    made = FakeRecording(spool)
    made.write(b"x" * 1_000)
    made.finish()
    return len(made.data)


def test_segments_and_gaps_are_items_and_sidecars_are_not(tmp_path: Path) -> None:
    spool = RecorderSpool(tmp_path, "r")
    size = filed(spool)
    gap = spool.new / f"{1:020d}-cam-{new_id()}.gap.json"
    gap.write_bytes(b"12345")
    (spool.new / "half.json.1.part").write_bytes(b"part")
    assert count(spool.new) == (2, size + 5)


def test_a_look_that_took_long_is_not_repeated_soon(tmp_path: Path) -> None:
    spool = RecorderSpool(tmp_path, "r")
    clock = SlowClock()
    gauge = SpoolGauge(spool.new, clock)
    assert gauge.read().items == 0
    filed(spool)
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
