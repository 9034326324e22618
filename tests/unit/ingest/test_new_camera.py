"""Between its creation and its recorder's first look a camera is accounted for too."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.ingest.accounting import NEW_US, Account
from shared.clock import SECOND_US
from shared.domain import Camera, Gap, GapReason, Source
from shared.spool import RecorderSpool

NOW = 1_795_000_000_000_000


def _begin(tmp_path: Path, created_at_us: int) -> list[Gap]:
    camera = Camera(
        id="cam-1", name="", source=Source(url="rtsp://host/a"), created_at_us=created_at_us
    )
    filed: list[Gap] = []
    spool = RecorderSpool(tmp_path, "local")
    Account(camera, spool, "local", 1, filed.append).begin(NOW, replay=False)
    assert spool.accounted_until("cam-1") is not None
    return filed


def test_a_new_camera_waits_for_its_recorder_in_a_gap(tmp_path: Path) -> None:
    found = _begin(tmp_path, NOW - 7 * SECOND_US)
    assert [(gap.start_us, gap.end_us, gap.reason) for gap in found] == [
        (NOW - 7 * SECOND_US, NOW, GapReason.RECORDER_DOWN)
    ]


@pytest.mark.parametrize("created_at_us", [0, NOW - NEW_US - 1, NOW + SECOND_US])
def test_an_old_camera_was_recorded_elsewhere(tmp_path: Path, created_at_us: int) -> None:
    assert _begin(tmp_path, created_at_us) == []
