"""The recorder process on a real embedded bus, with a media path that a test drives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from services.ingest.assignment import PATIENCE_US
from services.ingest.media import GapFiled, StateChanged
from shared.bus import Bus, Consumer, Message, Record
from shared.bus.partitioner import partition_of
from shared.clock import SECOND_US, SimulatedClock
from shared.domain import Gap, GapReason, RecordingState
from shared.errors import Kind, LamppostError
from shared.ids import new_id
from shared.messages import (
    FrameMeta,
)
from shared.platform import Platform, open_platform
from shared.spool import SpoolReader
from tests.support.fake_media import FakeRecording, camera
from tests.support.ingest_world import World, a_world, configure, settings_of
from tests.support.wait import until


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as made:
        yield made


async def test_cameras_of_the_topic_are_recorded_and_only_changes_are_told(world: World) -> None:
    await world.configure(camera("a"), camera("b"))
    await world.configure(camera("a", version=2))
    await world.service.membership.run_once()
    assert sorted(world.media.calls) == [("add", "a"), ("add", "b")]
    assert world.media.cameras["a"].version == 2
    await world.service.membership.run_once()
    await world.configure(camera("b", version=2), camera("c"))
    await world.service.membership.run_once()
    assert sorted(world.media.calls[2:]) == [("add", "b"), ("add", "c")]
    await world.configure(camera("b", version=3, deleted_at_us=1))
    await world.service.membership.run_once()
    assert world.media.calls[4:] == [("remove", "b disabled")]


async def test_an_unreadable_camera_is_set_aside(world: World) -> None:
    await world.platform.bus.publish([Message("cameras", "a", b"nonsense")])
    await world.configure(camera("b"))
    await world.service.membership.run_once()
    assert world.media.calls == [("add", "b")]


async def test_what_is_recorded_is_said_with_rates_and_address(world: World) -> None:
    await world.configure(camera("cam-1"))
    world.start()
    assert (await world.until_state("cam-1", RecordingState.CONNECTING)).epoch >= world.media.epoch
    world.media.state("cam-1", RecordingState.RECORDING, codec="h264", width=640, height=360)
    recording = FakeRecording(world.spool)
    world.media.report(*(recording.write(b"x" * 1_000) for _ in range(4)))

    async def measured() -> bool:
        await world.hear()
        last = world.last("cam-1")
        return last is not None and last.recorded_us == 4 * SECOND_US

    await until(measured)
    status = world.last("cam-1")
    assert status is not None
    assert (status.state, status.codec, status.width) == (RecordingState.RECORDING, "h264", 640)
    assert status.rate_fps == 25 and status.bitrate_bps == 8_000
    assert status.recorder_url.startswith("http://127.0.0.1:")
    assert world.recorders[-1].cameras == ("cam-1",)
    assert world.recorders[-1].url == status.recorder_url
    assert world.recorders[-1].free_bytes > 0


async def test_a_status_says_up_to_when_the_camera_is_accounted_for(world: World) -> None:
    """By video and by gaps, so that who takes over from a dead recorder leaves no hole."""
    await world.configure(camera("cam-1"))
    world.start()
    assert (await world.until_state("cam-1", RecordingState.CONNECTING)).accounted_until_us is None
    written = FakeRecording(world.spool).write(b"x" * 1_000)
    world.media.report(written)
    world.media.state("cam-1", RecordingState.RECORDING)
    said = await world.until_state("cam-1", RecordingState.RECORDING)
    assert said.accounted_until_us == written.fragment.end_us
    end_us = written.fragment.end_us + 3 * SECOND_US
    gap = Gap(
        id=new_id(),
        camera_id="cam-1",
        start_us=written.fragment.end_us,
        end_us=end_us,
        reason=GapReason.SILENT,
    )
    world.media.report(GapFiled(gap), GapFiled(msgspec.structs.replace(gap, camera_id="other")))
    world.media.state("cam-1", RecordingState.RETRYING, reason=GapReason.SILENT)
    said = await world.until_state("cam-1", RecordingState.RETRYING)
    assert said.accounted_until_us == end_us
    assert world.last("other") is None, "of a camera that is not its own it says nothing"


async def test_a_state_is_said_at_once_and_again_at_intervals(tmp_path: Path) -> None:
    async with a_world(tmp_path, status_interval_s=600) as world:
        await world.configure(camera("a"))
        world.start()
        await world.until_state("a", RecordingState.CONNECTING)
        world.media.state("a", RecordingState.RETRYING, reason=GapReason.SILENT, detail="quiet")
        said = await world.until_state("a", RecordingState.RETRYING)
        assert (said.reason, said.detail) == (GapReason.SILENT, "quiet")
        count = len(world.statuses)
        await world.service.report()

        async def again() -> bool:
            await world.hear()
            return len(world.statuses) > count

        await until(again)
        assert world.statuses[-1].since_us == said.since_us


async def test_the_end_files_everything_and_says_so(world: World) -> None:
    await world.configure(camera("a"))
    world.start()
    await world.until_state("a", RecordingState.CONNECTING)
    await world.end()
    assert world.media.closed is GapReason.RECORDER_STOPPED
    await world.hear()
    last = world.last("a")
    assert last is not None and last.state is RecordingState.STOPPED
    assert world.recorders[-1].stopped
    owners = await (
        await world.platform.bus.consumer(["cameras"], group="ingest", member="other")
    ).owners()
    assert "recorder-1" not in owners.values()


async def test_over_the_limit_is_refused_loudly_and_accounted_for(tmp_path: Path) -> None:
    clock = SimulatedClock()
    async with a_world(tmp_path, clock, max_streams=1) as world:
        await world.configure(camera("a"), camera("b"))
        await world.service.membership.run_once()
        assert world.media.calls == [("add", "a")]
        await world.service.report()
        await world.service._out.flush()
        await world.hear()
        said = world.last("b")
        assert said is not None and said.state is RecordingState.REFUSED
        assert said.reason is GapReason.OVER_CAPACITY and "Start another" in said.detail
        await clock.advance(61)
        await world.service.membership.run_once()
        # A place becomes free: the account ends where the recording begins.
        await world.configure(camera("a", deleted_at_us=1))
        await clock.advance(5)
        await world.service.membership.run_once()
        assert ("add", "b") in world.media.calls
        reader = SpoolReader(tmp_path / "spool")
        gaps = sorted(
            (reader.read_gap(item) for item in reader.filed()), key=lambda gap: gap.start_us
        )
        assert {gap.camera_id for gap in gaps} == {"b"}
        assert {gap.reason for gap in gaps} == {GapReason.OVER_CAPACITY}
        assert sum(gap.end_us - gap.start_us for gap in gaps) == 66 * SECOND_US
        assert world.spool.accounted_until("b") == clock.now_us()


async def test_two_recorders_share_and_hand_over_without_a_stop(tmp_path: Path) -> None:
    clock = SimulatedClock()
    cameras = [camera(f"cam-{n}") for n in range(12)]
    async with a_world(tmp_path, clock) as one, a_world(tmp_path, clock, "recorder-2") as two:
        await one.configure(*cameras)
        await one.service.membership.run_once()
        assert len(one.media.cameras) == 12
        await two.service.membership.run_once()
        await one.service.membership.run_once()
        assert len(one.media.cameras) == 12, "revocation alone is not a stop"
        await two.service.membership.run_once()
        moved = set(two.media.cameras)
        assert moved and len(moved) < 12
        await one.service.membership.run_once()
        assert len(one.media.cameras) == 12, "the new recorder connects before the old one stops"
        silent = min(moved)
        for name in moved - {silent}:
            await two.say(StateChanged(name, RecordingState.RECORDING, clock.now_us()))
        await one.service.membership.run_once()
        assert set(one.media.cameras) == {c.id for c in cameras} - moved | {silent}
        await clock.advance(PATIENCE_US / SECOND_US)
        await two.service.membership.run_once()
        await one.service.membership.run_once()
        assert set(one.media.cameras) == {c.id for c in cameras} - moved
        assert {call for call in one.media.calls if call[0] == "remove"} == {
            ("remove", f"{name} moved") for name in moved
        }
        # Back again, when the second leaves: with a higher epoch than its last word.
        await two.service.membership.leave()
        before = one.service._book._cameras.get("cam-0")
        await one.service.membership.run_once()
        assert set(one.media.cameras) == {c.id for c in cameras}
        for name in moved:
            epoch = one.service._book.message(name).epoch
            assert epoch > two.service._book.message(name).epoch
            assert one.media.epochs[name] == epoch, "segments and statuses have the same"
        assert one.service._book._cameras.get("cam-0") is before or "cam-0" in moved


class BrokenBus:
    """A bus that is away."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.away = False

    async def publish(self, messages: list[Message]) -> None:
        self._check()
        await self._bus.publish(messages)

    async def consumer(self, *args: object, **kwargs: object) -> Consumer:
        self._check()
        return BrokenConsumer(self, await self._bus.consumer(*args, **kwargs))  # type: ignore

    async def partitions(self, topic: str) -> int:
        self._check()
        return await self._bus.partitions(topic)

    async def trim(self, now_us: int) -> int:
        return await self._bus.trim(now_us)

    async def close(self) -> None:
        await self._bus.close()

    def _check(self) -> None:
        if self.away:
            raise LamppostError(Kind.UNAVAILABLE, "away")


class BrokenConsumer:
    def __init__(self, bus: BrokenBus, consumer: Consumer) -> None:
        self._broken = bus
        self._consumer = consumer

    @property
    def assignment(self) -> frozenset[tuple[str, int]]:
        return self._consumer.assignment

    async def poll(self, max_records: int = 500, timeout_s: float = 1.0) -> list[Record]:
        self._broken._check()
        return await self._consumer.poll(max_records, min(timeout_s, 0.05))

    @property
    def positions(self) -> object:
        return self._consumer.positions

    async def owners(self) -> object:
        self._broken._check()
        return await self._consumer.owners()

    async def close(self) -> None:
        await self._consumer.close()


async def test_while_the_bus_is_away_recording_goes_on_and_statuses_wait(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    platform = await open_platform(settings)
    bus = BrokenBus(platform.bus)
    broken = Platform(
        platform.clock,
        bus,
        platform.blobs,
        platform.database,
        platform.internal_key,  # type: ignore
    )
    watcher = await platform.bus.consumer(["camera-status"], start="earliest")
    world = World(broken, settings, watcher)
    await configure(platform.bus, camera("a"))
    world.start()
    await world.until_state("a", RecordingState.CONNECTING)
    bus.away = True
    world.media.state("a", RecordingState.RECORDING)
    world.media.frame("a", 1)

    async def dropped() -> bool:
        return world.service._book.message("a").frames_dropped == 1

    await until(dropped, what="the frame is dropped, not kept")
    assert list(world.media.cameras) == ["a"] and world.media.calls == [("add", "a")]
    bus.away = False
    await world.until_state("a", RecordingState.RECORDING)
    await world.end()
    await platform.close()


async def test_frames_reach_the_bus_with_their_headers(world: World) -> None:
    reader = await world.platform.bus.consumer(["frames"], start="earliest")
    await world.configure(camera("a"))
    world.start()
    await world.until_state("a", RecordingState.CONNECTING)
    for number in range(3):
        world.media.frame("a", number, b"jpeg %d" % number)
    found: list[Record] = []

    async def arrived() -> bool:
        found.extend(await reader.poll(timeout_s=0.05))
        return len(found) == 3

    await until(arrived)
    assert [record.value for record in found] == [b"jpeg 0", b"jpeg 1", b"jpeg 2"]
    assert [FrameMeta.of(record.headers).sequence for record in found] == [0, 1, 2]
    headers = dict(found[0].headers)
    assert headers["content-type"] == b"image/jpeg" and headers["ce_specversion"] == b"1.0"
    assert len({dict(record.headers)["ce_id"] for record in found}) == 3


async def test_a_flood_of_frames_is_bounded_and_counted(world: World) -> None:
    await world.configure(camera("a"))
    await world.service.membership.run_once()
    for number in range(500):
        world.media.frame("a", number)
    await world.service.run_once()
    status = world.service._book.message("a")
    assert status.frames_dropped == 500 - 96


async def test_late_events_of_a_camera_that_was_let_go_are_ignored(world: World) -> None:
    world.media.state("ghost", RecordingState.STOPPED)
    world.media.report(FakeRecording(world.spool, "ghost").write(b"x"))
    await world.service.run_once()
    assert world.service._book.camera_ids == ()


def test_the_test_cameras_lie_on_several_partitions() -> None:
    assert len({partition_of(f"cam-{n}", 8) for n in range(12)}) > 3


async def test_a_stop_during_the_start_ends_everything(world: World) -> None:
    await world.configure(camera("a"))
    world.stop.set()
    world.start()
    await world.end()
    assert world.media.closed is GapReason.RECORDER_STOPPED


async def test_a_recorder_that_cannot_listen_records(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_settings: object) -> None:
        raise OSError("no port is free")

    monkeypatch.setattr("services.ingest.front_door.listen", refused)
    await world.configure(camera("a"))
    world.start()
    said = await world.until_state("a", RecordingState.CONNECTING)
    assert said.recorder_url == "" and list(world.media.cameras) == ["a"]
