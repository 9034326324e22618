"""What a dead recorder left half-written its neighbour files; a living one's is its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from services.ingest.adoption import QUIET_US, adopt
from shared.clock import SECOND_US, SystemClock
from shared.domain import GapReason
from shared.spool import FolderLock, RecorderSpool, SpoolReader, abandoned
from tests.support import recording
from tests.support.video import write_video
from tests.support.wait import until


@pytest.fixture
async def half_written(tmp_path: Path) -> RecorderSpool:
    """The folder of a recorder as its kill left it."""
    clip = write_video(tmp_path / "clips" / "clip.mp4", frames=75, gop=25)
    settings = recording.settings_for(tmp_path / "live", clip.parent)
    from services.ingest.pyav_media import PyAvMedia

    spool = recording.spool_of(settings)
    media = PyAvMedia(settings, SystemClock(), spool)
    media.add(recording.file_camera(clip))
    await until(lambda: any(p.stat().st_size > 20_000 for p in spool.tmp.glob("*.mp4")), 20)
    dead = RecorderSpool(tmp_path / "spool", "dead")
    shutil.copytree(spool.tmp, dead.tmp, dirs_exist_ok=True)
    await media.close(GapReason.RECORDER_STOPPED)
    return dead


def age(spool: RecorderSpool, now_us: int, us: int) -> None:
    for path in spool.tmp.iterdir():
        os.utime(path, ns=((now_us - us) * 1_000,) * 2)


async def test_a_dead_recorders_segment_is_filed_once_it_is_quiet(
    half_written: RecorderSpool,
) -> None:
    own = RecorderSpool(half_written.dir.parent, "own")
    now_us = SystemClock().now_us()
    age(half_written, now_us, QUIET_US - SECOND_US)
    assert adopt(own, now_us) == []
    age(half_written, now_us, QUIET_US + SECOND_US)
    [segment] = adopt(own, now_us)
    assert segment.repaired and segment.recorder != "own"
    [item] = SpoolReader(own.dir.parent).filed()
    assert item.recorder_dir == half_written.dir
    assert half_written.accounted_until(segment.camera_id) == segment.end_us
    assert adopt(own, now_us) == []


async def test_a_living_recorders_file_is_its_own(half_written: RecorderSpool) -> None:
    own = RecorderSpool(half_written.dir.parent, "own")
    now_us = SystemClock().now_us()
    age(half_written, now_us, 10 * QUIET_US)
    lock = FolderLock(half_written.dir)
    assert lock.acquire()
    assert adopt(own, now_us) == []
    lock.release()
    assert len(adopt(own, now_us)) == 1


def test_a_folder_is_abandoned_when_its_lock_is_free(tmp_path: Path) -> None:
    folder = RecorderSpool(tmp_path, "r").dir
    lock = FolderLock(folder)
    assert lock.acquire() and lock.acquire()
    with abandoned(folder) as nobodys:
        assert not nobodys
    lock.release()
    with abandoned(folder) as nobodys:
        assert nobodys
        assert not FolderLock(folder).acquire(), "none begins meanwhile"
    assert lock.acquire()
    lock.release()
