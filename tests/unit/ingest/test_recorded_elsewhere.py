"""Up to when a recorder that died on the same volume accounted for a camera."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from services.ingest import repair
from services.ingest.accounting import ALIVE_US, recorded_elsewhere
from services.ingest.segment_file import SegmentFile
from shared.clock import SECOND_US
from shared.spool import RecorderSpool
from tests.support.half_written import write_some
from tests.support.packets import START_US

CAMERA = "cam-1"
NOW_US = START_US + 60 * SECOND_US


def dead(root: Path, written_us: int, accounted_us: int = START_US) -> SegmentFile:
    """Another recorder, which left four seconds open and wrote to them last then."""
    spool = RecorderSpool(root, "rec-dead")
    spool.set_accounted_until(CAMERA, accounted_us, "")
    file = write_some(spool, CAMERA)
    os.utime(file.path, ns=(written_us * 1_000, written_us * 1_000))
    return file


@pytest.mark.parametrize("cut", [0, 1, 2_000])
@pytest.mark.parametrize("late_ms", [-2_500, -100, 0, 100, 3_000])
def test_what_repair_will_file_is_where_the_account_begins(
    tmp_path: Path, late_ms: int, cut: int
) -> None:
    """However long pictures waited before they were written: another end leaves a hole, or a gap
    over what is recorded."""
    here = RecorderSpool(tmp_path, "rec-here")
    file = dead(tmp_path, NOW_US)
    written_us = file.end_us + late_ms * 1_000
    os.truncate(file.path, file.path.stat().st_size - cut)
    os.utime(file.path, ns=(written_us * 1_000, written_us * 1_000))
    found = recorded_elsewhere(here, CAMERA, NOW_US)
    assert file.path.exists(), "it is only looked at"
    segment = repair.repair(RecorderSpool(tmp_path, "rec-dead"), file.path, NOW_US)
    assert segment is not None
    assert found == segment.end_us


def test_a_file_hardly_begun_never_goes_back_behind_the_account(tmp_path: Path) -> None:
    here = RecorderSpool(tmp_path, "rec-here")
    accounted_us = NOW_US - 10 * SECOND_US
    file = dead(tmp_path, accounted_us + SECOND_US // 10, accounted_us)
    os.truncate(file.path, file.fragments[0].offset)
    os.utime(file.path, ns=(accounted_us * 1_000,) * 2)
    assert recorded_elsewhere(here, CAMERA, NOW_US) == accounted_us


@pytest.mark.parametrize("left", [b"", b"video", b"\0" * 100_000])
def test_what_repair_cannot_save_counts_for_nothing(tmp_path: Path, left: bytes) -> None:
    here = RecorderSpool(tmp_path, "rec-here")
    file = dead(tmp_path, NOW_US)
    file.path.write_bytes(left)
    os.utime(file.path, ns=((NOW_US - 20 * SECOND_US) * 1_000,) * 2)
    assert recorded_elsewhere(here, CAMERA, NOW_US) == START_US


@pytest.mark.parametrize("sidecar", [None, b"{}", b"not json"])
def test_a_file_that_nobody_knows_stops_no_camera(tmp_path: Path, sidecar: bytes | None) -> None:
    here = RecorderSpool(tmp_path, "rec-here")
    file = dead(tmp_path, NOW_US - 20 * SECOND_US)
    named = file.path.with_suffix(".open.json")
    named.unlink()
    if sidecar is not None:
        named.write_bytes(sidecar)
    assert recorded_elsewhere(here, CAMERA, NOW_US) == START_US


def test_one_that_writes_now_has_the_camera_until_now(tmp_path: Path) -> None:
    here = RecorderSpool(tmp_path, "rec-here")
    dead(tmp_path, NOW_US - ALIVE_US // 2)
    assert recorded_elsewhere(here, CAMERA, NOW_US) == NOW_US
    assert recorded_elsewhere(here, "cam-2", NOW_US) is None
    shutil.rmtree(tmp_path / "rec-dead")
    assert recorded_elsewhere(here, CAMERA, NOW_US) is None
