"""Frames to boxes: 1080p pictures of eight cameras, one core, against ultralytics on the same file.

Both sides get the same decoded pictures, load the same ONNX model, are held to one thread on one
core, and run turn about; ours computes in f32. Ultralytics is no dependency: the row runs it with
the Python named by YOLO_PYTHON, and without one, as in CI, only compares the two runtimes' boxes.
The weights are LAMPPOST_DATA's; without them a tiny generated model looks at a generated street.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from services.detect.detector import Found, Picture
from services.detect.outputs import Layout
from tests.bench import footage, measure
from tests.bench.detect_side import CAMERAS
from tests.bench.measure import Figure, Row
from tests.support.detecting import DATA, Block, equal_share, paint, pictures_of, tiny_model

MODELS = ("yolo26n-rec-384x640.onnx", "yolo11n-rec-384x640.onnx")
CLIP = DATA / "footage" / "towncentre_10s_1080p.mp4"
EVERY = 9
PASSES, SMALL_PASSES = 4, 1
ROUNDS = 5
EQUAL = 0.99
SIDE = Path(__file__).with_name("detect_side.py")
OURS, ORACLE, PEER = "openvino", "onnxruntime", "ultralytics"


class Side:
    """A process that looks whenever it is told."""

    def __init__(self, name: str, python: str, frames: Path, model: Path, log: Path) -> None:
        self.name = name
        self.found: list[list[Found]] = []
        # Nothing of this environment but what a program needs: no setting, no other packages.
        env = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        env["YOLO_CONFIG_DIR"] = str(frames.parent)
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [python, str(SIDE), name, str(frames), str(model)],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        self._log = log
        self._answer()

    def round(self) -> tuple[float, float]:
        """Wall and CPU seconds of one look at every frame."""
        assert self._process.stdin is not None
        self._process.stdin.write("look\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.found = [[Found(*box) for box in boxes] for boxes in answer["found"]]
        return float(answer["wall_s"]), float(answer["cpu_s"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        # A library may greet on standard output.
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        said = self._log.read_text("utf-8", "replace")[-2000:]
        raise RuntimeError(f"the side {self.name} ended: {said}")

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    passes = SMALL_PASSES if small else PASSES
    frames = folder / "frames.npy"
    np.save(frames, np.stack(list(_pictures(passes * CAMERAS))))
    python = None if small else os.environ.get("YOLO_PYTHON")
    row = Row(f"detect: {passes * CAMERAS} frames of 1080p from {CAMERAS} cameras to boxes")
    if python is None:
        row.notes.append("the peer was not run: YOLO_PYTHON names a Python that has ultralytics")
    for model in _models(folder):
        _compare(row, folder, frames, model, python, 1 if small else ROUNDS)
    row.notes.append("one core; ours: OpenVINO in f32; peer: ultralytics predict, ONNX Runtime")
    return row


def _compare(
    row: Row, folder: Path, frames: Path, model: Path, python: str | None, rounds: int
) -> None:
    log = folder / "sides.log"
    sides = [Side(name, sys.executable, frames, model, log) for name in (OURS, ORACLE)]
    if python is not None:
        sides.append(Side(PEER, python, frames, model, log))
    reach = 0.5 if python is not None else None
    wall = Figure(f"{model.stem}: a round, wall", "s", reach)
    cpu = Figure(f"{model.stem}: a round, CPU", "s", None)
    oracle = Figure(f"{model.stem}: ours against ours on ONNX Runtime, wall", "s", None)
    try:
        for _ in range(rounds):
            costs = {side.name: side.round() for side in sides}
            for figure, against, at in (
                (wall, PEER, 0),
                (cpu, PEER, 1),
                (oracle, ORACLE, 0),
            ):
                figure.ours.append(costs[OURS][at])
                if against in costs:
                    figure.peer.append(costs[against][at])
    finally:
        for side in sides:
            side.end()
    ours, *others = sides
    count = sum(map(len, ours.found))
    row.expect(count > 0, f"{model.stem} found nothing")
    for other in others:
        share = equal_share(ours.found, other.found)
        row.expect(share >= EQUAL, f"{model.stem}: {share:.2%} of boxes equal to {other.name}'s")
        row.notes.append(
            f"{model.stem}: {share:.2%} of boxes equal at IoU .95 to {other.name}'s ({count} boxes)"
        )
    row.notes.append(f"{model.stem}: {measure.load()}")
    row.figures += [wall, cpu, oracle]


def _models(folder: Path) -> Sequence[Path]:
    found = [path for path in (DATA / "weights" / name for name in MODELS) if path.exists()]
    if found:
        return found
    tiny = folder / "tiny.onnx"
    tiny.write_bytes(tiny_model(Layout.ANCHORS))
    return [tiny]


def _pictures(count: int) -> Iterator[Picture]:
    """`count` pictures: the real clip over and over, else generated ones with blocks in them."""
    if CLIP.exists():
        real = [picture for _, picture in pictures_of(CLIP, EVERY)]
        yield from (real[number % len(real)] for number in range(count))
        return
    width, height = footage.FULL.width, footage.FULL.height
    for number in range(count):
        blocks = [Block(number % 9, 3 + number % 4, "person"), Block(2, 4, "car", 0.7)]
        yield paint(width, height, blocks)
