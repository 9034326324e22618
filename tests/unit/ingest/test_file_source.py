"""A replayed file: where it may lie, how it is paced, and how it loops."""

from __future__ import annotations

import itertools
import math
import threading
from pathlib import Path

import pytest

from services.ingest.file_source import FileSource, footage_path
from services.ingest.source import Packet, SourceError
from shared.clock import SimulatedClock
from shared.domain import ClockSource, Codec, GapReason
from tests.support import recording
from tests.support.video import write_video


class PacingClock(SimulatedClock):
    """Waits pass at once and move the time, as if the thread had slept."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if not event.is_set():
            self.set_us(self.now_us() + round(seconds * 1e6))
        return event.is_set()


def source(path: Path, clock: SimulatedClock | None = None, **how: object) -> FileSource:
    settings = recording.settings_for(path.parent / "state", path.parent)
    return FileSource(recording.file_camera(path, **how), settings, clock or PacingClock())


def read(opened: FileSource, count: int) -> list[Packet]:
    return [opened.read() for _ in range(count)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=50, b_frames=2)


def test_a_file_below_the_folder_is_found_and_others_are_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a b.mp4").write_bytes(b"x")
    (inside / "link.mp4").symlink_to(outside / "a b.mp4")
    good = inside / "a b.mp4"
    assert footage_path(good.as_uri(), (inside,)) == good
    for url in (
        (outside / "a b.mp4").as_uri(),
        (inside / "link.mp4").as_uri(),
        f"file://{inside}/../out/a%20b.mp4",
        f"file://host{good}",
        "file:///etc/passwd",
    ):
        with pytest.raises(SourceError) as caught:
            footage_path(url, (inside,))
        assert caught.value.reason is GapReason.HOST_NOT_ALLOWED, url
    with pytest.raises(SourceError):
        footage_path(good.as_uri(), ())
    for url in ((inside / "none.mp4").as_uri(), inside.as_uri()):
        with pytest.raises(SourceError) as caught:
            footage_path(url, (inside,))
        assert caught.value.reason is GapReason.STREAM_NOT_FOUND


def test_what_is_no_video_is_a_broken_stream(tmp_path: Path) -> None:
    path = tmp_path / "noise.mp4"
    path.write_bytes(b"not a video " * 500)
    with pytest.raises(SourceError) as caught:
        source(path).open()
    assert caught.value.reason is GapReason.BROKEN_STREAM
    assert str(tmp_path) not in caught.value.detail


def test_packets_come_at_their_time(clip: Path) -> None:
    clock = PacingClock()
    opened = source(clip, clock)
    begin = clock.now_us()
    info = opened.open()
    assert (info.codec, info.width, info.height) == (Codec.H264, 128, 96)
    assert info.clock_source is ClockSource.FILE_REPLAY
    packets = read(opened, 50)
    assert [p.received_us - begin for p in packets] == [i * 40_000 for i in range(50)]
    assert clock.now_us() - begin == 49 * 40_000
    opened.close()


def test_a_loop_runs_on_without_a_seam(clip: Path) -> None:
    opened = source(clip)
    opened.open()
    packets = read(opened, 150)
    stamps = [p.dts for p in packets]
    assert {b - a for a, b in itertools.pairwise(stamps)} == {stamps[1] - stamps[0]}
    assert [p.data for p in packets[50:100]] == [p.data for p in packets[:50]]
    received = [p.received_us for p in packets]
    assert {b - a for a, b in itertools.pairwise(received)} == {40_000}
    opened.close()


def test_once_ends_for_good(clip: Path) -> None:
    opened = source(clip, loop=False)
    opened.open()
    read(opened, 50)
    with pytest.raises(SourceError) as caught:
        opened.read()
    assert caught.value.reason is GapReason.SOURCE_ENDED
    assert caught.value.retry_after_s == math.inf


@pytest.mark.parametrize(("offset_s", "left"), [(1.2, 25), (0.5, 50), (3.2, 25)])
def test_an_offset_starts_at_the_key_frame_before_it(
    clip: Path, offset_s: float, left: int
) -> None:
    opened = source(clip, loop=False, offset_s=offset_s)
    opened.open()
    first = opened.read()
    assert first.key
    count = 1 + sum(1 for _ in iter(lambda: _next(opened), None))
    assert count == left


def _next(opened: FileSource) -> Packet | None:
    try:
        return opened.read()
    except SourceError:
        return None


def test_faster_than_real_time_starts_in_the_past_and_stops_at_now(clip: Path) -> None:
    clock = PacingClock()
    now = clock.now_us()
    opened = source(clip, clock, speed=1000.0)
    opened.open()
    first = opened.read()
    assert first.received_us == now - 24 * 3_600_000_000
    opened.close()
    resumed = FileSource(
        recording.file_camera(clip, speed=10.0),
        recording.settings_for(clip.parent / "state", clip.parent),
        clock,
        clock.now_us() - 2_000_000,
    )
    resumed.open()
    latest = 0
    with pytest.raises(SourceError) as caught:
        for _ in range(1_000):
            latest = resumed.read().received_us
            assert latest <= clock.now_us()
    assert caught.value.reason is GapReason.SOURCE_ENDED
    assert clock.now_us() - latest < 100_000


def test_an_interrupt_ends_a_wait(clip: Path) -> None:
    opened = source(clip)
    opened.open()
    opened.read()
    opened.interrupt()
    with pytest.raises(SourceError):
        opened.read()


def test_a_clock_that_was_set_ends_the_connection(clip: Path) -> None:
    clock = PacingClock()
    opened = source(clip, clock)
    opened.open()
    read(opened, 10)
    clock.jump_wall(-3_600_000_000)
    with pytest.raises(SourceError) as caught:
        read(opened, 10)
    assert caught.value.reason is GapReason.TIMESTAMP_JUMP
