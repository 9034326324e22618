"""Every odd stream at once in one recorder, beside a camera that must not notice.

Real-time replay as a camera sends it, in a loop, so that each file also meets its own seam. The
files of footage/odd/ where LAMPPOST_DATA has them, and streams that are not in that folder.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from services.ingest.media import MediaEvent, StateChanged
from shared.clock import SECOND_US, SystemClock
from shared.domain import Camera, GapReason, RecordingState
from tests.pipeline.test_exact_recording import (
    check_segments,
    footage,
    recorded_units,
    source_of,
)
from tests.support import recording
from tests.support.video import write_video

CLOCK = SystemClock()
BESIDE = "beside"
WATCHED_S = 12
QUIET = {GapReason.CONNECTING, GapReason.RECORDER_STOPPED}


def strangers(folder: Path) -> list[Path]:
    """Files that no sample folder has: noise, a text, nothing, a cut and a scratched recording."""
    rng = random.Random(11)
    folder.mkdir()
    good = write_video(folder / "good.mp4", frames=60, b_frames=2, container="mpegts").read_bytes()
    scratched = bytearray(good)
    for _ in range(200):
        scratched[rng.randrange(len(scratched))] = rng.randrange(256)
    contents = {
        "noise.mp4": rng.randbytes(50_000),
        "text.mp4": b"not a video at all\n" * 100,
        "empty.mp4": b"",
        "cut.ts": good[: len(good) // 3],
        "scratched.ts": bytes(scratched),
        "tail.ts": good[len(good) // 2 + 77 :],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def watched(begun_us: int) -> Callable[[list[MediaEvent]], bool]:
    return lambda _events: CLOCK.now_us() - begun_us > WATCHED_S * SECOND_US


@pytest.mark.slow
async def test_odd_streams_leave_the_camera_beside_them_alone(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    odd = sorted(path for path in footage("odd").iterdir() if path.is_file())
    assert len(odd) >= 15
    files = [*odd, *strangers(tmp_path / "strangers")]
    beside = write_video(tmp_path / "clips" / "beside.mp4", frames=80)
    settings = recording.settings_for(
        tmp_path / "state", odd[0].parent, tmp_path / "strangers", beside.parent, segment_s=4.0
    )
    names = {f"odd-{index}": path for index, path in enumerate(files)}
    cameras: list[Camera] = [recording.file_camera(beside, BESIDE)]
    cameras += [recording.file_camera(path, name) for name, path in names.items()]
    result = await recording.record(settings, cameras, watched(CLOCK.now_us()), timeout_s=60)
    check_segments([pair for pair in result.segments if pair[0].camera_id == BESIDE])
    check_beside(result, beside)
    ways = {"recorded": 0, "named gap": 0}
    for name, path in names.items():
        recorded = [s for s, _ in result.segments if s.camera_id == name]
        gaps = {gap.reason for gap in result.gaps if gap.camera_id == name} - QUIET
        assert recorded or gaps, f"{path.name}: neither recorded nor a named gap"
        ways["recorded" if recorded else "named gap"] += 1
        wrong = [s.detail for s in states(result, name) if "while recording" in s.detail]
        assert not wrong, f"{path.name}: {wrong}"
    record_property(
        "figure",
        f"{len(odd)} odd files and {len(files) - len(odd)} others at once: {ways['recorded']}"
        f" recorded, {ways['named gap']} a named gap; the camera beside them without a gap",
    )


def states(result: recording.Recorded, camera_id: str) -> list[StateChanged]:
    return [state for state in result.states if state.camera_id == camera_id]


def check_beside(result: recording.Recorded, path: Path) -> None:
    """Recorded from its first second to its last: every picture, in order, one connection."""
    own = [pair for pair in result.segments if pair[0].camera_id == BESIDE]
    own.sort(key=lambda pair: pair[0].start_us)
    assert len({segment.connection_id for segment, _ in own}) == 1
    assert {g.reason for g in result.gaps if g.camera_id == BESIDE} <= QUIET
    assert {s.state for s in states(result, BESIDE)} <= {
        RecordingState.CONNECTING,
        RecordingState.RECORDING,
        RecordingState.STOPPED,
    }
    once = [access.units for access in source_of(path)[1]]
    flat = [unit for samples in recorded_units(own) for unit in samples]
    assert len(flat) >= (WATCHED_S - 3) * 10
    assert all(units == once[index % len(once)] for index, units in enumerate(flat))
