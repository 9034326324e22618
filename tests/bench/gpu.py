"""The adapter `yolo` on a GPU: are its boxes right, and how many frames a second does it look at?

On demand: it needs a Python with the extra `yolo` that sees a GPU, and LAMPPOST_DATA's weights;
without them the row says so. In f32 its boxes must be those of the adapter `onnxruntime` on the
processor. Frames are JPEGs as ingest makes them, from a real street; a worker does all of what
`lamppost run detect` does with a frame but reading it from the bus.
"""

from __future__ import annotations

import hashlib
import importlib
import multiprocessing
import subprocess
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Empty
from typing import Any, NamedTuple

import cv2
import simplejpeg

from services.detect import analyst
from services.detect.detector import Detector, Picture
from services.detect.frame_queue import Frame
from services.detect.open_detector import open_detector
from shared.clock import SECOND_US
from shared.messages import FrameMeta
from shared.settings import Settings
from tests.bench import measure
from tests.bench.measure import CLOCK, Figure, Row
from tests.support.detecting import DATA, equal_share, pictures_of

WEIGHTS = DATA / "weights" / "yolo26n-rec.pt"
ORACLE = DATA / "weights" / "yolo26n-rec-640.onnx"
CLIP = DATA / "footage" / "towncentre_10s_1080p.mp4"
EVERY = 9
WIDTH, HEIGHT, QUALITY = 640, 360, 80
EQUAL, NEAR = 0.99, 0.95
ALONE = 0.999
"""In f32 a picture's boxes depend on nothing beside it."""
BATCHES = (1, 8, 32)
BATCH = 8
WORKERS = (1, 2, 4, 8)
CAMERAS = 64
SECONDS, ANSWER_S = 6.0, 180.0


class Work(NamedTuple):
    """What one worker process did."""

    frames: int
    wall_s: float
    cpu_s: float
    sightings: int


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    row = Row("yolo26n 640x640 on a GPU")
    if small or (lacking := missing()):
        row.notes.append("not run: " + ("it is no small row" if small else lacking))
        return row
    torch = importlib.import_module("torch")
    row.notes.append(f"{torch.cuda.get_device_name(0)}; torch {torch.__version__}")
    pictures = [picture for _, picture in pictures_of(CLIP, EVERY)]
    _boxes(row, folder, pictures)
    for batch in BATCHES:
        row.figures.append(_rate(folder, batch, [*pictures, *pictures][: 2 * BATCHES[-1]]))
    for count in WORKERS:
        _together(row, folder, count)
    return row


def missing() -> str:
    """Why there is nothing to measure; empty when there is."""
    try:
        importlib.import_module("ultralytics")
        torch = importlib.import_module("torch")
    except ImportError as error:
        return str(error)
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    return "" if WEIGHTS.exists() and CLIP.exists() else f"{WEIGHTS} or {CLIP} is not there"


def settings_of(folder: Path, model: Path, **detect: object) -> Settings:
    given = {
        "model": str(model),
        "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "adapter": "yolo",
        "device": "cuda:0",
        **detect,
    }
    return Settings.model_validate({"state_dir": folder, "detect": given})


def opened(folder: Path, model: Path, **detect: object) -> Detector:
    return open_detector(settings_of(folder, model, **detect))


def _boxes(row: Row, folder: Path, pictures: Sequence[Picture]) -> None:
    """The same boxes as on the processor: almost all in f32, most in f16."""
    oracle = opened(folder, ORACLE, adapter="onnxruntime", precision="f32")
    wanted = oracle.detect(pictures)
    row.expect(sum(map(len, wanted)) > 0, "nothing was found")
    for precision, least in (("f32", EQUAL), ("auto", NEAR)):
        detector = opened(folder, WEIGHTS, precision=precision, batch=BATCH)
        found = detector.detect(pictures)
        alone = [detector.detect([picture])[0] for picture in pictures]
        share, same = equal_share(found, wanted), equal_share(found, alone)
        said = f"{share:.2%} of {sum(map(len, wanted))} boxes equal to ONNX Runtime's in f32"
        row.expect(share >= least, said)
        row.expect(
            same >= (ALONE if precision == "f32" else least), f"{same:.2%} of boxes are as alone"
        )
        row.notes.append(
            f"{detector.facts.precision} ({detector.facts.runtime}): {said}; alone and in "
            f"batches of {BATCH}: {same:.2%}"
        )
        detector.close()


def _rate(folder: Path, batch: int, pictures: Sequence[Picture]) -> Figure:
    """Pictures of 640 x 360 to boxes, one process, nothing but the detector."""
    detector = opened(folder, WEIGHTS, batch=batch)
    ready = [cv2.resize(picture, (WIDTH, HEIGHT)) for picture in pictures]
    figure = Figure(f"pictures to boxes, batches of {batch}", "a second", None)
    detector.detect(ready)
    for _ in range(5):
        with measure.costing() as cost:
            detector.detect(ready)
        figure.ours.append(len(ready) / cost[0].wall_s)
    detector.close()
    return figure


def _together(row: Row, folder: Path, count: int) -> None:
    """So many workers on the one GPU, each with its share of the cameras."""
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(count + 1), context.Queue()
    workers = [
        context.Process(target=worker, args=(folder, number, count, ready, answers))
        for number in range(count)
    ]
    for process in workers:
        process.start()
    ready.wait(ANSWER_S)
    busy = _utilisation()
    try:
        done: list[Work] = [answers.get(timeout=ANSWER_S) for _ in workers]
    except Empty as error:
        raise RuntimeError("a worker did not answer") from error
    for process in workers:
        process.join(ANSWER_S)
    rate = sum(work.frames / work.wall_s for work in done)
    row.figures.append(Figure(f"frames to sightings, {count} workers", "a second", None, [rate]))
    row.expect(all(work.sightings for work in done), "a worker saw nothing")
    cpu_ms = 1000 * sum(work.cpu_s for work in done) / sum(work.frames for work in done)
    row.notes.append(f"{count} workers: {cpu_ms:.2f} ms of processor a frame; GPU {busy}")


def _utilisation() -> str:
    """Of the GPU, as its own tool tells it, in the middle of the measurement."""
    measure.rest(SECONDS / 2)
    asked = "--query-gpu=utilization.gpu,memory.used"
    command = ["nvidia-smi", asked, "--format=csv,noheader"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return told.stdout.strip()


def worker(folder: Path, number: int, count: int, ready: Barrier, answers: Any) -> None:
    """One worker process: its cameras' frames turn about, for some seconds."""
    settings = settings_of(folder, WEIGHTS, batch=BATCH)
    looking = analyst.Analyst(settings, CLOCK, analyst.product())
    looking.open()
    pictures = [cv2.resize(one, (WIDTH, HEIGHT)) for _, one in pictures_of(CLIP, EVERY)]
    jpegs = [simplejpeg.encode_jpeg(picture, QUALITY) for picture in pictures]
    cameras = [f"cam-{name}" for name in range(number, CAMERAS, count)]
    begin_us = CLOCK.now_us()
    _look(looking, cameras, jpegs, begin_us, 0)
    ready.wait(ANSWER_S)
    began_us, turn, seen = CLOCK.monotonic_us(), 1, 0
    with measure.costing() as cost:
        while CLOCK.monotonic_us() - began_us < SECONDS * SECOND_US:
            seen += _look(looking, cameras, jpegs, begin_us, turn)
            turn += 1
    frames = (turn - 1) * len(cameras)
    answers.put(Work(frames, cost[0].wall_s, cost[0].cpu_s, seen))
    looking.shut()


def _look(
    looking: analyst.Analyst,
    cameras: Sequence[str],
    jpegs: Sequence[bytes],
    begin_us: int,
    turn: int,
) -> int:
    """A frame of each camera, which has moved on by a fifth of a second; updates told."""
    told = 0
    capture_us = begin_us + turn * SECOND_US // 5
    for start in range(0, len(cameras), BATCH):
        frames = [
            Frame(
                FrameMeta(name, capture_us, 0, WIDTH, HEIGHT, 1, turn, SECOND_US // 5),
                jpegs[(turn + start + place) % len(jpegs)],
                ("frames", 0),
                turn,
            )
            for place, name in enumerate(cameras[start : start + BATCH])
        ]
        told += sum(len(looked.updates) for looked in looking.analyse(frames, {}))
    return told
