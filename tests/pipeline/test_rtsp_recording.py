"""What an RTSP camera sends is what is recorded: real clips, odd clocks, new sizes, TLS, UDP."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from services.ingest.media import FragmentWritten, FrameSampled
from services.ingest.probe import probe
from shared.clock import SECOND_US
from shared.domain import (
    ClockSource,
    Codec,
    GapReason,
    Segment,
)
from shared.messages import FrameMeta
from tests.support.recording import read_spool, settings_for
from tests.support.rtsp_world import (
    CLOCK,
    camera,
    check_account,
    make_clips,
    recorded_digests,
    watching,
)
from tests.support.servers.rtsp import RtspServer, make_certificates, require
from tests.support.wait import until

pytestmark = [pytest.mark.servers, pytest.mark.alone, pytest.mark.timeout(180)]
DATA = Path(os.environ.get("LAMPPOST_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture(scope="module", autouse=True)
def _server_is_there() -> None:
    require()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_clips(tmp_path_factory.mktemp("clips"))


def assert_exact(name: str, sent: list[str], recorded: list[str]) -> None:
    """What was recorded is one unbroken run of what was sent."""
    assert len(recorded) > 20, name
    starts = [at for at, digest in enumerate(sent) if digest == recorded[0]]
    assert any(sent[at : at + len(recorded)] == recorded for at in starts), name


def assert_decodes(name: str, segments: list[tuple[Segment, bytes]]) -> None:
    """Every segment alone: all pictures come out, in order of time."""
    for segment, data in segments:
        with av.open(io.BytesIO(data)) as file:
            coded = sum(1 for p in file.demux(video=0) if p.size)
        with av.open(io.BytesIO(data)) as file:
            times = [frame.pts for frame in file.decode(video=0)]
        assert len(times) == coded, (name, segment.id)
        assert times == sorted(set(times)), (name, segment.id)


def check_frames(frames: list[FrameMeta], least: int) -> None:
    """Enough of them, from the sub stream or the key frames, in order and not in the future."""
    assert len(frames) >= least
    times = [meta.capture_us for meta in frames]
    assert times == sorted(times) and times[-1] <= CLOCK.now_us()
    assert {(meta.width, meta.height) for meta in frames} == {(320, 240)}


REAL = {
    "bridge": "bridge_traffic_360p.mp4",
    "people": "intel_one-by-one-person-detection.mp4",
    "street": "towncentre_10s_1080p.mp4",
}


@pytest.fixture(scope="module")
def real(clips: dict[str, Path]) -> Iterator[dict[str, Path]]:
    folder = DATA / "footage"
    if not folder.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"no real footage in {folder}: set LAMPPOST_DATA")
        yield {}
    else:
        yield {name: folder / file for name, file in REAL.items()}


async def test_what_was_sent_is_what_is_recorded(
    clips: dict[str, Path],
    real: dict[str, Path],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    settings = settings_for(tmp_path, segment_s=4)
    files = {**real, "b": clips["b"], "h265": clips["h265"], "udp": clips["h265"]}
    specs = [
        {
            "name": name,
            "file": str(path),
            "codec": "h265" if path == clips["h265"] else "h264",
            "audio": name == "b",
        }
        for name, path in files.items()
    ]
    logs = tmp_path / "sent"
    logs.mkdir()
    with RtspServer(specs, log_dir=logs) as server:
        sub = {"b": server.url("h265")}
        cameras = [
            camera(n, server, transport="udp" if n == "udp" else "tcp", sub_url=sub.get(n))
            for n in files
        ]
        async with watching(settings, cameras) as watch:
            begun_us = CLOCK.now_us()
            await until(lambda: CLOCK.now_us() - begun_us > 9 * SECOND_US, 20)
            tested = await asyncio.to_thread(probe, cameras[-1], settings, CLOCK)
            frames = [e.meta for e in watch.events if isinstance(e, FrameSampled)]
    assert (tested.ok, tested.codec, tested.width) == (True, "h265", 320) and tested.jpeg
    check_frames([meta for meta in frames if meta.camera_id == "b"], least=14)
    check_frames([meta for meta in frames if meta.camera_id == "h265"], least=3)
    segments, _ = read_spool(settings)
    for spec in specs:
        name = spec["name"]
        own = sorted(
            [pair for pair in segments if pair[0].camera_id == name], key=lambda p: p[0].start_us
        )
        lines = (logs / f"{name}.jsonl").read_text().splitlines()
        sent = [json.loads(line)["vcl"] for line in lines]
        recorded = recorded_digests(own, str(spec["codec"]))
        assert_exact(name, sent, recorded)
        record_property(
            "figure", f"{name}: {len(recorded)} pictures in {len(own)} segments as they were sent"
        )
        assert_decodes(name, own)
        assert all(
            s.clock_source in (ClockSource.RTCP_SENDER_REPORT, ClockSource.RECEIPT) for s, _ in own
        )


async def test_clocks_sizes_and_tls(clips: dict[str, Path], tmp_path: Path) -> None:
    """A wrong camera clock moves no recording, a new size is a new segment, TLS is verified."""
    authority, certificate = make_certificates(tmp_path)
    settings = settings_for(tmp_path, segment_s=30, rtsps_ca_file=authority)
    small = str(clips["small"])
    specs: list[dict[str, Any]] = [
        {"name": "right", "file": small},
        {"name": "ahead", "file": small, "skew_s": 7200},
        {"name": "unset", "file": small, "rtcp": "zero"},
        {"name": "quiet", "file": small, "rtcp": "none"},
        {"name": "size", "file": small},
    ]
    with (
        RtspServer(specs) as wire,
        RtspServer([{"name": "tls", "file": small}], certificate=certificate) as secure,
    ):
        cameras = [camera(str(spec["name"]), wire) for spec in specs] + [camera("tls", secure)]
        begun_us = CLOCK.now_us()
        async with watching(settings, cameras) as watch:
            begun = CLOCK.now_us()
            await until(lambda: CLOCK.now_us() - begun > 4 * SECOND_US, 20)
            await asyncio.to_thread(wire.command, "play", mount="size", file=str(clips["large"]))
            await until(
                lambda: any(
                    isinstance(e, FragmentWritten) and e.segment.width == 480 for e in watch.events
                ),
                15,
                "the new size",
            )
            begun = CLOCK.now_us()
            await until(lambda: CLOCK.now_us() - begun > 3 * SECOND_US, 20)
        ended_us = CLOCK.now_us()
    segments, _ = read_spool(settings)
    by_camera: dict[str, list[Segment]] = {}
    for segment, _ in sorted(segments, key=lambda pair: pair[0].start_us):
        by_camera.setdefault(segment.camera_id, []).append(segment)
    for name in ("right", "ahead", "unset", "quiet", "tls"):
        (only,) = by_camera[name]
        assert begun_us <= only.start_us < only.end_us <= ended_us + SECOND_US // 5, name
        assert only.codec is Codec.H264
    for name in ("unset", "quiet"):
        assert by_camera[name][0].clock_source is ClockSource.RECEIPT, name
    ahead = by_camera["ahead"][0]
    assert ahead.clock_source is ClockSource.RECEIPT
    assert (
        abs(ahead.clock_offset_us - 7200 * SECOND_US) < 2 * SECOND_US or not ahead.clock_offset_us
    )
    sizes = [(s.width, s.height) for s in by_camera["size"]]
    assert sizes == [(320, 240), (480, 272)]
    reasons = check_account(settings, "size", begun_us + 3 * SECOND_US)
    assert set(reasons) <= {GapReason.CONNECTING, GapReason.RECORDER_STOPPED}
