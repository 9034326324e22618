"""A recorder as its own process: from the topic `cameras` to spool, statuses, frames and live."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import msgspec

from services.ingest.spool_view import Listed
from shared import fmp4
from shared.bus import Consumer, Message
from shared.clock import SECOND_US, SystemClock
from shared.domain import Camera, RecordingState, Source
from shared.messages import (
    CameraChanged,
    FrameMeta,
    RecorderStatus,
    StatusChanged,
    StatusEvent,
    decode,
    encode,
)
from shared.platform import Platform, open_platform
from shared.settings import Settings
from tests.support.video import write_video
from tests.support.wait import until

ROOT = Path(__file__).parents[2]
SLOW_S = 60.0
"""Start-up of a process on a busy machine."""


class Heard:
    """The newest word of each camera and recorder."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self.cameras: dict[str, StatusChanged] = {}
        self.recorder: RecorderStatus | None = None

    async def listen(self) -> None:
        for record in await self._consumer.poll(timeout_s=0.05):
            event = decode(record.value, StatusEvent)  # type: ignore[arg-type]
            if isinstance(event, StatusChanged):
                self.cameras[event.camera_id] = event
            elif isinstance(event, RecorderStatus):
                self.recorder = event

    async def until_all(self, names: list[str], state: RecordingState) -> None:
        async def said() -> bool:
            await self.listen()
            return all(n in self.cameras and self.cameras[n].state is state for n in names)

        await until(said, SLOW_S, f"all {state.value}")


@asynccontextmanager
async def process(state_dir: Path, footage: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LAMPPOST_")},
        "LAMPPOST_STATE_DIR": str(state_dir),
        "LAMPPOST_INSTANCE": "recorder-1",
        "LAMPPOST_INGEST__FOOTAGE_DIRS": f'["{footage}"]',
        "LAMPPOST_INGEST__STATUS_INTERVAL_S": "0.5",
        "LAMPPOST_SPOOL__MIN_FREE_RATIO": "0",
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services", "run", "ingest", env=env, cwd=ROOT
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def listed(platform: Platform, client: httpx2.AsyncClient) -> list[Listed]:
    now_us = platform.clock.now_us()
    answer = await client.get(
        "/internal/segments",
        params={"camera": "cam-1", "start_us": now_us - 600 * SECOND_US, "end_us": now_us},
    )
    return msgspec.json.decode(answer.content, type=list[Listed])


async def test_a_recorder_process_from_camera_to_live_and_a_clean_end(tmp_path: Path) -> None:
    footage = tmp_path / "footage"
    footage.mkdir()
    video = write_video(footage / "street.mp4", frames=100)
    platform = await open_platform(
        Settings.model_validate({"state_dir": tmp_path / "state"}), SystemClock()
    )
    heard = Heard(await platform.bus.consumer(["camera-status"], start="latest"))
    frames = await platform.bus.consumer(["frames"], group="test", start="latest")
    names = ["cam-1", "cam-2"]
    cameras = [
        Camera(id=name, name=name, source=Source(url=video.resolve().as_uri())) for name in names
    ]
    await platform.bus.publish(
        [Message("cameras", camera.id, encode(CameraChanged(camera))) for camera in cameras]
    )
    async with process(tmp_path / "state", footage) as child:
        await heard.until_all(names, RecordingState.RECORDING)
        sampled: list[FrameMeta] = []

        async def has_frames() -> bool:
            found = await frames.poll(timeout_s=0.05)
            assert all(record.value.startswith(b"\xff\xd8") for record in found)
            sampled.extend(FrameMeta.of(record.headers) for record in found)
            return {meta.camera_id for meta in sampled} == set(names)

        await until(has_frames, SLOW_S, "frames of both cameras")
        url = heard.cameras["cam-1"].recorder_url
        async with httpx2.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {platform.internal_key}"},
            trust_env=False,
            timeout=20,
        ) as client:
            [growing] = await listed(platform, client)
            assert growing.open and growing.fragments
            answer = await client.get(f"/internal/segments/{growing.id}/bytes")
            assert fmp4.parse_init(answer.content).codec == growing.codec
            live = bytearray()
            async with client.stream("GET", "/internal/live", params={"camera": "cam-1"}) as stream:
                async for data in stream.aiter_bytes():
                    live += data
                    whole = list(fmp4.parse_fragments(bytes(live), growing.init_size))
                    if len(whole) >= 2:
                        break
            assert live[: growing.init_size] == answer.content[: growing.init_size]
            assert whole[0].key
        started_us = platform.clock.monotonic_us()
        child.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), 20) == 0
        assert platform.clock.monotonic_us() - started_us < 10 * SECOND_US
        await heard.until_all(names, RecordingState.STOPPED)

        async def said_so() -> bool:
            await heard.listen()
            return heard.recorder is not None and heard.recorder.stopped

        await until(said_so)
    spool = tmp_path / "state" / "spool" / "recorder-1"
    assert not list((spool / "tmp").iterdir()), "everything is filed"
    assert len(list((spool / "new").glob("*.mp4"))) >= 2
    await platform.close()
