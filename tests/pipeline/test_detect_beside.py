"""Nothing that detects stops or slows what records: detection is killed, overloaded and fed what is
no picture while a recorder process records, and every packet of the cameras is in the segments.

A worker process with a fake detector that looks as slowly as the test wants stands for any model.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from shared.bus import Consumer, Message
from shared.clock import SECOND_US, SystemClock
from shared.domain import Camera, GapReason, RecordingState, Source
from shared.messages import (
    CameraChanged,
    DetectionEvent,
    FrameAnalysed,
    FramesPassedOver,
    StatusChanged,
    StatusEvent,
    decode,
    encode,
)
from shared.platform import Platform, open_platform
from shared.settings import Settings
from shared.spool import SpoolReader
from tests.bench import footage
from tests.support.detection import frame, jpeg
from tests.support.rtsp_world import recorded_digests, vcl_digest
from tests.support.wait import until

ROOT = Path(__file__).parents[2]
START_S = 60.0
CAMERAS = ("cam-1", "cam-2", "cam-3")
SAMPLE_FPS = 2.0
DELAY_S = 0.05
"""A frame takes so long, so that the worker manages 20 a second."""
OVERLOAD = 5


class Heard(NamedTuple):
    """When a result came, and of which frame."""

    at_us: int
    event: FrameAnalysed | FramesPassedOver


class World:
    """A recorder process on three cameras, and the bus."""

    def __init__(self, platform: Platform, clip: Path, detections: Consumer) -> None:
        self.platform = platform
        self.clip = clip
        self.heard: list[Heard] = []
        self._detections = detections
        self._picture = jpeg(640, 480)
        self._number = 0

    async def listen(self) -> None:
        """Take in what detection tells."""
        for record in await self._detections.poll(timeout_s=0.05):
            event = decode(record.value, DetectionEvent)  # type: ignore[arg-type]
            self.heard.append(Heard(self.platform.clock.now_us(), event))

    def analysed(self, camera: str | None = None) -> list[Heard]:
        return [
            one
            for one in self.heard
            if isinstance(one.event, FrameAnalysed) and camera in (None, one.event.camera_id)
        ]

    async def flood(self, cameras: int, seconds: float, *, broken: bool = False) -> None:
        """Frames of `cameras` other cameras, ten a second each; `broken`: some are no picture."""
        clock = self.platform.clock
        end_us = clock.monotonic_us() + round(seconds * SECOND_US)
        turn_us = clock.monotonic_us()
        while clock.monotonic_us() < end_us:
            self._number += 1
            data = (self._picture, self._picture[:900], b"\xff\xd8", b"")[
                self._number % 4 if broken else 0
            ]
            await self.platform.bus.publish(
                [
                    frame(f"flood-{n:02}", clock.now_us(), data, sequence=self._number)
                    for n in range(cameras)
                ]
            )
            await self.listen()
            turn_us += SECOND_US // 10
            await clock.sleep(max(0, turn_us - clock.monotonic_us()) / SECOND_US)

    def broken_walks(self) -> list[str]:
        """Where a camera's recording is not one unbroken walk through its clip."""
        walk = {digest: number for number, digest in enumerate(_digests(self.clip))}
        reader = SpoolReader(self.state / "spool")
        found: dict[str, list[tuple[int, str]]] = {camera: [] for camera in CAMERAS}
        wrong = []
        for item in reader.filed(100_000):
            if item.video is None:
                gap = reader.read_gap(item)
                # Each recording begins with a connection and ends with a stop.
                if gap.reason not in (GapReason.CONNECTING, GapReason.RECORDER_STOPPED):
                    wrong.append(f"gap {gap}")
                continue
            segment = reader.read_segment(item)
            digests = recorded_digests([(segment, item.video.read_bytes())], "h264")
            found[segment.camera_id].append((segment.start_us, " ".join(digests)))
        for camera, segments in found.items():
            digests = " ".join(text for _, text in sorted(segments)).split()
            numbers = [walk.get(digest, -1) for digest in digests]
            steps = [(b - a) % len(walk) for a, b in itertools.pairwise(numbers)]
            if len(numbers) < 20 or -1 in numbers or set(steps) != {1}:
                wrong.append(f"{camera}: {len(numbers)} pictures, steps {sorted(set(steps))}")
        return wrong

    @property
    def state(self) -> Path:
        return self.clip.parent.parent / "state"


def _digests(clip: Path) -> list[str]:
    stream = footage.read_clip(clip)
    found = [vcl_digest(sample.data, "h264") for sample in stream.samples]
    assert len(set(found)) == len(found)
    return found


def _environment(state: Path, clip: Path, instance: str) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("LAMPPOST_")},
        "LAMPPOST_STATE_DIR": str(state),
        "LAMPPOST_INSTANCE": instance,
        "LAMPPOST_INGEST__FOOTAGE_DIRS": f'["{clip.parent}"]',
        "LAMPPOST_INGEST__SEGMENT_S": "4",
        "LAMPPOST_INGEST__STATUS_INTERVAL_S": "0.5",
        "LAMPPOST_SPOOL__MIN_FREE_RATIO": "0",
        "LAMPPOST_STORES__SESSION_TIMEOUT_S": "3",
        "LAMPPOST_LOG__LEVEL": "error",
    }


@asynccontextmanager
async def process(
    env: dict[str, str], *command: str, end: int = signal.SIGTERM
) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", *command, env=env, cwd=ROOT)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.send_signal(end)
            async with asyncio.timeout(20):
                await child.wait()


@asynccontextmanager
async def detector(world: World, delay_s: float = DELAY_S) -> AsyncIterator[None]:
    """A worker that is at work; it is killed at the end."""
    env = _environment(world.state, world.clip, "detector-001")
    before = len(world.analysed())
    async with process(
        env, "tests.support.detect_process", str(delay_s), end=signal.SIGKILL
    ) as child:

        async def looks() -> bool:
            assert child.returncode is None, "it ended"
            await world.listen()
            return len(world.analysed()) > before

        await until(looks, START_S, "the worker looks at frames")
        yield


@asynccontextmanager
async def recording(folder: Path) -> AsyncIterator[World]:
    """Three cameras being recorded; at the end the recorder files what it has."""
    clips = folder / "footage"
    clips.mkdir()
    clip = footage.make_clip(clips / "clip.mp4", footage.SMALL)
    settings = Settings.model_validate({"state_dir": folder / "state"})
    platform = await open_platform(settings, SystemClock(), database=False)
    try:
        detections = await platform.bus.consumer(["detections"], start="latest")
        statuses = await platform.bus.consumer(["camera-status"], start="latest")
        source = Source(url=clip.resolve().as_uri())
        cameras = [Camera(id=c, name=c, source=source, sample_fps=SAMPLE_FPS) for c in CAMERAS]
        await platform.bus.publish(
            [Message("cameras", c.id, encode(CameraChanged(c))) for c in cameras]
        )
        world = World(platform, clip, detections)
        states: dict[str, RecordingState] = {}

        async def all_recording() -> bool:
            for record in await statuses.poll(timeout_s=0.05):
                event = decode(record.value, StatusEvent)  # type: ignore[arg-type]
                if isinstance(event, StatusChanged):
                    states[event.camera_id] = event.state
            return [states.get(c) for c in CAMERAS] == [RecordingState.RECORDING] * len(CAMERAS)

        env = _environment(world.state, clip, "recorder-001")
        async with process(env, "services", "run", "ingest"):
            await until(all_recording, START_S, "all recording")
            yield world
    finally:
        await platform.close()


@pytest.mark.timeout(120)
async def test_killing_it_and_feeding_it_nonsense_changes_no_packet(tmp_path: Path) -> None:
    async with recording(tmp_path) as world:
        for _ in range(2):
            async with detector(world):
                await world.flood(5, 1.0, broken=True)
        reasons = {
            one.event.reason for one in world.heard if isinstance(one.event, FramesPassedOver)
        }
        assert "undecodable" in reasons
    assert world.broken_walks() == []


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_overloading_it_changes_no_packet_and_is_over_soon(tmp_path: Path) -> None:
    """Five times what it manages for 12 s, then the cameras alone."""
    async with recording(tmp_path) as world:
        async with detector(world):
            began = len(world.analysed())
            await world.flood(round(OVERLOAD / DELAY_S / 10), 12.0)
            during = world.analysed()[began:]
            over_us = world.platform.clock.now_us()

            async def caught_up() -> bool:
                await world.listen()
                last = {camera: world.analysed(camera)[-1:] for camera in CAMERAS}
                now_us = world.platform.clock.now_us()
                return all(
                    one and one[0].event.capture_us > over_us and now_us - one[0].at_us < SECOND_US
                    for one in last.values()
                )

            await until(caught_up, 5.0, "within 2 s of now in 5 s")
            after = [one for one in world.analysed() if one.event.capture_us > over_us]
        per_camera = [len([o for o in during if o.event.camera_id == c]) for c in CAMERAS]
        ages_s = sorted((one.at_us - one.event.capture_us) / SECOND_US for one in during)
        late_s = max((one.at_us - one.event.capture_us) / SECOND_US for one in after)
        print(
            f"overload: {len(during)} frames looked at in 12 s, of each camera {per_camera}, "
            f"age at most {ages_s[-1]:.2f} s; after it at most {late_s:.2f} s"
        )
        assert min(per_camera) > 0, "no camera starves"
        assert late_s <= 2.0
    assert world.broken_walks() == []
