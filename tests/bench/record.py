"""Recording: our recorder and archive against one `ffmpeg -c copy` a camera, which neither hashes
nor indexes.

Both sides record the same RTSP server in turns. The server's clip repeats and no two of its
pictures are the same, so a recording is right when it is one unbroken walk through the clip.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import statistics
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import sqlalchemy as sa

from services.recorders import recorder_name
from shared.db import tables
from shared.domain import Camera, Source
from shared.settings import Settings
from tests.bench import footage, measure, store
from tests.bench.measure import MIB, Figure, Row
from tests.support.rtsp_world import vcl_digest
from tests.support.servers import rtsp
from tests.support.wait import until_sync

READY_S = 90.0
END_S = 15.0
SEGMENT_S, SMALL_S = 15, 6
WARM_S = 8.0
MANY, FEW = 24, 2


class Outcome(NamedTuple):
    """One side of one round."""

    cores: float
    pss_bytes: int
    runs: dict[str, list[list[str]]]
    """By camera: the pictures of each unbroken file sequence, as digests."""


class Plan(NamedTuple):
    """The size of it."""

    cameras: int
    look: footage.Look
    segment_s: int
    rounds: int


def plan_of(small: bool) -> Plan:
    if small:
        return Plan(FEW, footage.SMALL, SMALL_S, 1)
    return Plan(MANY, footage.FULL, SEGMENT_S, 5)


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    plan = plan_of(small)
    row = Row(f"record {plan.cameras} RTSP cameras, {plan.look.width}x{plan.look.height}")
    if not rtsp.available():
        row.expect(os.environ.get("CI") != "true", "GStreamer's RTSP server is missing")
        row.notes.append("left out: needs Debian's gir1.2-gst-rtsp-server-1.0 and its plugins")
        return row
    clip = footage.make_clip(folder / "clip.mp4", plan.look)
    walk = {digest: number for number, digest in enumerate(_digests([clip]))}
    names = [f"bench-{number:02d}" for number in range(1, plan.cameras + 1)]
    cpu = Figure("CPU, recording alone", "cores", 1.35)
    memory = Figure("memory (PSS), recording alone", "MiB", 0.35)
    sampled = Figure("CPU, key frames sampled as by default (one round)", "cores", None)
    sampled_memory = Figure("memory, key frames sampled as by default (one round)", "MiB", None)
    for number in range(plan.rounds):
        sides = {}
        for side in ("ours", "peer") + (("sampling",) if number == 0 else ()):
            there = folder / f"{side}-{number}"
            there.mkdir()
            with rtsp.RtspServer([{"name": name, "file": str(clip)} for name in names]) as server:
                work = ffmpegs if side == "peer" else lamppost
                sides[side] = work(there, server, names, plan, side == "sampling")
            _judge(row, f"{side}, round {number + 1}", sides[side], walk, plan)
            shutil.rmtree(there)
        _note(cpu, memory, sides["ours"], sides["peer"])
        if "sampling" in sides:
            sampled.ours.append(sides["sampling"].cores)
            sampled.peer.append(sides["peer"].cores)
            sampled_memory.ours.append(sides["sampling"].pss_bytes / MIB)
            sampled_memory.peer.append(sides["peer"].pss_bytes / MIB)
        row.notes.append(f"round {number + 1}: {measure.load()}")
    row.figures = [cpu, memory, sampled, sampled_memory]
    return row


def _note(cpu: Figure, memory: Figure, ours: Outcome, peer: Outcome) -> None:
    cpu.ours.append(ours.cores)
    cpu.peer.append(peer.cores)
    memory.ours.append(ours.pss_bytes / MIB)
    memory.peer.append(peer.pss_bytes / MIB)


def _judge(row: Row, side: str, found: Outcome, walk: dict[str, int], plan: Plan) -> None:
    """Every camera: one run, no picture missing, doubled or strange, as long as the window."""
    shortest = plan.segment_s * plan.look.rate
    lengths = []
    for camera, runs in found.runs.items():
        row.expect(len(runs) == 1, f"{side}: {camera} has {len(runs)} runs")
        for run_ in runs:
            numbers = [walk.get(digest, -1) for digest in run_]
            steps = [(b - a) % len(walk) for a, b in itertools.pairwise(numbers)]
            wrong = sum(step != 1 for step in steps) + numbers.count(-1)
            row.expect(wrong == 0, f"{side}: {camera} has {wrong} breaks in {len(run_)} pictures")
            lengths.append(len(run_))
    row.expect(len(found.runs) == plan.cameras, f"{side}: {len(found.runs)} cameras")
    row.expect(min(lengths, default=0) >= shortest, f"{side}: as few as {min(lengths, default=0)}")
    row.notes.append(f"{side}: {statistics.median(lengths or [0]):.0f} pictures a camera, unbroken")


def _measured(processes: Sequence[subprocess.Popen[bytes]], plan: Plan) -> tuple[float, int]:
    """After a warm-up, over a span in which each camera ends just one segment."""
    measure.rest(WARM_S if plan.cameras > FEW else 1.0)
    return measure.window(measure.tree(processes), plan.segment_s)


# Ours


def lamppost(
    there: Path, server: rtsp.RtspServer, names: Sequence[str], plan: Plan, sampling: bool
) -> Outcome:
    """A recorder as the supervisor starts it, and an archive that empties its spool."""
    ingest = {"segment_s": plan.segment_s, "sample": sampling}
    settings = store.settings_of(there / "state", ingest=ingest, log={"level": "warning"})
    cameras = [Camera(id=name, name=name, source=Source(server.url(name))) for name in names]
    store.prepare(settings, cameras)
    recorder = [*store.command("ingest"), "--parent", str(os.getpid())]
    log = there / "log"
    processes = [
        measure.spawn(recorder, log, store.environment(settings, recorder_name(1))),
        measure.spawn(store.command("archive"), log, store.environment(settings)),
    ]
    spool = settings.path(settings.spool.dir)
    try:
        until_sync(lambda: _writing(spool, "*/tmp/*.mp4") == len(names), READY_S, log.read_text())
        cores, pss = _measured(processes, plan)
    finally:
        measure.end(processes[:1], signal.SIGTERM, END_S)
        try:
            until_sync(lambda: not [*spool.glob("*/new/*.mp4")], END_S, "everything is archived")
        finally:
            measure.end(processes, signal.SIGTERM, END_S)
    return Outcome(cores, pss, asyncio.run(_indexed(settings)))


async def _indexed(settings: Settings) -> dict[str, list[list[str]]]:
    """What the index says was recorded, read from the store."""
    table = tables.segment
    query = sa.select(table.c.camera_id, table.c.connection_id, table.c.key).order_by(
        table.c.camera_id, table.c.start_us
    )
    async with store.opened(settings) as platform, platform.database.read() as connection:
        found = (await connection.execute(query)).all()
    blobs = settings.path(settings.stores.blobs_dir)
    files: dict[str, dict[str, list[Path]]] = {}
    for camera, connection_id, key in found:
        files.setdefault(camera, {}).setdefault(connection_id, []).append(blobs / key)
    return {
        camera: [list(_digests(paths)) for paths in runs.values()] for camera, runs in files.items()
    }


# The peer


def ffmpegs(
    there: Path, server: rtsp.RtspServer, names: Sequence[str], plan: Plan, _: bool
) -> Outcome:
    """One process a camera."""
    processes = []
    try:
        for name in names:
            (there / name).mkdir()
            command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-rtsp_transport", "tcp"]
            command += ["-i", server.url(name), "-c", "copy", "-an", "-f", "segment"]
            command += ["-segment_time", str(plan.segment_s), str(there / name / "%05d.mp4")]
            processes.append(measure.spawn(command, there / "log", os.environ))
        until_sync(lambda: _writing(there, "*/*.mp4") == len(names), READY_S, "ffmpeg records")
        cores, pss = _measured(processes, plan)
    finally:
        measure.end(processes, signal.SIGINT, END_S)
    files = {name: sorted((there / name).glob("*.mp4")) for name in names}
    return Outcome(cores, pss, {name: [list(_digests(paths))] for name, paths in files.items()})


# Both


def _writing(folder: Path, pattern: str) -> int:
    """Files with pictures in them."""
    return sum(path.stat().st_size > 4_096 for path in folder.glob(pattern) if path.exists())


def _digests(paths: Iterable[Path]) -> Iterator[str]:
    """Of every picture's coded slices, which no remuxing changes."""
    for path in paths:
        with av.open(str(path)) as file:
            for packet in file.demux(video=0):
                if packet.size:
                    yield vcl_digest(bytes(packet), "h264")
