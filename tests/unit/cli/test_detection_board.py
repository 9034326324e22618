"""What the table and the closing summary say of detection, and which workers there are."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services import children, demo, detectors, session, table
from services.board import Board, Detection
from services.footage import Clip
from shared.bus import Record
from shared.clock import SECOND_US, SystemClock
from shared.domain import Source
from shared.messages import DetectorStatus, encode
from shared.runtime import Stop
from shared.settings import Settings
from tests.support.wait import until

NOW_US = 1_795_000_000_000_000


def record(worker: str, at_s: float, analysed: int, **changes: object) -> Record:
    values: dict[str, object] = {
        "model": "coco-ssd-480x640",
        "precision": "f32",
        "cameras": 7,
        "skipped": 0,
        "lag_s": 0.4,
        "started_us": 1,
        "sightings": analysed // 10,
        **changes,
    }
    at_us = NOW_US + round(at_s * SECOND_US)
    status = DetectorStatus(worker=worker, at_us=at_us, analysed=analysed, **values)  # type: ignore[arg-type]
    return Record("camera-status", 0, 0, worker, encode(status), (), at_us)


def test_frames_of_all_workers_and_of_those_that_were_restarted_add_up() -> None:
    board = Board()
    board.take(record("detector-001", 0, 10))
    board.take(record("detector-001", 5, 50))
    board.take(record("detector-002", 5, 100))
    board.take(record("detector-001", 8, 60, started_us=2))
    board.take(record("detector-001", 13, 95, started_us=2))
    board.take(record("detector-002", 10, 130, lag_s=1.5))
    assert board.analysed == 50 + 95 + 130
    found = board.detection(NOW_US + 13 * SECOND_US)
    assert found.sightings == 5 + 9 + 13
    assert found.rate_fps == pytest.approx(35 / 5 + 30 / 5)
    assert (found.workers, found.lag_s) == (2, 1.5)
    assert found.model == "coco-ssd-480x640 (f32)"


def test_a_worker_that_is_silent_or_stopped_is_not_at_work_but_its_frames_count() -> None:
    board = Board()
    board.take(record("detector-001", 0, 10))
    board.take(record("detector-002", 0, 10, stopped=True))
    found = board.detection(NOW_US + 60 * SECOND_US)
    assert (found.workers, found.analysed, found.rate_fps) == (0, 20, 0)


def test_the_table_says_what_detection_does_or_lacks() -> None:
    at_work = Detection(2, "coco-ssd-480x640 (f32)", 14.8, 0.3, 900, 41)
    assert table.detection(at_work).plain == (
        "detection coco-ssd-480x640 (f32)   14.8 frames/s   0.3 s behind"
        "   900 frames, 41 sightings in this run"
    )
    lacking = Detection(workers=2, detail="There is no model. Run `lamppost model fetch`.")
    assert "lamppost model fetch" in table.detection(lacking).plain
    assert "no worker" in table.detection(Detection()).plain


def test_workers_follow_the_cores_at_most_one_a_partition() -> None:
    def planned(**sections: dict[str, int]) -> int:
        return detectors.plan(Settings.model_validate(sections))

    assert planned() == min(16, detectors.by_cores(detectors.cores()))
    assert [detectors.by_cores(count) for count in (1, 2, 3, 4, 16)] == [2, 4, 4, 4, 16]
    assert planned(detect={"workers": 0}) == 0
    assert planned(detect={"workers": 5}) == 5
    assert planned(detect={"workers": 5}, stores={"bus_partitions": 2}) == 2


def test_demo_cameras_sample_as_the_setting_says_and_older_ones_are_changed() -> None:
    clip = Clip(Path("/clips/street.mp4"), 60.0, 300_000, "street")
    new = demo.lay_out([clip], 2, 1.0)
    assert {camera.sample_fps for camera in new} == {1.0}
    old = demo.lay_out([clip], 2)
    assert session._outdated(old[0], new[0]) and not session._outdated(new[0], new[0])
    assert session._as_the_demo(new[0])(old[0]) == new[0]
    own = demo.lay_out([clip], 1)[0].__class__(id="x", name="x", source=Source("rtsp://camera/"))
    assert not session._outdated(own, new[0]), "a real camera is left alone"


class _Output:
    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...


async def test_a_detector_that_lingers_is_killed_before_anybody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\ntrap '' TERM\necho $*\nwhile :; do sleep 1; done\n")
    program.chmod(0o755)
    monkeypatch.setattr(children.sys, "executable", str(program))
    output, stop, clock = _Output(), Stop(), SystemClock()
    detector = detectors.detector("detector-001", Settings(), clock, output)
    running = asyncio.create_task(detector.run(stop))
    await until(lambda: "run detect --parent" in output.text)
    began_us = clock.monotonic_us()
    stop.set()
    async with asyncio.timeout(5):
        await running
    assert 1 < (clock.monotonic_us() - began_us) / SECOND_US < 3
    assert detector.process is not None and detector.process.returncode == -9
