"""A stream on a simulated clock: what is sent when, to whom, and what ends it."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from services.ingest import rtp
from services.replay import clip
from services.replay.packets import PAYLOAD_TYPE
from services.replay.stream import MAX_WAITING_BYTES, Session, Stream, World, to_ticks
from services.replay.wheel import LATE_US, SLOT_US, Wheel
from shared.clock import SECOND_US, SimulatedClock
from shared.domain import Codec
from tests.support.video import write_video

STEP_US = 40_000


class Reader(asyncio.Transport):
    """A connection that keeps what is written; `stuck` takes nothing any more."""

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()
        self.ended = ""
        self.stuck = False
        self.waiting = 0

    def write(self, data: Any) -> None:
        if self.stuck:
            self.waiting += len(data)
        else:
            self.data += data

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return bool(self.ended)

    def abort(self) -> None:
        self.ended = "abort"

    def close(self) -> None:
        self.ended = "close"

    def read(self, codec: Codec = Codec.H264) -> tuple[list[rtp.AccessUnit], list[Any], int]:
        """Pictures, sender reports, and packets lost, of everything so far."""
        assembler, reports, position = rtp.Assembler(codec, PAYLOAD_TYPE), [], 0
        while position < len(self.data):
            size = self.data[position + 2] << 8 | self.data[position + 3]
            if self.data[position + 1] == 0:
                assembler.feed(self.data, position + 4, position + 4 + size)
            else:
                reports.append(rtp.sender_report(self.data[position + 4 : position + 4 + size]))
            position += 4 + size
        return list(assembler.ready), reports, assembler.lost


class Scene:
    """One stream and its clock."""

    def __init__(self, path: Path, skew_us: int = 0, clock: SimulatedClock | None = None) -> None:
        self.clock = clock or SimulatedClock()
        self.wheel = Wheel(self.clock)
        self.world = World(self.clock, self.wheel)
        origin = to_ticks(self.clock.monotonic_us())
        self.stream = Stream(self.world, "cam-001", clip.read(path), origin, skew_us, "1")

    def join(self) -> tuple[Reader, Session]:
        reader = Reader()
        session = self.stream.session(reader, (0, 1))
        self.stream.join(session)
        return reader, session

    def let(self, seconds: float, slots: int = 1) -> None:
        """Let time pass; the wheel turns each `slots` slots."""
        end_us = self.clock.monotonic_us() + round(seconds * SECOND_US)
        while self.clock.monotonic_us() < end_us:
            self.clock.set_us(self.clock.now_us() + SLOT_US * slots)
            self.wheel.turn()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(write_video(tmp_path / "a.mp4"))


def test_pictures_come_at_their_time_and_go_on_over_the_loop(scene: Scene) -> None:
    reader, _ = scene.join()
    scene.let(5.0)
    pictures, _, lost = reader.read()
    assert lost == 0 and len(pictures) == pytest.approx(125, abs=1)
    stamps = [one.timestamp for one in pictures]
    steps = {(b - a) & 0xFFFFFFFF for a, b in itertools.pairwise(stamps)}
    assert steps == {3600}
    assert [at for at, one in enumerate(pictures) if one.key] == [0, 25, 50, 75, 100]


def test_a_session_begins_with_the_next_key_picture(scene: Scene) -> None:
    scene.let(0.5)
    reader, _ = scene.join()
    scene.let(0.4)
    assert reader.read()[0] == []
    scene.let(0.2)
    assert reader.read()[0][0].key


def test_what_play_announces_is_the_first_picture(scene: Scene) -> None:
    scene.let(0.7)
    reader = Reader()
    session = scene.stream.session(reader, (0, 1))
    told, sequence = scene.stream.key_timestamp(session), session.sequence
    scene.stream.join(session)
    scene.let(1.0)
    assert reader.read()[0][0].timestamp == told
    first = next(at for at in range(len(reader.data)) if reader.data[at : at + 2] == b"$\x00")
    assert reader.data[first + 6] << 8 | reader.data[first + 7] == sequence


def test_two_readers_get_the_same_picture_at_the_same_time(scene: Scene) -> None:
    one, first = scene.join()
    two, second = scene.join()
    scene.let(2.0)
    shift = second.offset - first.offset
    assert [u.data for u in one.read()[0]] == [u.data for u in two.read()[0]]
    for mine, yours in zip(one.read()[0], two.read()[0], strict=True):
        assert (yours.timestamp - mine.timestamp - shift) & 0xFFFFFFFF == 0


@pytest.mark.parametrize("skew_s", [0, 3.5, -90])
def test_reports_tell_the_cameras_time_of_a_picture(tmp_path: Path, skew_s: float) -> None:
    scene = Scene(write_video(tmp_path / "a.mp4"), round(skew_s * SECOND_US))
    begun_us = scene.clock.now_us()
    reader, _ = scene.join()
    scene.let(12.0)
    pictures, reports, _ = reader.read()
    assert len(reports) == 3
    for report in reports:
        taken_us = rtp.capture_us(report, pictures[0].timestamp, 90_000)
        assert abs(taken_us - begun_us - skew_s * SECOND_US) <= 20


def test_a_reader_that_takes_nothing_is_dropped_within_its_bound(scene: Scene) -> None:
    reader, _ = scene.join()
    other, _ = scene.join()
    scene.let(1.0)
    reader.stuck, reader.waiting = True, MAX_WAITING_BYTES - 1000
    scene.let(1.0)
    assert reader.ended == "abort" and reader.waiting <= MAX_WAITING_BYTES + 100_000
    assert scene.stream.count.ended == {"slow": 1} and scene.stream.count.playing == 1
    assert len(other.read()[0]) == pytest.approx(50, abs=1)


def test_nothing_is_written_to_a_broken_connection(scene: Scene) -> None:
    reader, _ = scene.join()
    scene.let(1.0)
    reader.ended, size = "broken", len(reader.data)
    scene.let(1.0)
    assert len(reader.data) == size and scene.stream.count.ended == {"client": 1}


def test_silence_is_no_picture_and_then_a_key_picture(scene: Scene) -> None:
    reader, session = scene.join()
    scene.let(1.2)
    scene.stream.hush(True)
    before = len(reader.read()[0])
    scene.let(1.5)
    assert len(reader.read()[0]) == before
    scene.stream.hush(False)
    scene.let(1.0)
    assert reader.read()[0][before].key
    scene.stream.leave(session, "client")
    (first, second) = scene.stream.count.spans
    assert second[0] - first[1] >= 1.5 * SECOND_US


def test_what_was_sent_is_told_as_times_of_capture(scene: Scene) -> None:
    begun_us = scene.clock.now_us()
    _, session = scene.join()
    scene.let(2.0)
    scene.stream.leave(session, "client")
    ((start_us, end_us),) = scene.stream.count.spans
    assert abs(start_us - begun_us) <= 20
    assert abs(end_us - begun_us - scene.stream.count.pictures * STEP_US) <= 40
    scene.stream.leave(session, "client")
    assert scene.stream.count.ended == {"client": 1}


def test_another_size_goes_on_in_the_session(scene: Scene, tmp_path: Path) -> None:
    reader, _ = scene.join()
    scene.let(1.0)
    other = clip.read(write_video(tmp_path / "b.mp4", width=256, height=128))
    scene.stream.change(other)
    scene.let(1.0)
    assert reader.ended == ""
    pictures, _, lost = reader.read()
    assert lost == 0
    changed = next(at for at, one in enumerate(pictures) if other.sets[0] in one.sets)
    assert pictures[changed].key and changed == pytest.approx(25, abs=1)
    stamps = [one.timestamp for one in pictures]
    gap = (stamps[changed] - stamps[changed - 1]) & 0xFFFFFFFF
    assert 0 < gap <= 2 * 3600


class SlowMachine(SimulatedClock):
    """Time goes on while somebody looks at it."""

    look_us = 0

    def monotonic_us(self) -> int:
        self.set_us(self.now_us() + self.look_us)
        return super().monotonic_us()


def test_the_first_picture_of_another_file_is_not_missed(tmp_path: Path) -> None:
    """Time goes on while the change is made: without its key picture a file cannot be decoded."""
    clock = SlowMachine()
    scene = Scene(write_video(tmp_path / "a.mp4"), clock=clock)
    other = clip.read(write_video(tmp_path / "b.mp4", width=256, height=128))
    reader, _ = scene.join()
    scene.let(0.5)
    clock.look_us = 100
    scene.stream.change(other)
    clock.look_us = 0
    told = len(reader.read()[0])
    scene.let(0.1)
    first = reader.read()[0][told]
    assert first.key and other.sets[0] in first.sets


def test_another_codec_needs_another_session(scene: Scene, tmp_path: Path) -> None:
    reader, _ = scene.join()
    scene.let(0.5)
    scene.stream.change(clip.read(write_video(tmp_path / "b.mp4", codec="libx265")))
    assert reader.ended == "abort" and scene.stream.count.ended == {"scenario": 1}
    again, _ = scene.join()
    scene.let(2.0)
    assert again.read(Codec.H265)[0][0].key


def test_a_reset_says_nothing_and_a_close_says_goodbye(scene: Scene) -> None:
    reset, _ = scene.join()
    scene.let(0.2)
    size = len(reset.data)
    scene.stream.end_all("reset", "scenario")
    assert (reset.ended, len(reset.data)) == ("abort", size)
    closed, _ = scene.join()
    scene.let(0.2)
    scene.stream.end_all("close", "scenario")
    assert closed.ended == "close" and closed.data[-7:-4] == b"\xcb\x00\x01"


def test_nothing_is_early_and_being_late_is_counted(scene: Scene) -> None:
    done: list[int] = []
    due_us = scene.clock.monotonic_us() + 123_456
    scene.wheel.at(due_us, done.append)
    scene.let(0.12)
    assert done == []
    scene.let(0.02)
    assert due_us <= done[0] <= due_us + 2 * SLOT_US
    assert scene.wheel.late == 0
    scene.wheel.at(scene.clock.monotonic_us() + 1, done.append)
    scene.let(0.5, slots=LATE_US // SLOT_US + 5)
    assert scene.wheel.late == 1 and scene.wheel.latest_us > LATE_US
