"""One side of the row `detect`: loads a model, then looks at the same frames whenever it is told.

`python detect_side.py chosen|openvino|onnxruntime|ultralytics FRAMES.npy MODEL.onnx`. A line on
standard input is a round; its answer is a line of JSON with wall and CPU seconds and the boxes.
`chosen` is OpenVINO as it works in production, at the precision that it chooses for this processor;
it and ONNX Runtime are in f32 otherwise. The peer is ultralytics' own predict on the same file,
from a Python where it is installed; each side has one core.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from shared.clock import SECOND_US, SystemClock
from shared.sightings import CLASSES

CAMERAS = 8
THRESHOLD = 0.2
Look = Callable[[list[Any]], list[list[list[Any]]]]
"""Pictures of one pass to rows of class, confidence, x1, y1, x2, y2."""


def main(side: str, frames: Path, model: Path) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    pictures = list(np.load(frames))
    look, precision = _ultralytics(model) if side == "ultralytics" else _ours(side, model)
    if side == "ultralytics":
        # Its arrays are as OpenCV's, blue first; turning them is not counted.
        pictures = [np.ascontiguousarray(picture[..., ::-1]) for picture in pictures]
    passes = [pictures[n : n + CAMERAS] for n in range(0, len(pictures), CAMERAS)]
    look(passes[0])
    clock = SystemClock()
    print(json.dumps({"ready": True, "precision": precision}), flush=True)
    for _ in sys.stdin:
        usage, began_us = resource.getrusage(resource.RUSAGE_SELF), clock.monotonic_us()
        found = [boxes for some in passes for boxes in look(some)]
        after = resource.getrusage(resource.RUSAGE_SELF)
        wall_s = (clock.monotonic_us() - began_us) / SECOND_US
        cpu_s = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
        print(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s, "found": found}), flush=True)


def _ours(side: str, model: Path) -> tuple[Look, str]:
    from services.detect.onnx_detector import Ask, Choice, OnnxDetector, open_runtime

    runtime: Choice = "onnxruntime" if side == "onnxruntime" else "openvino"
    opened = open_runtime(model.read_bytes(), runtime, "auto" if side == "chosen" else "f32")
    detector = OnnxDetector(opened, model.stem, "", Ask(CLASSES, THRESHOLD))

    def look(pictures: list[Any]) -> list[list[list[Any]]]:
        return [[list(box) for box in boxes] for boxes in detector.detect(pictures)]

    return look, detector.facts.precision


def _ultralytics(model: Path) -> tuple[Look, str]:
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
    import cv2
    import onnxruntime
    import torch

    made = onnxruntime.InferenceSession

    def one_thread(path: Any, options: Any = None, **others: Any) -> Any:
        options = options or onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return made(path, options, **others)

    onnxruntime.InferenceSession = one_thread
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    from ultralytics import YOLO

    yolo = YOLO(model, task="detect")
    names = None

    def look(pictures: list[Any]) -> list[list[list[Any]]]:
        nonlocal names
        results = yolo.predict(
            pictures, conf=THRESHOLD, classes=asked, verbose=False, device="cpu", save=False
        )
        names = names or results[0].names
        rows = [result.boxes.data.tolist() for result in results]
        return [[[names[int(row[5])], row[4], *row[:4]] for row in some] for some in rows]

    from services.detect.coco import NAMES

    asked = [NAMES.index(name) for name in CLASSES]
    return look, "f32"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
