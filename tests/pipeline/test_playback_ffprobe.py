"""FFmpeg's own tools read the playlists and clips, over HTTP, without headers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared.clock import SECOND_US
from tests.support.http_server import serve
from tests.support.media_store import START_US, TICKS, Rig, encoded, gap, record, rig
from tests.support.programs import need, output

pytestmark = pytest.mark.servers


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as found:
        yield found


async def _probe(url: str, *more: str) -> dict[str, Any]:
    ffprobe = need("ffprobe", "Debian's package ffmpeg.")
    said = await output(ffprobe, "-v", "error", "-of", "json", *more, url)
    found: dict[str, Any] = json.loads(said)
    return found


async def test_ffprobe_counts_every_picture_of_a_playlist(store: Rig) -> None:
    before, after = record(), record(start_us=START_US + 20 * SECOND_US)
    await store.archive([*before, *after])
    await store.add_gap(gap(START_US + 12 * SECOND_US, START_US + 20 * SECOND_US))
    opened = (await store.open("playback", START_US, START_US + 32 * SECOND_US)).json()
    async with serve(store.app) as url:
        found = await _probe(
            url + opened["url"],
            *("-count_frames", "-show_entries", "stream=codec_name,width,height,nb_read_frames"),
        )
    stream = found["streams"][0]
    assert (stream["codec_name"], stream["width"], stream["height"]) == ("h264", 64, 48)
    assert int(stream["nb_read_frames"]) == 240


async def test_ffprobe_reads_the_sources_times_across_segments(store: Rig) -> None:
    await store.archive(record())
    opened = (await store.open("playback", START_US, START_US + 12 * SECOND_US)).json()
    async with serve(store.app) as url:
        found = await _probe(url + opened["url"], "-show_entries", "packet=pts")
    times = [packet["pts"] for packet in found["packets"]]
    assert [time - times[0] for time in times] == [number * TICKS for number in range(120)]


async def test_ffprobe_reads_a_clip_with_its_length(store: Rig) -> None:
    await store.archive(record(encoded(b_frames=2)))
    opened = (await store.open("clip", START_US, START_US + 12 * SECOND_US)).json()
    part = opened["parts"][0]
    async with serve(store.app) as url:
        found = await _probe(
            url + part["url"],
            *("-count_frames", "-show_entries", "format=duration:stream=nb_read_frames"),
        )
    assert int(found["streams"][0]["nb_read_frames"]) == 120
    assert abs(float(found["format"]["duration"]) - part["duration_s"]) < 0.3
