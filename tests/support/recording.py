"""Recording files through the real media path into a temporary spool, and reading it back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from services.ingest.media import GapFiled, MediaEvent, SegmentFiled, StateChanged
from services.ingest.pyav_media import PyAvMedia
from shared.clock import SystemClock
from shared.domain import Camera, Gap, GapReason, Segment, Source
from shared.settings import Settings
from shared.spool import RecorderSpool, SpoolReader


class Recorded(NamedTuple):
    """What a recording left: filed segments with their bytes, gaps, and what was said meanwhile."""

    segments: list[tuple[Segment, bytes]]
    gaps: list[Gap]
    events: list[MediaEvent]

    @property
    def states(self) -> list[StateChanged]:
        return [event for event in self.events if isinstance(event, StateChanged)]


def settings_for(state_dir: Path, *folders: Path, **ingest: object) -> Settings:
    return Settings.model_validate(
        {
            "state_dir": state_dir,
            "ingest": {"footage_dirs": folders, **ingest},
            "spool": {"min_free_ratio": 0},
        }
    )


def file_camera(path: Path, camera_id: str = "cam-1", **source: object) -> Camera:
    return Camera(
        id=camera_id, name=camera_id, source=Source(url=path.resolve().as_uri(), **source)
    )


def spool_of(settings: Settings) -> RecorderSpool:
    return RecorderSpool(settings.path(settings.spool.dir), settings.instance)


def read_spool(settings: Settings) -> tuple[list[tuple[Segment, bytes]], list[Gap]]:
    reader = SpoolReader(settings.path(settings.spool.dir))
    segments, gaps = [], []
    for item in sorted(reader.filed(100_000), key=lambda item: item.name):
        if item.video is None:
            gaps.append(reader.read_gap(item))
        else:
            segments.append((reader.read_segment(item), item.video.read_bytes()))
    return segments, gaps


async def record(
    settings: Settings,
    cameras: list[Camera],
    done: Callable[[list[MediaEvent]], bool],
    *,
    timeout_s: float = 30.0,
) -> Recorded:
    """Record until `done` is true of everything that happened so far, then close."""
    clock = SystemClock()
    media = PyAvMedia(settings, clock, spool_of(settings))
    events: list[MediaEvent] = []
    deadline_us = clock.monotonic_us() + round(timeout_s * 1_000_000)
    try:
        for camera in cameras:
            media.add(camera)
        while not done(events):
            if clock.monotonic_us() > deadline_us:
                raise AssertionError(f"not done within {timeout_s} s; last: {events[-3:]}")
            events += await media.events(0.2)
    finally:
        await media.close(GapReason.RECORDER_STOPPED)
    events += await media.events(0.0)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("cam-")]
    await asyncio.sleep(0)
    return Recorded(*read_spool(settings), events)


def ended(events: list[MediaEvent]) -> bool:
    """The (one) camera's source gave all it has, or was refused or went wrong."""
    return any(isinstance(e, StateChanged) and e.reason is not None for e in events)


def filed(count: int) -> Callable[[list[MediaEvent]], bool]:
    return lambda events: sum(isinstance(e, SegmentFiled) for e in events) >= count


def gaps_filed(events: list[MediaEvent]) -> list[Gap]:
    return [event.gap for event in events if isinstance(event, GapFiled)]
