"""The connection test: an answer in time, whatever the camera does."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from services.ingest.file_source import FileSource
from services.ingest.probe import probe
from services.ingest.source import PacketSource
from shared.clock import SECOND_US, Clock, SystemClock
from shared.domain import Camera, GapReason, Mask, Source
from shared.settings import Settings
from tests.support.recording import settings_for
from tests.support.video import write_video
from tests.unit.ingest_rtsp.fake_camera import Answer, FakeCamera, reply

CLOCK = SystemClock()
ALL = Mask(polygons=(((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),))


def open_file(camera: Camera, settings: Settings, clock: Clock, _url: str) -> PacketSource:
    return FileSource(camera, settings, clock)


@pytest.mark.parametrize("mask", [Mask(), ALL])
def test_a_good_camera_shows_its_masked_picture(mask: Mask, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clips" / "a.mp4", width=320, height=240)
    camera = Camera(id="mk-1", name="Gate", source=Source(url=clip.as_uri()), mask=mask)
    found = probe(camera, settings_for(tmp_path, clip.parent), CLOCK, open_source=open_file)
    assert (found.ok, found.codec, found.width, found.height) == (True, "h264", 320, 240)
    with Image.open(io.BytesIO(found.jpeg)) as image:
        assert image.size == (320, 240)
        assert (max(high for _, high in image.convert("RGB").getextrema()) < 8) == (mask is ALL)


def never(_method: str, _uri: str, _headers: dict[str, str]) -> bytes | None:
    return None


def missing(_method: str, _uri: str, headers: dict[str, str]) -> bytes | None:
    return reply(404, headers["cseq"])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(never, GapReason.UNREACHABLE), (missing, GapReason.STREAM_NOT_FOUND)],
)
def test_a_bad_camera_is_told_in_time(answer: Answer, reason: GapReason, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, connect_timeout_s=60)
    with FakeCamera(answer) as fake:
        camera = Camera(id="mk-1", name="Gate", source=Source(url=fake.url))
        begun = CLOCK.monotonic_us()
        found = probe(camera, settings, CLOCK, limit_s=0.5)
        took_us = CLOCK.monotonic_us() - begun
    assert (found.ok, found.reason, found.jpeg) == (False, reason.value, b"")
    assert took_us < 2 * SECOND_US
    assert "127.0.0.1" not in found.detail
