"""The whole program on replayed cameras with a model: what the rows `demo` and `sse` share.

Full size: vtest.avi of LAMPPOST_DATA, converted as the demo converts it. Small: a generated clip of
a red block that walks, and a network without weights that takes red blocks for persons.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import psutil

from services import demo, footage
from services.detect.outputs import Layout
from shared.bus import Record
from shared.clock import SECOND_US
from shared.domain import Camera
from shared.messages import DETECTIONS, DetectionEvent, FrameAnalysed, FramesPassedOver, decode
from shared.settings import Settings
from tests.bench import measure, store
from tests.bench.measure import CLOCK
from tests.support.detecting import tiny_model
from tests.support.servers.rtsp import free_port
from tests.support.wait import until_sync

DATA = Path(os.environ.get("LAMPPOST_DATA") or measure.ROOT.parent / "shared" / "data")
INSTALLED = Path(os.environ.get("LAMPPOST_STATE_DIR") or measure.ROOT / ".lamppost") / "models"
SAMPLE_FPS = 1.0
CAMERAS, FEW = 15, 3
READY_S = 120.0
END_S = 20.0


class Plan(NamedTuple):
    """The size of it."""

    cameras: int
    warm_s: float
    window_s: float
    rounds: int


def plan_of(small: bool) -> Plan:
    return Plan(FEW, 2.0, 6.0, 1) if small else Plan(CAMERAS, 15.0, 60.0, 3)


class Missing(Exception):
    """What the row needs is not on this machine; says what, and how to get it."""


def clip_of(folder: Path, *, small: bool) -> footage.Clip:
    """The footage."""
    folder.mkdir(parents=True, exist_ok=True)
    if small:
        return footage.probe(_walking_block(folder / "block.mp4"), "a red block")
    source = DATA / "footage" / "vtest.avi"
    if not source.is_file():
        raise Missing("needs footage/vtest.avi of LAMPPOST_DATA")
    made = folder / "vtest.mp4"
    rate = demo.demo_bitrate(CAMERAS, Settings().demo.max_day_bytes)
    footage.convert(source, made, rate, lambda *_: None)
    return footage.probe(made, "vtest")


def _walking_block(path: Path) -> Path:
    """8 s: over noise a block of red walks from left to right and back."""
    random = np.random.default_rng(4)
    with av.open(str(path), "w", format="mp4") as out:
        options = {"preset": "superfast", "x264-params": "keyint=10:scenecut=0:bframes=0"}
        stream = out.add_stream("libx264", rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for number in range(80):
            picture = random.integers(112, 116, (480, 640, 3), np.uint8)
            left = 8 * min(number, 80 - number)
            picture[128:256, 64 + left : 192 + left] = (255, 0, 0)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def default_model() -> dict[str, str]:
    """Settings of the default model, as it is installed in this checkout."""
    name = Settings().detect.model
    if not (INSTALLED / f"{name}.onnx").is_file():
        raise Missing(f"needs the model {name}: lamppost model fetch")
    return {"model": name, "models_dir": str(INSTALLED.resolve())}


def weights(name: str) -> dict[str, str]:
    """Settings of one of LAMPPOST_DATA's models."""
    path = DATA / "weights" / name
    if not path.is_file():
        raise Missing(f"needs weights/{name} of LAMPPOST_DATA")
    return {"model": str(path.resolve())}


def tiny(folder: Path) -> dict[str, str]:
    """Settings of the network without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.onnx"
    path.write_bytes(tiny_model(Layout.ANCHORS))
    return {"model": str(path.resolve())}


class Running(NamedTuple):
    """A program that is at work."""

    settings: Settings
    program: subprocess.Popen[bytes]
    cameras: tuple[Camera, ...]


@contextlib.contextmanager
def running(
    there: Path, clip: footage.Clip, plan: Plan, model: dict[str, str]
) -> Iterator[Running]:
    """The program on the cameras; every camera records, and frames of each were looked at."""
    settings = store.settings_of(
        there / "state",
        ingest={"footage_dirs": [str(clip.path.parent)]},
        api={"port": free_port()},
        detect=model,
        log={"level": "warning"},
    )
    cameras = demo.lay_out([clip], plan.cameras, SAMPLE_FPS)
    store.prepare(settings, cameras)
    log = there / "log"
    program = measure.spawn(store.command("all"), log, environment(settings))
    try:
        wanted = {camera.id for camera in cameras}
        until_sync(lambda: _looked_at(settings) >= wanted, READY_S, "every camera looked at", 0.5)
        yield Running(settings, program, cameras)
    except AssertionError as error:
        raise AssertionError(f"{error}: {log.read_text()[-2000:]}") from None
    finally:
        measure.end([program], signal.SIGINT, END_S)


def environment(settings: Settings) -> dict[str, str]:
    """Plain: what the supervisor gives its children is its own business."""
    from services import children

    return children.environment(settings, "local", os.environ)


def _looked_at(settings: Settings) -> set[str]:
    return {one.event.camera_id for one in told(settings) if isinstance(one.event, FrameAnalysed)}


class Told(NamedTuple):
    """A message of topic `detections`, and when it was published."""

    at_us: int
    event: FrameAnalysed | FramesPassedOver


def told(settings: Settings) -> list[Told]:
    """Everything that was said of frames so far."""

    async def work() -> list[Told]:
        found: list[Record] = []
        async with store.opened(settings) as platform:
            consumer = await platform.bus.consumer([DETECTIONS.name], start="earliest")
            while records := await consumer.poll(timeout_s=0):
                found += records
        return [Told(r.timestamp_us, decode(r.value, DetectionEvent)) for r in found]  # type: ignore[arg-type]

    return asyncio.run(work())


def cores_by_kind(program: subprocess.Popen[bytes], seconds: float) -> dict[str, float]:
    """Cores used over the next `seconds` by recorders, detectors and the rest."""
    before = _cpu_by_kind(program)
    began_us = CLOCK.monotonic_us()
    measure.rest(seconds)
    took_s = (CLOCK.monotonic_us() - began_us) / SECOND_US
    after = _cpu_by_kind(program)
    return {kind: (after[kind] - before.get(kind, 0.0)) / took_s for kind in after}


def _cpu_by_kind(program: subprocess.Popen[bytes]) -> dict[str, float]:
    found = {"recorders": 0.0, "detectors": 0.0, "supervisor": 0.0}
    for process in measure.tree([program]):
        with contextlib.suppress(psutil.NoSuchProcess):
            found[_kind(process.cmdline())] += measure.cpu_s([process])
    return found


def _kind(command: Sequence[str]) -> str:
    return {"ingest": "recorders", "detect": "detectors"}.get(
        (*command, "", "", "")[4], "supervisor"
    )
