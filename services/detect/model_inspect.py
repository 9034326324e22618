"""Whether a model file is one that the detector understands, and what it then is.

It is opened and run on a black picture with the runtime that would run it in service, which is the
only honest answer. docs/model-card.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from services.detect.model_store import Model, hash_of
from services.detect.onnx_detector import open_runtime, read_model
from services.detect.open_detector import open_model
from services.detect.outputs import layout_of, names_of
from shared.errors import Kind, LamppostError
from shared.settings import Settings


class Inspected(NamedTuple):
    """What a model file is."""

    sha256: str
    classes: tuple[str, ...]
    height: int
    width: int
    layout: str


def inspect(path: Path, settings: Settings, sha256: str | None = None) -> Inspected:
    """Open and run it. NOT_FOUND, CORRUPT when it has not the hash `sha256`, INVALID when the
    detector does not understand it or it knows none of the classes that the settings keep."""
    if not path.is_file():
        raise LamppostError(Kind.NOT_FOUND, f"There is no model file {path}.")
    digest = sha256 or hash_of(path)
    detect = settings.detect
    runtime = open_runtime(
        read_model(path, digest),
        "auto" if detect.adapter == "yolo" else detect.adapter,
        detect.precision,
    )
    try:
        classes = names_of(runtime.metadata, ())
        layout = layout_of(runtime.run().shape, len(classes))
        height, width = runtime.canvas.shape[1:3]
    finally:
        runtime.close()
    detector = open_model(Model(path.stem, path, digest, None), settings)
    try:
        detector.detect([np.zeros((height, width, 3), np.uint8)])
    finally:
        detector.close()
    return Inspected(digest, classes, int(height), int(width), layout.value)
