"""The service on a real embedded bus with a fake model: what it reads, tells, counts, commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.detect import service as module
from services.detect.service import DetectService, build
from shared import metrics
from shared.bus import Consumer, Message
from shared.clock import SECOND_US, SimulatedClock, SystemClock
from shared.domain import Camera, Source
from shared.errors import Kind, LamppostError
from shared.messages import (
    CameraChanged,
    DetectionEvent,
    DetectorStatus,
    FrameAnalysed,
    FramesPassedOver,
    SightingUpdated,
    decode,
    encode,
)
from shared.platform import Platform, open_platform
from shared.runtime import Stop
from shared.settings import Settings
from shared.sightings import Zone
from tests.support.detection import FakeDetector, Fakes, frame, jpeg
from tests.support.wait import until

NO_MODEL = LamppostError(Kind.NOT_FOUND, "There is no model.", fix="lamppost model fetch")


class World:
    """A worker without its loops: each step is asked for."""

    def __init__(self, platform: Platform, settings: Settings, heard: Consumer) -> None:
        self.platform = platform
        self.clock = platform.clock
        self.settings = settings
        self.fakes = Fakes()
        self.service: DetectService = build(platform, settings, self.fakes.parts)
        self._heard = heard

    async def publish(self, *messages: Message) -> None:
        await self.platform.bus.publish(list(messages))

    async def step(self) -> None:
        """Read, look, settle."""
        while await self.service.read_once(0):
            pass
        while await self.service.worker.run_once():
            pass
        await self.service.settle()

    async def heard(self) -> list[Any]:
        found: list[Any] = []
        for record in await self._heard.poll(timeout_s=0):
            of: Any = SightingUpdated if record.topic == "sightings" else DetectionEvent
            found.append(decode(record.value, of))
        return found


@asynccontextmanager
async def a_world(folder: Path, **detect: Any) -> AsyncIterator[World]:
    settings = Settings.model_validate(
        {"state_dir": folder, "instance": "detector-001", "detect": detect}
    )
    platform = await open_platform(settings, SimulatedClock(), database=False)
    try:
        heard = await platform.bus.consumer(["detections", "sightings"], start="earliest")
        world = World(platform, settings, heard)
        await world.step()
        yield world
    finally:
        await platform.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as made:
        yield made


def counted(name: str, **labels: str) -> Callable[[], float]:
    """How much the counter has grown since."""
    name = f"lamppost_{name}_total"

    def value() -> float:
        return metrics.REGISTRY.get_sample_value(name, labels) or 0

    before = value()
    return lambda: value() - before


async def test_a_frame_becomes_boxes_and_a_sighting(world: World) -> None:
    analysed, begun = counted("frames_analysed"), counted("sightings_sent", class_name="person")
    at_us = world.clock.now_us()
    await world.publish(frame("cam", at_us, sequence=7, covers_us=5))
    await world.step()
    boxes, sighting = sorted(await world.heard(), key=lambda event: type(event).__name__)
    assert isinstance(boxes, FrameAnalysed) and isinstance(sighting, SightingUpdated)
    assert (boxes.model, boxes.model_sha256, boxes.precision) == ("fake", "0" * 64, "f32")
    assert (boxes.camera_id, boxes.capture_us, boxes.covers_us) == ("cam", at_us, 5)
    assert (boxes.sequence, boxes.width, boxes.height, boxes.model) == (7, 64, 48, "fake")
    assert boxes.boxes[0].sighting_id == sighting.sighting.id
    assert analysed() == begun() == 1
    status = world.service.status()
    assert (status.analysed, status.sightings, status.cameras) == (1, 1, 1)
    assert (status.model, status.precision, status.detail) == ("fake", "f32", "")


async def test_frames_that_nobody_looks_at_are_counted_and_told_by_reason(world: World) -> None:
    reasons = ("too_old", "superseded", "undecodable", "unreadable")
    counts = {reason: counted("frames_skipped", reason=reason) for reason in reasons}
    now_us = world.clock.now_us()
    second = SECOND_US
    await world.publish(
        frame("old", now_us - 4 * second, covers_us=second),
        frame("old", now_us - 3 * second, covers_us=second),
        frame("twice", now_us - second, covers_us=second),
        frame("twice", now_us, covers_us=second),
        frame("torn", now_us, b"\xff\xd8\xff no picture"),
        Message("frames", "odd", b""),
    )
    await world.step()
    assert {reason: count() for reason, count in counts.items()} == {
        "too_old": 2,
        "superseded": 1,
        "undecodable": 1,
        "unreadable": 1,
    }
    told = {e.camera_id: e for e in await world.heard() if isinstance(e, FramesPassedOver)}
    assert told["old"] == FramesPassedOver(
        "old", now_us - 5 * second, now_us - 3 * second, 2, "too_old"
    )
    assert told["twice"] == FramesPassedOver(
        "twice", now_us - 2 * second, now_us - second, 1, "superseded"
    )
    assert (told["torn"].frames, told["torn"].reason) == (1, "undecodable")
    assert world.service.status().skipped == 4


async def test_a_batch_spans_cameras_and_keeps_to_its_limit(tmp_path: Path) -> None:
    async with a_world(tmp_path, batch=4) as world:
        now_us = world.clock.now_us()
        await world.publish(*(frame(f"cam-{n}", now_us) for n in range(6)))
        await world.step()
        assert world.fakes.detector.passes == [4, 2]


async def test_one_refused_picture_spoils_no_other(tmp_path: Path) -> None:
    async with a_world(tmp_path, batch=4) as world:
        world.fakes.detector.refuses = (20, 30)
        now_us = world.clock.now_us()
        await world.publish(
            frame("a", now_us), frame("bad", now_us, jpeg(30, 20)), frame("c", now_us)
        )
        await world.step()
        events = await world.heard()
        assert {e.camera_id for e in events if isinstance(e, FrameAnalysed)} == {"a", "c"}
        [passed] = [e for e in events if isinstance(e, FramesPassedOver)]
        assert (passed.camera_id, passed.reason) == ("bad", "undecodable")


async def test_a_picture_too_large_to_bear_is_not_decoded(world: World) -> None:
    header = bytearray(frame("cam", 0).value)
    at = header.index(b"\xff\xc0") + 5
    header[at : at + 4] = (60_000).to_bytes(2, "big") * 2
    await world.publish(frame("cam", world.clock.now_us(), bytes(header)))
    await world.step()
    [passed] = await world.heard()
    assert passed.reason == "undecodable" and world.fakes.detector.passes == []


async def test_without_a_model_frames_pass_and_it_looks_again(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        clock = world.clock
        assert isinstance(clock, SimulatedClock)
        world.fakes.missing = NO_MODEL
        world.service = build(world.platform, world.settings, world.fakes.parts)
        await world.step()
        for _ in range(2):
            await world.publish(frame("cam", clock.now_us(), covers_us=SECOND_US))
            await world.step()
            await clock.advance(1)
        told = await world.heard()
        assert [event.reason for event in told] == ["no_model", "no_model"]
        status = world.service.status()
        assert status.model == "" and status.detail == "There is no model. lamppost model fetch"
        world.fakes.missing = None
        await world.step()
        assert world.service.worker.facts is None, "it looks again every 5 s, not at each frame"
        await clock.advance(4)
        await world.step()
        await world.publish(frame("cam", clock.now_us()))
        await world.step()
        assert any(isinstance(event, FrameAnalysed) for event in await world.heard())


async def test_a_detector_that_fails_is_opened_anew(world: World) -> None:
    clock = world.clock
    assert isinstance(clock, SimulatedClock)
    world.fakes.detector.fails = [RuntimeError("the device is gone")]
    await world.publish(frame("cam", clock.now_us()))
    await world.step()
    [passed] = await world.heard()
    assert passed.reason == "no_model"
    assert "the device is gone" in world.service.status().detail
    assert world.fakes.detector.closed and world.fakes.opened == 1
    await clock.advance(2)
    await world.step()
    await world.publish(frame("cam", clock.now_us()))
    await world.step()
    assert world.fakes.opened == 2
    assert any(isinstance(event, FrameAnalysed) for event in await world.heard())


async def test_a_tracker_that_fails_costs_its_camera_alone(world: World) -> None:
    clock = world.clock
    assert isinstance(clock, SimulatedClock)
    now_us = clock.now_us()
    await world.publish(frame("a", now_us), frame("b", now_us))
    await world.step()
    await world.heard()
    world.fakes.followers["a"].fails = True
    await world.publish(frame("a", now_us + 1), frame("b", now_us + 1))
    await world.step()
    events = await world.heard()
    boxes = {e.camera_id: e.boxes for e in events if isinstance(e, FrameAnalysed)}
    assert boxes["a"][0].sighting_id == "" and boxes["b"][0].sighting_id
    assert boxes["a"][0].w == pytest.approx(20 / 64)
    await world.publish(frame("a", now_us + 2))
    await world.step()
    assert not world.fakes.followers["a"].fails, "a new one follows"


async def test_what_is_seen_no_more_ends_by_itself(world: World) -> None:
    clock = world.clock
    assert isinstance(clock, SimulatedClock)
    await world.publish(frame("cam", clock.now_us()))
    await world.step()
    await world.heard()
    await clock.advance(4)
    await world.step()
    [update] = await world.heard()
    assert isinstance(update, SightingUpdated) and update.ended


async def test_zones_are_known_before_the_first_frame_and_followed(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:

        def changed(*names: str) -> Message:
            points = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))
            zones = tuple(Zone(id=n, kind="zone", name=n, points=points) for n in names)
            camera = Camera(id="cam", name="cam", source=Source("rtsp://cam/"))
            return Message("cameras", "cam", encode(CameraChanged(camera, zones)))

        await world.publish(Message("cameras", "odd", b"{"), changed("gate"))
        stop = Stop()
        running = asyncio.create_task(world.service.run(stop))
        await until(lambda: world.service.worker.facts is not None, what="the model")
        await world.publish(frame("cam", world.clock.now_us()))
        await until(lambda: "cam" in world.fakes.followers, what="the first frame")
        assert [zone.name for zone in world.fakes.followers["cam"].zones] == ["gate"]
        await world.publish(changed("gate", "yard"))

        async def both() -> bool:
            assert isinstance(world.clock, SimulatedClock)
            await world.clock.advance(2.1)
            await world.publish(frame("cam", world.clock.now_us()))
            return len(world.fakes.followers["cam"].zones) == 2

        await until(both, what="the new zone", every_s=0.1)
        stop.set()
        async with asyncio.timeout(5):
            await running


async def test_offsets_follow_the_results(world: World) -> None:
    """What was read and not looked at yet comes again to the next worker."""
    await world.publish(frame("cam", world.clock.now_us()))
    await world.step()
    await world.publish(frame("cam", world.clock.now_us() + 1))
    await world.service.read_once(0)
    await world.service.settle()
    await world.service.leave()
    other = build(world.platform, world.settings, world.fakes.parts)
    assert await other.read_once(0)
    await other.worker.run_once()
    await other.settle()
    await other.leave()
    assert not await build(world.platform, world.settings, world.fakes.parts).read_once(0)
    assert world.fakes.detector.passes == [1, 1]


async def test_a_second_worker_takes_over_and_the_first_ends_its_sightings(world: World) -> None:
    now_us = world.clock.now_us()
    cameras = [f"cam-{number}" for number in range(12)]
    await world.publish(*(frame(name, now_us) for name in cameras))
    await world.step()
    begun = {e.sighting.camera_id for e in await world.heard() if isinstance(e, SightingUpdated)}
    assert begun == set(cameras)
    settings = world.settings.model_copy(update={"instance": "detector-002"})
    others = Fakes()
    second = build(world.platform, settings, others.parts)
    for _ in range(4):
        await second.read_once(0)
        await world.service.read_once(0)
    await world.service.settle()
    ended = {
        e.sighting.camera_id
        for e in await world.heard()
        if isinstance(e, SightingUpdated) and e.ended
    }
    assert ended and ended < set(cameras)
    await world.publish(*(frame(name, now_us + 1) for name in cameras))
    await world.step()
    while await second.read_once(0):
        pass
    while await second.worker.run_once():
        pass
    assert set(others.followers) == ended, "each camera is with one worker"
    await second.leave()


async def test_it_ends_when_told_and_tells_what_it_knew(tmp_path: Path) -> None:
    settings = Settings.model_validate({"state_dir": tmp_path, "instance": "detector-001"})
    platform = await open_platform(settings, SystemClock(), database=False)
    topics = ["sightings", "camera-status"]
    heard = await platform.bus.consumer(topics, start="earliest")
    fakes = Fakes()
    service = build(platform, settings, fakes.parts)
    stop = Stop()
    running = asyncio.create_task(service.run(stop))
    await until(lambda: service.worker.facts is not None, what="the model")

    async def seen() -> bool:
        await platform.bus.publish([frame("cam", platform.clock.now_us())])
        return "cam" in fakes.followers

    await until(seen, what="a frame is looked at", every_s=0.1)
    started_us = platform.clock.monotonic_us()
    stop.set()
    async with asyncio.timeout(5):
        await running
    assert platform.clock.monotonic_us() - started_us < 1.5 * SECOND_US
    records = await heard.poll(timeout_s=0)
    updates = [decode(r.value, SightingUpdated) for r in records if r.topic == "sightings"]
    states = [decode(r.value, DetectorStatus) for r in records if r.topic == "camera-status"]
    assert updates[-1].ended
    assert states[-1].stopped and states[-1].analysed >= 1
    assert fakes.detector.closed
    await platform.close()


async def test_a_detector_that_hangs_ends_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its supervisor starts another; the sightings of this one end by silence."""
    monkeypatch.setattr(module, "HUNG_S", 0.3)
    monkeypatch.setattr(module, "STATUS_S", 0.1)
    settings = Settings.model_validate({"state_dir": tmp_path, "instance": "detector-001"})
    platform = await open_platform(settings, SystemClock(), database=False)
    fakes = Fakes(FakeDetector(delay_s=1.5))
    service = build(platform, settings, fakes.parts)
    running = asyncio.create_task(service.run(Stop()))
    await until(lambda: service.worker.facts is not None, what="the model")

    async def over() -> bool:
        await platform.bus.publish([frame("cam", platform.clock.now_us())])
        return running.done()

    await until(over, what="it ends by itself", every_s=0.1)
    with pytest.raises(LamppostError, match="hung"):
        await running
    await platform.close()
