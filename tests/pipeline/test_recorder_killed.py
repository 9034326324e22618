"""A recorder killed at any moment loses two seconds at most, and starts again at once."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

from services.ingest.media import FragmentWritten
from services.ingest.pyav_media import PyAvMedia
from shared.clock import SystemClock
from shared.domain import GapReason
from tests.support import recording
from tests.support.video import write_video
from tests.support.wait import until_sync

CHILD = """
import asyncio, sys
from pathlib import Path
from services.ingest.pyav_media import PyAvMedia
from shared.clock import SystemClock
from tests.support import recording

async def main(state, clip):
    settings = recording.settings_for(Path(state), Path(clip).parent)
    media = PyAvMedia(settings, SystemClock(), recording.spool_of(settings))
    media.add(recording.file_camera(Path(clip)))
    while True:
        await media.events(1.0)

asyncio.run(main(*sys.argv[1:]))
"""
ROOT = Path(__file__).parents[2]


def test_a_kill_loses_two_seconds_at_most(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clips" / "clip.mp4", frames=100, gop=50)
    state = tmp_path / "state"
    settings = recording.settings_for(state, clip.parent)
    spool = recording.spool_of(settings)
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(state), str(clip)], cwd=ROOT)
    try:
        until_sync(
            lambda: sum(path.stat().st_size for path in spool.tmp.glob("*.mp4")) > 20_000,
            timeout_s=20,
            what="fragments are written",
        )
    finally:
        child.send_signal(signal.SIGKILL)
        killed_us = SystemClock().now_us()
        child.wait(10)
    result = asyncio.run(
        recording.record(
            settings,
            [recording.file_camera(clip)],
            lambda events: any(isinstance(event, FragmentWritten) for event in events),
        )
    )
    (before, data), *_ = result.segments
    assert before.repaired
    assert 0 <= killed_us - before.end_us <= 2_000_000
    assert len(data) == before.size_bytes
    down = [gap for gap in result.gaps if gap.reason is GapReason.RECORDER_DOWN]
    assert down[0].start_us == before.end_us
    rows = sorted(
        [(s.start_us, s.end_us) for s, _ in result.segments]
        + [(g.start_us, g.end_us) for g in result.gaps]
    )
    assert all(one[1] == two[0] for one, two in itertools.pairwise(rows))


async def test_ten_thousand_waiting_segments_do_not_delay_a_start(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clips" / "clip.mp4", frames=100, gop=25)
    settings = recording.settings_for(tmp_path / "state", clip.parent)
    spool = recording.spool_of(settings)
    for number in range(10_000):
        name = f"{number:020d}-cam-1-{number:036d}"
        for ending in (".json", ".mp4"):
            os.close(os.open(spool.new / (name + ending), os.O_CREAT | os.O_WRONLY))
    clock = SystemClock()
    begin_us = clock.monotonic_us()
    first_us: list[int] = []

    def written(events: list[object]) -> bool:
        if any(isinstance(event, FragmentWritten) for event in events):
            first_us.append(clock.monotonic_us())
        return bool(first_us)

    media = PyAvMedia(settings, clock, spool)
    media.add(recording.file_camera(clip))
    events: list[object] = []
    while not written(events):
        assert clock.monotonic_us() - begin_us < 10_000_000
        events += await media.events(0.5)
    await media.close(GapReason.RECORDER_STOPPED)
    assert first_us[0] - begin_us <= 5_000_000
