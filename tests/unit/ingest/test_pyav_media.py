"""The media path under faults: a state, a gap with its reason, and recording again."""

from __future__ import annotations

import asyncio
import hashlib
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from services.ingest import spool_guard
from services.ingest.accounting import Account
from services.ingest.media import FragmentWritten, MediaEvent, SegmentFiled, StateChanged
from services.ingest.pyav_media import EventQueue, PyAvMedia
from services.ingest.source import Packet, SourceError, StreamInfo
from services.ingest.spool_guard import Room, SpoolGuard
from shared.clock import SimulatedClock, SystemClock
from shared.domain import Camera, Gap, GapReason, Maintenance, Mask, RecordingState, Source
from shared.settings import Settings, Spool
from shared.spool import RecorderSpool
from tests.support import recording
from tests.support.packets import picture, stream_info

CLOCK = SystemClock()


class SkippingClock(SystemClock):
    """The machine's clock, moved forward by the scripts: a picture takes no real time."""

    def __init__(self) -> None:
        self._skipped_us = 0
        self._lock = threading.Lock()

    def skip(self, us: int) -> None:
        with self._lock:
            self._skipped_us += us

    def now_us(self) -> int:
        return super().now_us() + self._skipped_us

    def monotonic_us(self) -> int:
        return super().monotonic_us() + self._skipped_us


class Script:
    """A PacketSource that plays what it was given, at once, then waits to be interrupted."""

    clock: SkippingClock

    def __init__(self, *steps: object, hang_open: bool = False) -> None:
        self._steps: Iterator[object] = iter(steps)
        self._interrupted = threading.Event()
        self._hang_open = hang_open
        self.closed = False

    def open(self) -> StreamInfo:
        if self._hang_open:
            self._hang()
        return stream_info()

    def read(self) -> Packet:
        step = next(self._steps, None)
        if step is None:
            self._hang()
        if isinstance(step, Exception):
            raise step
        assert isinstance(step, Packet)
        self.clock.skip(40_000)
        return step._replace(received_us=self.clock.now_us())

    def _hang(self) -> None:
        self._interrupted.wait(30)
        raise SourceError(GapReason.CONNECTION_LOST, "interrupted")

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        self.closed = True


def seconds(count: int) -> list[Packet]:
    """25 pictures a second, a key frame each second."""
    return [picture(i, i * 40, key=i % 25 == 0) for i in range(count * 25 + 1)]


def camera(camera_id: str = "cam-1", **more: object) -> Camera:
    return Camera(id=camera_id, name="x", source=Source(url="rtsp://camera/1"), **more)


class Rig:
    """A media path whose cameras play scripts."""

    def __init__(
        self, state_dir: Path, *scripts: Script, samples: bool = False, **settings: object
    ) -> None:
        self.settings = Settings.model_validate(
            {"state_dir": state_dir, "spool": {"min_free_ratio": 0}, **settings}
        )
        self.scripts = list(scripts)
        self._left = iter(self.scripts)
        self.clock = SkippingClock()
        self.spool = recording.spool_of(self.settings)
        self.events: list[MediaEvent] = []
        self.media = PyAvMedia(
            self.settings,
            self.clock,
            self.spool,
            source_factory=self._next,
            sampler_factory=None if samples else lambda _camera, _emit: None,
        )

    def _next(self, _camera: Camera) -> Script:
        script = next(self._left, None) or Script(hang_open=True)
        script.clock = self.clock
        return script

    async def until(self, condition: Callable[[list[MediaEvent]], object]) -> None:
        deadline_us = CLOCK.monotonic_us() + 15_000_000
        while not condition(self.events):
            assert CLOCK.monotonic_us() < deadline_us, self.events
            self.events += await self.media.events(0.1)

    async def close(self, reason: GapReason = GapReason.RECORDER_STOPPED) -> list[Gap]:
        before_us = CLOCK.monotonic_us()
        await self.media.close(reason)
        assert CLOCK.monotonic_us() - before_us < 4_500_000
        self.events += await self.media.events(0)
        names = [thread.name for thread in threading.enumerate()]
        assert not [name for name in names if name.startswith("cam-")]
        return recording.read_spool(self.settings)[1]


def said(reason: GapReason) -> Callable[[list[MediaEvent]], object]:
    return lambda events: [e for e in events if isinstance(e, StateChanged) and e.reason is reason]


def is_recording(count: int = 1) -> Callable[[list[MediaEvent]], object]:
    return lambda events: (
        count
        <= sum(isinstance(e, StateChanged) and e.state is RecordingState.RECORDING for e in events)
    )


def fragments(count: int) -> Callable[[list[MediaEvent]], object]:
    return lambda events: sum(isinstance(e, FragmentWritten) for e in events) >= count


def check_ledger(settings: Settings, camera_id: str = "cam-1") -> None:
    """From the first row to the last no hole."""
    segments, gaps = recording.read_spool(settings)
    rows = sorted(
        [(s.start_us, s.end_us) for s, _ in segments if s.camera_id == camera_id]
        + [(g.start_us, g.end_us) for g in gaps if g.camera_id == camera_id]
    )
    reached = rows[0][1]
    for start, end in rows[1:]:
        assert start <= reached, f"{(start - reached) / 1e6} s are unaccounted for"
        reached = max(reached, end)


@pytest.mark.parametrize(
    "fault",
    [
        SourceError(GapReason.CONNECTION_LOST, "reset"),
        SourceError(GapReason.SILENT),
        ValueError("a bug"),
    ],
    ids=["lost", "silent", "bug"],
)
async def test_a_fault_is_a_gap_and_recording_goes_on(tmp_path: Path, fault: Exception) -> None:
    rig = Rig(tmp_path, Script(*seconds(4), fault), Script(*seconds(1)))
    rig.media.add(camera())
    await rig.until(is_recording(2))
    gaps = await rig.close()
    reason = fault.reason if isinstance(fault, SourceError) else GapReason.BROKEN_STREAM
    assert reason in {gap.reason for gap in gaps}
    assert all(script.closed for script in rig.scripts)
    assert len(recording.read_spool(rig.settings)[0]) == 2
    check_ledger(rig.settings)


async def test_a_source_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Script(hang_open=True), Script(*seconds(2)))
    rig.media.add(camera("cam-1"))
    rig.media.add(camera("cam-2"))
    await rig.until(fragments(2))
    await rig.close()
    assert {s.camera_id for s, _ in recording.read_spool(rig.settings)[0]} <= {"cam-1", "cam-2"}


async def test_removal_files_the_open_segment_and_names_its_reason(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Script(*seconds(2)))
    rig.media.add(camera())
    await rig.until(fragments(2))
    rig.media.remove("cam-1", GapReason.MOVED)
    await rig.until(lambda events: any(isinstance(e, SegmentFiled) for e in events))
    gaps = await rig.close()
    assert gaps[-1].reason is GapReason.MOVED
    assert rig.spool.stopped_because("cam-1") == "moved"


async def test_a_stop_and_a_start_leave_no_hole(tmp_path: Path) -> None:
    first = Rig(tmp_path, Script(*seconds(2)))
    first.media.add(camera())
    await first.until(fragments(2))
    await first.close()
    second = Rig(tmp_path, Script(*seconds(1)))
    second.clock.skip(10_000_000)
    assert second.media.epoch > first.media.epoch
    second.media.add(camera())
    await second.until(is_recording())
    gaps = await second.close()
    assert GapReason.RECORDER_STOPPED in {gap.reason for gap in gaps}
    assert GapReason.RECORDER_DOWN not in {gap.reason for gap in gaps}
    check_ledger(first.settings)


async def test_after_a_death_the_rest_is_repaired_and_the_down_time_named(tmp_path: Path) -> None:
    first = Rig(tmp_path / "a", Script(*seconds(3)))
    first.media.add(camera())
    await first.until(fragments(3))
    # The copy is what a killed process leaves behind.
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    await first.close()
    second = Rig(tmp_path / "b", Script(*seconds(1)))
    # Each rig's clock starts at the machine's: the second life begins after the first one's end.
    second.clock.skip(10_000_000)
    second.media.add(camera())
    await second.until(is_recording())
    gaps = await second.close()
    segments = recording.read_spool(second.settings)[0]
    assert [s.repaired for s, _ in segments] == [True, False]
    down = [gap.start_us for gap in gaps if gap.reason is GapReason.RECORDER_DOWN]
    assert down == [segments[0][0].end_us]
    check_ledger(second.settings)


async def test_leavings_of_cameras_that_went_elsewhere_are_filed_too(tmp_path: Path) -> None:
    first = Rig(tmp_path / "a", Script(*seconds(3)))
    first.media.add(camera())
    await first.until(fragments(3))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    await first.close()
    clock = SimulatedClock(CLOCK.now_us())
    settings = Settings.model_validate({"state_dir": tmp_path / "b"})
    media = PyAvMedia(settings, clock, recording.spool_of(settings))
    await media.events(0)
    assert recording.read_spool(settings)[0] == []
    clock.set_us(clock.now_us() + 20_000_000)
    filed: list[MediaEvent] = []
    while not filed:
        filed = await media.events(1.0)
    await media.close(GapReason.RECORDER_STOPPED)
    assert [s.repaired for s, _ in recording.read_spool(settings)[0]] == [True]


async def test_another_source_restarts_the_recording_the_same_one_changes_nothing(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, Script(*seconds(2)), Script(*seconds(2)))
    rig.media.add(camera())
    await rig.until(fragments(2))
    rig.media.add(camera())
    assert rig.media.cameras() == ("cam-1",)
    rig.media.add(msgspec.structs.replace(camera(), source=Source(url="rtsp://camera/2")))
    await rig.until(is_recording(2))
    await rig.close()
    assert len(recording.read_spool(rig.settings)[0]) == 2
    check_ledger(rig.settings)


async def test_a_new_name_or_plan_does_not_interrupt_the_recording(tmp_path: Path) -> None:
    lost = Script(*seconds(2))
    rig = Rig(tmp_path, lost, Script(SourceError(GapReason.UNREACHABLE)))
    rig.media.add(camera())
    await rig.until(fragments(2))
    now = rig.clock.now_us()
    planned = (Maintenance(now - 60_000_000, now + 60_000_000),)
    rig.media.add(camera(district="north", version=2, maintenance=planned))
    assert not lost.closed and is_recording(1)(rig.events) and not is_recording(2)(rig.events)
    lost.interrupt()  # and the plan is known when the camera goes
    await rig.until(said(GapReason.MAINTENANCE))
    gaps = await rig.close()
    segments = recording.read_spool(rig.settings)[0]
    assert len(segments) == 1
    after = [gap.reason for gap in gaps if gap.start_us >= segments[0][0].end_us]
    assert set(after) == {GapReason.MAINTENANCE}
    check_ledger(rig.settings)


@pytest.mark.parametrize(
    ("changes", "state", "reason"),
    [
        ({"enabled": False}, RecordingState.DISABLED, GapReason.DISABLED),
        (
            {"mask": Mask(polygons=(((0, 0), (1, 0), (1, 1)),), applied_by="lamppost")},
            RecordingState.REFUSED,
            GapReason.MASK_NOT_BUILT,
        ),
    ],
)
async def test_cameras_that_are_not_to_be_recorded(
    tmp_path: Path, changes: dict[str, object], state: RecordingState, reason: GapReason
) -> None:
    rig = Rig(tmp_path, Script(*seconds(1)))
    rig.media.add(camera(**changes))
    await rig.until(said(reason))
    gaps = await rig.close()
    assert any(e.state is state for e in rig.events if isinstance(e, StateChanged))
    assert reason in {gap.reason for gap in gaps}
    assert recording.read_spool(rig.settings)[0] == []


async def test_planned_maintenance_explains_what_is_not_recorded(tmp_path: Path) -> None:
    now = CLOCK.now_us()
    planned = (Maintenance(now - 60_000_000, now + 60_000_000),)
    rig = Rig(tmp_path, Script(SourceError(GapReason.UNREACHABLE)))
    rig.media.add(camera(maintenance=planned))
    await rig.until(said(GapReason.MAINTENANCE))
    gaps = await rig.close()
    assert {gap.reason for gap in gaps} == {GapReason.MAINTENANCE}


async def test_a_full_spool_is_a_gap_and_recording_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(
        tmp_path,
        Script(*seconds(30)),
        Script(*seconds(1)),
        spool={"max_bytes": 20_000, "min_free_ratio": 0},
    )
    monkeypatch.setattr(spool_guard, "USAGE_INTERVAL_US", 0)
    monkeypatch.setattr(spool_guard, "SECOND_US", 0)
    rig.media.add(camera())
    await rig.until(said(GapReason.SPOOL_FULL))
    segments, _ = recording.read_spool(rig.settings)
    assert segments and all(len(data) == s.size_bytes for s, data in segments)
    for path in rig.spool.new.iterdir():
        path.unlink()
    await rig.until(is_recording(2))
    gaps = await rig.close()
    assert GapReason.SPOOL_FULL in {gap.reason for gap in gaps}


async def test_a_volume_that_refuses_writes_is_survived(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Script(*seconds(4)), Script(*seconds(1)))
    kept = rig.spool.tmp
    kept.rmdir()
    rig.media.add(camera())
    await rig.until(said(GapReason.SPOOL_FULL))
    kept.mkdir()
    await rig.until(is_recording())
    gaps = await rig.close()
    assert GapReason.SPOOL_FULL in {gap.reason for gap in gaps}


async def test_a_write_that_is_refused_halfway_leaves_whole_fragments(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Script(*seconds(40)), Script(*seconds(1)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, hard))
    try:
        rig.media.add(camera())
        await rig.until(said(GapReason.SPOOL_FULL))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await rig.until(is_recording(2))
    gaps = await rig.close()
    assert GapReason.SPOOL_FULL in {gap.reason for gap in gaps}
    first, data = recording.read_spool(rig.settings)[0][0]
    assert hashlib.sha256(data).hexdigest() == first.sha256
    assert len(data) == sum(f.size for f in first.fragments) + first.init_size <= 6_000
    check_ledger(rig.settings)


def test_low_disk_stops_and_a_little_more_room_resumes(tmp_path: Path) -> None:
    clock, room = SimulatedClock(), [Room(50, 1000)]
    guard = SpoolGuard(
        Spool(min_free_ratio=0.1), RecorderSpool(tmp_path, "local"), clock, lambda _: room[0]
    )

    def after(free: int) -> GapReason | None:
        room[0] = Room(free, 1000)
        clock.set_us(clock.now_us() + 2_000_000)
        return guard.why_not()

    assert guard.why_not() is GapReason.DISK_LOW
    assert after(102) is GapReason.DISK_LOW
    assert after(106) is None
    assert after(100) is None
    assert after(99) is GapReason.DISK_LOW


async def test_a_slow_reader_loses_fragments_and_nothing_else(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Script(*seconds(10)))
    rig.media.add(camera())
    await rig.until(fragments(5))
    sample = next(e for e in rig.events if isinstance(e, FragmentWritten))
    await rig.close()
    queue = EventQueue(max_bytes=len(sample.data) * 3)
    state = StateChanged("cam-1", RecordingState.RECORDING, 1)
    queue.put(state)
    for _ in range(10):
        queue.put(sample)
    left = await queue.get(0)
    assert state in left
    assert 1 <= left.count(sample) <= 3
    assert queue.dropped == 10 - left.count(sample)


async def test_a_reader_that_is_cancelled_as_an_event_comes_ends() -> None:
    queue = EventQueue()

    async def read_all() -> None:
        while True:
            await queue.get(30.0)

    reader = asyncio.create_task(read_all())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    queue.put(StateChanged("cam-1", RecordingState.RECORDING, 1, 1))
    # The event wakes the reader in the turn in which the cancel reaches it.
    asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, reader.cancel)
    done, _ = await asyncio.wait({reader}, timeout=5)
    reader.cancel()
    assert done and reader.cancelled()


async def test_a_long_outage_is_filed_in_pieces(tmp_path: Path) -> None:
    filed: list[Gap] = []
    spool = RecorderSpool(tmp_path, "local")
    account = Account(camera(), spool, "local", 1, filed.append)
    account.begin(1_000_000, replay=False)
    account.blame(GapReason.UNREACHABLE, "rtsp://user:word@host", 2_000_000)
    for second in range(2, 200):
        account.tick(second * 1_000_000)
    assert [(g.start_us, g.end_us) for g in filed] == [
        (1_000_000, 2_000_000),
        (2_000_000, 62_000_000),
        (62_000_000, 122_000_000),
        (122_000_000, 182_000_000),
    ]
    assert filed[-1].detail == "rtsp://***@host"
    assert spool.accounted_until("cam-1") == 182_000_000


async def test_a_camera_that_comes_from_a_dead_recorder_leaves_no_hole(tmp_path: Path) -> None:
    RecorderSpool(tmp_path, "dead").set_accounted_until("cam-1", 5_000_000)
    filed: list[Gap] = []
    account = Account(camera(), RecorderSpool(tmp_path, "alive"), "alive", 1, filed.append)
    account.begin(20_000_000, replay=False)
    assert [(g.start_us, g.end_us, g.reason) for g in filed] == [
        (5_000_000, 20_000_000, GapReason.RECORDER_DOWN)
    ]


@pytest.mark.parametrize("sample", [True, False])
async def test_a_recorder_can_do_without_analysis_frames(tmp_path: Path, sample: bool) -> None:
    rig = Rig(tmp_path, Script(*seconds(3)), samples=True, ingest={"sample": sample})
    rig.media.add(camera())
    await rig.until(fragments(2))
    assert ("sample-cam-1" in {thread.name for thread in threading.enumerate()}) is sample
    await rig.close()
    assert len(recording.read_spool(rig.settings)[0]) == 1
