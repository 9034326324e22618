"""Each watchdog fault on the wire of a real RTSP server: found, named, healed, accounted for.

The cameras of one test run side by side through the whole media path, so that a fault of one is
also shown to leave the others alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from services.ingest.media import FragmentWritten, MediaEvent, StateChanged
from services.ingest.nal import annexb_spans, length_spans
from services.ingest.pyav_media import PyAvMedia
from shared.clock import SECOND_US, SystemClock
from shared.domain import (
    Camera,
    ClockSource,
    Codec,
    GapReason,
    RecordingState,
    Segment,
    Source,
)
from shared.settings import Settings
from tests.support.recording import read_spool, settings_for, spool_of
from tests.support.servers.rtsp import RtspServer, make_certificates, require
from tests.support.video import write_video
from tests.support.wait import until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]
CLOCK = SystemClock()
FOUND_S, HEALED_S = 10.0, 5.0
CLIP = {"rate": 10, "gop": 20, "frames": 60, "width": 320, "height": 240}
DATA = Path(os.environ.get("LAMPPOST_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture(scope="module", autouse=True)
def _server_is_there() -> None:
    require()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {
        "small": write_video(folder / "small.mp4", **CLIP),
        "large": write_video(folder / "large.mp4", **{**CLIP, "width": 480, "height": 272}),
        "b": write_video(folder / "b.mp4", **CLIP, b_frames=2),
        "h265": write_video(folder / "h265.mp4", **CLIP, codec="libx265", b_frames=2),
        "still": write_still(folder / "still.mp4"),
    }


def write_still(path: Path) -> Path:
    """The same structured picture for 40 s: an encoder that works behind a sensor that hangs."""
    picture = np.random.default_rng(4).integers(40, 200, (360, 320), dtype=np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"qp": "30", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 20, 0
        for index in range(400):
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


class Watch:
    """The media path at work, and what its cameras said."""

    def __init__(self, media: PyAvMedia) -> None:
        self.media = media
        self.events: list[MediaEvent] = []

    def states(self, camera_id: str, since_us: int = 0) -> list[StateChanged]:
        return [
            event
            for event in self.events
            if isinstance(event, StateChanged)
            and event.camera_id == camera_id
            and event.at_us >= since_us
        ]

    def recording(self, camera_id: str, since_us: int = 0) -> int | None:
        """When it first said that it records."""
        return next(
            (
                event.at_us
                for event in self.states(camera_id, since_us)
                if event.state is RecordingState.RECORDING
            ),
            None,
        )

    def blamed(self, camera_id: str, reason: GapReason, since_us: int) -> int | None:
        """When it first gave this reason."""
        return next((e.at_us for e in self.states(camera_id, since_us) if e.reason is reason), None)

    async def pump(self) -> None:
        while True:
            self.events += await self.media.events(0.2)


@asynccontextmanager
async def watching(settings: Settings, cameras: list[Camera]) -> AsyncIterator[Watch]:
    media = PyAvMedia(settings, CLOCK, spool_of(settings))
    watch = Watch(media)
    pump = asyncio.create_task(watch.pump())
    try:
        for camera in cameras:
            media.add(camera)
        await until(lambda: all(watch.recording(camera.id) for camera in cameras), 20, "all record")
        yield watch
    finally:
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)
        await media.close(GapReason.RECORDER_STOPPED)


def camera(name: str, server: RtspServer, mount: str | None = None, **source: Any) -> Camera:
    return Camera(id=name, name=name, source=Source(url=server.url(mount or name), **source))


def write_secret(settings: Settings, text: str) -> None:
    folder = settings.path(settings.ingest.secrets_dir)
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / "fresh"
    fresh.write_text(text)
    fresh.chmod(0o600)
    fresh.replace(folder / "gate")


def check_account(settings: Settings, camera_id: str, since_us: int) -> list[GapReason]:
    """Every microsecond since then is in a segment or in a gap, once; the gaps' reasons."""
    segments, gaps = read_spool(settings)
    parts = sorted(
        [(s.start_us, s.end_us, None) for s, _ in segments if s.camera_id == camera_id]
        + [(g.start_us, g.end_us, g.reason) for g in gaps if g.camera_id == camera_id],
        key=lambda part: part[:2],
    )
    assert parts, camera_id
    for before, after in itertools.pairwise(parts):
        assert abs(after[0] - before[1]) <= 1, (camera_id, before, after)
    assert parts[0][0] <= since_us, camera_id
    return [reason for *_, reason in parts if reason is not None]


STEADY = ("steady", "silent", "frozen", "stuck")
SHAKY = ("audio", "gone")
"""These lose their connections with the fault, so they have a server of their own."""
REASONS = {
    "silent": GapReason.SILENT,
    "frozen": GapReason.FROZEN,
    "stuck": GapReason.FROZEN,
    "audio": GapReason.AUDIO_ONLY,
    "gone": GapReason.STREAM_NOT_FOUND,
    "power": GapReason.UNREACHABLE,
    "login": GapReason.CREDENTIALS_REFUSED,
}


def break_all(servers: list[RtspServer], clips: dict[str, Path]) -> None:
    wire, shaky, power, login = servers
    for name in ("silent", "frozen"):
        wire.command("mode", mount=name, mode=name)
    wire.command("play", mount="stuck", file=str(clips["still"]))
    shaky.command("remove", mount="gone")
    shaky.command("mode", mount="audio", mode="audio_only")
    power.stop()
    login.command("users", users={"officer": "second"})
    login.command("drop")


def mend_all(servers: list[RtspServer], clips: dict[str, Path], settings: Settings) -> None:
    wire, shaky, power, _ = servers
    for name in ("silent", "frozen"):
        wire.command("mode", mount=name, mode="play")
    wire.command("play", mount="stuck", file=str(clips["small"]))
    shaky.command("add", name="gone", file=str(clips["small"]))
    shaky.command("mode", mount="audio", mode="play")
    power.start()
    write_secret(settings, "officer:second")


async def first_times(time_of: Callable[[str], int | None], limit_s: float) -> dict[str, int]:
    """When it happened to each faulty camera; the failure names those it did not happen to."""
    times: dict[str, int] = {}

    def all_there() -> bool:
        times.update({name: at for name in REASONS if (at := time_of(name)) is not None})
        return len(times) == len(REASONS)

    try:
        await until(all_there, limit_s + 5)
    except AssertionError:
        raise AssertionError(f"nothing of {sorted(set(REASONS) - set(times))}") from None
    return times


async def test_faults_are_found_named_and_healed(clips: dict[str, Path], tmp_path: Path) -> None:
    settings = settings_for(tmp_path, segment_s=10)
    write_secret(settings, "officer:first")
    small = str(clips["small"])
    with (
        RtspServer([{"name": name, "file": small} for name in STEADY]) as wire,
        RtspServer([{"name": name, "file": small} for name in SHAKY]) as shaky,
        RtspServer([{"name": "power", "file": small}]) as power,
        RtspServer([{"name": "login", "file": small}], users={"officer": "first"}) as login,
    ):
        servers = [wire, shaky, power, login]
        cameras = [camera(name, wire) for name in STEADY]
        cameras += [camera(name, shaky) for name in SHAKY]
        cameras += [camera("power", power), camera("login", login, secret="gate")]
        async with watching(settings, cameras) as watch:
            broken_us = CLOCK.now_us()
            await asyncio.to_thread(break_all, servers, clips)
            found = await first_times(
                lambda name: watch.blamed(name, REASONS[name], broken_us), FOUND_S
            )
            mended_us = CLOCK.now_us()
            await asyncio.to_thread(mend_all, servers, clips, settings)
            done_us = CLOCK.now_us()
            healed = await first_times(lambda name: watch.recording(name, mended_us), HEALED_S)
    found_s = {n: round((at - broken_us) / SECOND_US, 1) for n, at in found.items()}
    healed_s = {n: round((at - done_us) / SECOND_US, 1) for n, at in healed.items()}
    print(f"found after {found_s} s; healed after {healed_s} s")
    assert max(found_s.values()) <= FOUND_S, found_s
    assert max(healed_s.values()) <= HEALED_S, healed_s
    for name, reason in REASONS.items():
        assert reason in check_account(settings, name, broken_us), name
    steady = check_account(settings, "steady", broken_us)
    assert set(steady) <= {GapReason.CONNECTING, GapReason.RECORDER_STOPPED}


def vcl_digest(data: bytes, codec: str) -> str:
    """As the server makes it: the coded slices alone."""
    digest = hashlib.sha256()
    for start, end in length_spans(data) or annexb_spans(data):
        kind = data[start] & 31 if codec == "h264" else data[start] >> 1 & 63
        if (codec == "h264" and 1 <= kind <= 5) or (codec == "h265" and kind < 32):
            digest.update(data[start:end].rstrip(b"\x00"))
    return digest.hexdigest()[:16]


def recorded_digests(segments: list[tuple[Segment, bytes]], codec: str) -> list[str]:
    found = []
    for _, data in segments:
        with av.open(io.BytesIO(data)) as file:
            found += [vcl_digest(bytes(p), codec) for p in file.demux(video=0) if p.size]
    return found


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
    clips: dict[str, Path], real: dict[str, Path], tmp_path: Path
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
        cameras = [camera(n, server, transport="udp" if n == "udp" else "tcp") for n in files]
        async with watching(settings, cameras) as watch:
            begun_us = CLOCK.now_us()
            await until(lambda: CLOCK.now_us() - begun_us > 9 * SECOND_US, 20)
            assert not any(len(watch.states(n)) > 4 for n in files), watch.events
    segments, _ = read_spool(settings)
    for spec in specs:
        name = spec["name"]
        own = sorted(
            [pair for pair in segments if pair[0].camera_id == name], key=lambda p: p[0].start_us
        )
        lines = (logs / f"{name}.jsonl").read_text().splitlines()
        sent = [json.loads(line)["vcl"] for line in lines]
        assert_exact(name, sent, recorded_digests(own, str(spec["codec"])))
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
