"""Replayed cameras recorded: by the media path to the byte, by the whole program to the second."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.clock import SECOND_US
from shared.domain import Camera, Source
from tests.support.program import ROOT, Program, program
from tests.support.recording import read_spool, settings_for
from tests.support.replaying import replaying, task_of, units_of
from tests.support.rtsp_world import CLOCK, check_account, recorded_digests, vcl_digest, watching
from tests.support.video import write_video
from tests.support.wait import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def _whole(path: Path, seconds: float) -> list[str]:
    """Digests of what a camera on this file sends, long enough for any part of it."""
    units, _, codec = units_of(path)
    one = [
        vcl_digest(b"".join(len(u).to_bytes(4, "big") + u for u in unit), codec.value)
        for unit in units
    ]
    return list(itertools.islice(itertools.cycle(one), round(seconds * 25) + 3 * len(one)))


async def test_the_media_path_records_what_two_cameras_send(tmp_path: Path) -> None:
    files = [
        write_video(tmp_path / "a.mp4", width=320, height=240, b_frames=2, frames=75),
        write_video(tmp_path / "b.mp4", width=320, height=240, codec="libx265", frames=75),
    ]
    settings = settings_for(tmp_path, segment_s=3)
    async with replaying(task_of(files, cameras=2)) as running:
        cameras = [
            Camera(id=name, name=name, source=Source(url=running.url(name)))
            for name in ("cam-001", "cam-002")
        ]
        begun_us = CLOCK.now_us()
        async with watching(settings, cameras):
            await until(lambda: CLOCK.now_us() - begun_us > 9 * SECOND_US, 20)
        await until(lambda: not running.server.connections, 5)
        spans = {n: s.count.spans for n, (_, s) in running.server.street.streams.items()}
    segments, _ = read_spool(settings)
    for camera, path, codec in zip(cameras, files, ("h264", "h265"), strict=True):
        own = sorted(
            (p for p in segments if p[0].camera_id == camera.id), key=lambda p: p[0].start_us
        )
        recorded, sent = recorded_digests(own, codec), _whole(path, 15)
        starts = [at for at, digest in enumerate(sent) if digest == recorded[0]]
        assert len(recorded) > 150
        assert any(sent[at : at + len(recorded)] == recorded for at in starts), camera.id
        assert check_account(settings, camera.id, own[0][0].start_us) is not None
        ((start_us, end_us),) = spans[camera.id]
        assert abs(own[0][0].start_us - start_us) < SECOND_US / 5
        assert abs(own[-1][0].end_us - end_us) < SECOND_US / 2


def _hashes(tool: str, *source: str) -> tuple[list[str], str]:
    """A hash of every decoded picture, as ffmpeg gives them, and what it complains of."""
    done = subprocess.run(
        [tool, "-loglevel", "error", *source, "-frames:v", "60", "-fps_mode", "passthrough",
         "-f", "framehash", "-"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    return [line.rpartition(",")[2].strip() for line in lines], done.stderr


@pytest.mark.servers
@pytest.mark.alone
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
async def test_ffmpeg_decodes_it_without_a_complaint(codec: str, tmp_path: Path) -> None:
    tool = shutil.which("ffmpeg")
    if tool is None:
        pytest.skip("needs ffmpeg")
    path = write_video(tmp_path / "a.mp4", codec=codec, b_frames=2)
    own, _ = _hashes(tool, "-i", str(path))
    async with replaying(task_of([path])) as running:
        url = running.url("cam-001")
        got, said = await asyncio.to_thread(_hashes, tool, "-rtsp_transport", "tcp", "-i", url)
    assert said == "" and len(got) == 60 and len(set(own)) == len(own) == 50
    first = own.index(got[0])
    assert got == list(itertools.islice(itertools.cycle(own), first, first + 60))


class Command:
    """`lamppost replay` against a program."""

    def __init__(self, running: Program, *arguments: str) -> None:
        key = running.client.headers["authorization"].split()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services", "replay", *arguments, "--json", "--port", "0",
             "--register", running.url, "--purpose", "maintenance", "--reason", "a test",
             "--settle", "60s"],
            cwd=ROOT, env={**running._env, "LAMPPOST_KEY": key},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def report(self) -> dict[str, Any]:
        out, said = self.process.communicate(timeout=200)
        assert out, said
        found: dict[str, Any] = json.loads(out)
        assert self.process.returncode == 0, (said, found)
        return found


async def test_the_whole_program_loses_nothing_of_a_scenario(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", width=320, height=240, frames=75)
    sub = write_video(tmp_path / "b.mp4", width=160, height=96, frames=75)
    (tmp_path / "s.toml").write_text(
        "[[storm]]\nat_s = 8\naway_s = 2\n[[skew]]\nshare = 0.5\nseconds = 30\n"
    )
    async with program(tmp_path, LAMPPOST_INGEST__SEGMENT_S="5") as running:
        command = Command(
            running, str(path), "--sub", str(sub), "--cameras", "2", "--for", "20s",
            "--scenario", str(tmp_path / "s.toml"), "--processes", "2",
            "--log", str(tmp_path / "log"),
        )  # fmt: skip
        found = await asyncio.to_thread(command.report)
        cameras = (await running.client.get("/v1/cameras")).json()["items"]
    sent, archive = found["sent"], found["archive"]
    assert (sent["cameras"], sent["processes"]) == (2, 2)
    assert sent["ended"]["scenario"] >= 3 and sent["ended"].get("slow", 0) == 0
    assert archive["lost_s"] == 0 and archive["unaccounted_s"] == 0 and archive["unread"] == 0
    assert archive["recorded_s"] > 0.8 * sent["served_s"] > 15
    assert sum(archive["gaps_s"].values()) > 3
    assert archive["late_s"]["count"] > 5 and archive["counters"]["lamppost_frames_sampled"] > 10
    assert sorted(camera["skew_s"] for camera in found["cameras"]) == [0, 30]
    services = {one["name"]: one for one in found["services"]}
    for name in ("all", "ingest", "replay"):
        assert services[name]["cpu_s"] > 0 and services[name]["pss_max_bytes"] > 1_000_000, name
    assert {(camera["id"], camera["enabled"]) for camera in cameras} == {
        ("replay-cam-001", False),
        ("replay-cam-002", False),
    }
    lines = [
        line
        for file in sorted((tmp_path / "log").glob("*.csv"))
        for line in file.read_text().splitlines()[1:]
    ]
    assert len(lines) == sent["pictures"]


async def test_ctrl_c_ends_it_with_its_report(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", width=320, height=240, frames=75)
    async with program(tmp_path, LAMPPOST_INGEST__SEGMENT_S="5") as running:
        command = Command(running, str(path), "--cameras", "1")
        await running.until_state("replay-cam-001", "recording")
        command.process.send_signal(signal.SIGINT)
        found = await asyncio.to_thread(command.report)
    assert found["sent"]["pictures"] > 0 and found["archive"]["lost_s"] == 0
    assert found["cameras"][0]["recorded_s"] > 0
