"""Frames to boxes: 1080p pictures of eight cameras, one core, against ultralytics on the same file.

All sides get the same decoded pictures, load the same ONNX model, are held to one thread on one
core, and run turn about. Ours is timed as it works in production, at the precision that OpenVINO
chooses for the processor, and in f32, where its boxes must be the peer's. Ultralytics is no
dependency: the row runs it with the Python named by YOLO_PYTHON, and without one, as in CI, only
compares the runtimes' boxes. The weights are LAMPPOST_DATA's; without them a tiny generated model
looks at a generated street.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
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
CHOSEN, OURS, ORACLE, PEER = "chosen", "openvino", "onnxruntime", "ultralytics"
NEAR = 0.9
"""What a lower precision may move: a bound to notice a broken one by, not a goal."""


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
        self.precision: str = self._answer()["precision"]

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
    row.notes.append("one core; ours: OpenVINO; peer: ultralytics predict, ONNX Runtime in f32")
    return row


def _compare(
    row: Row, folder: Path, frames: Path, model: Path, python: str | None, rounds: int
) -> None:
    log = folder / "sides.log"
    sides = {
        name: Side(name, sys.executable, frames, model, log) for name in (CHOSEN, OURS, ORACLE)
    }
    if python is not None:
        sides[PEER] = Side(PEER, python, frames, model, log)
    try:
        rows = [{name: side.round() for name, side in sides.items()} for _ in range(rounds)]
    finally:
        for side in sides.values():
            side.end()
    precision = sides[CHOSEN].precision
    against = PEER if python is not None else ORACLE
    reach = 0.5 if python is not None else None
    row.figures += [
        _figure(f"{model.stem}: a round in {precision}, wall", reach, rows, CHOSEN, against, 0),
        _figure(f"{model.stem}: a round in {precision}, CPU", None, rows, CHOSEN, against, 1),
        _figure(f"{model.stem}: a round in f32, wall", None, rows, OURS, against, 0),
        _figure(f"{model.stem}: f32 on ONNX Runtime, wall", None, rows, ORACLE, against, 0),
    ]
    _judge(row, model.stem, sides)


def _figure(
    what: str,
    reach: float | None,
    rounds: Sequence[Mapping[str, tuple[float, float]]],
    ours: str,
    peer: str,
    at: int,
) -> Figure:
    """Wall (`at` 0) or CPU (1) of two sides."""
    costs = [[costs[name][at] for costs in rounds] for name in (ours, peer)]
    return Figure(what, "s", reach, *costs)


def _judge(row: Row, model: str, sides: Mapping[str, Side]) -> None:
    """Whose boxes are the same: in f32 almost all; in less, most."""
    ours = sides[OURS].found
    count = sum(map(len, ours))
    row.expect(count > 0, f"{model} found nothing")
    for name, other in sides.items():
        if name == OURS:
            continue
        share = equal_share(ours, other.found)
        least = EQUAL if other.precision == "f32" else NEAR
        said = f"{model}: {share:.2%} of {count} boxes in f32 equal at IoU .95 to {name}'s"
        row.expect(share >= least, said)
        row.notes.append(f"{said} ({other.precision})")
    row.notes.append(f"{model}: {measure.load()}")


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
