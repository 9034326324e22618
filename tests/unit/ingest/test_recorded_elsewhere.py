"""Up to when a recorder that died on the same volume accounted for a camera."""

from __future__ import annotations

import os
from pathlib import Path

from services.ingest.accounting import ALIVE_US, LATE_US, recorded_elsewhere
from shared import ids
from shared.clock import SECOND_US
from shared.spool import RecorderSpool

NOW_US = 1_790_000_000_000_000
CAMERA = "cam-1"


def dead(root: Path, written_us: int, accounted_us: int) -> None:
    """Another recorder, which left an open file that it last wrote to then."""
    spool = RecorderSpool(root, "rec-dead")
    spool.set_accounted_until(CAMERA, accounted_us, "")
    path = spool.open_path(CAMERA, accounted_us, ids.new_id())
    path.write_bytes(b"video")
    os.utime(path, ns=(written_us * 1_000, written_us * 1_000))


def test_what_was_written_was_taken_a_little_before(tmp_path: Path) -> None:
    """A gap from the last write on would leave what packets had gathered to nobody."""
    here = RecorderSpool(tmp_path, "rec-here")
    written_us = NOW_US - 10 * SECOND_US
    dead(tmp_path, written_us, NOW_US - 60 * SECOND_US)
    assert recorded_elsewhere(here, CAMERA, NOW_US) == written_us - LATE_US


def test_a_file_hardly_begun_never_goes_back_behind_the_account(tmp_path: Path) -> None:
    here = RecorderSpool(tmp_path, "rec-here")
    accounted_us = NOW_US - 10 * SECOND_US
    dead(tmp_path, accounted_us + SECOND_US // 10, accounted_us)
    assert recorded_elsewhere(here, CAMERA, NOW_US) == accounted_us


def test_one_that_writes_now_has_the_camera_until_now(tmp_path: Path) -> None:
    here = RecorderSpool(tmp_path, "rec-here")
    dead(tmp_path, NOW_US - ALIVE_US // 2, NOW_US - 60 * SECOND_US)
    assert recorded_elsewhere(here, CAMERA, NOW_US) == NOW_US
    assert recorded_elsewhere(here, "cam-2", NOW_US) is None
