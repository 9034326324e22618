"""A replayed camera's sub stream is sampled as a real camera's is."""

from __future__ import annotations

from pathlib import Path

from services.ingest.media import FrameSampled, MediaEvent
from shared.domain import GapReason
from tests.support import recording
from tests.support.video import write_video


def frames_of(events: list[MediaEvent]) -> list[FrameSampled]:
    return [event for event in events if isinstance(event, FrameSampled)]


async def test_a_file_sub_stream_is_sampled(tmp_path: Path) -> None:
    main = write_video(tmp_path / "main.mp4", frames=100, width=320, height=240)
    small = write_video(tmp_path / "sub.mp4", frames=100, width=160, height=112)
    settings = recording.settings_for(tmp_path / "state", tmp_path)
    camera = recording.file_camera(main, sub_url=small.resolve().as_uri())
    result = await recording.record(settings, [camera], lambda events: len(frames_of(events)) >= 3)
    assert {(s.width, s.height) for s, _ in result.segments} == {(320, 240)}
    sampled = frames_of(result.events)
    assert {(each.meta.width, each.meta.height) for each in sampled} == {(160, 112)}


async def test_a_sub_stream_outside_the_footage_folders_is_not_read(tmp_path: Path) -> None:
    main = write_video(tmp_path / "clips" / "main.mp4", frames=60)
    outside = write_video(tmp_path / "private" / "sub.mp4", frames=60)
    settings = recording.settings_for(tmp_path / "state", main.parent, segment_s=1.0)
    camera = recording.file_camera(main, sub_url=outside.resolve().as_uri(), speed=20.0)
    result = await recording.record(settings, [camera], recording.filed(1))
    assert frames_of(result.events) == []
    assert GapReason.HOST_NOT_ALLOWED not in {gap.reason for gap in result.gaps}
