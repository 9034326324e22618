"""Playback: the first byte of ten minutes over three gaps, through the API and through ffmpeg.

Ours is what a player asks for, over loopback and on a new connection each time: open a session
(audited and committed), fetch its playlist, fetch the first byte range that it names. The peer is a
process that a program would start for the same: `ffmpeg -f concat -c copy` of the same files. Both
read files that the page cache holds.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import re
import signal
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av

from services.api import keys
from services.api.camera_store import add_cameras
from shared import civil
from shared.clock import SECOND_US
from shared.db import tables
from shared.domain import Camera, Role, Source
from shared.platform import Platform
from shared.settings import Settings
from tests.bench import footage, measure, store
from tests.bench.measure import CLOCK, Figure, Row
from tests.support.servers.rtsp import free_port
from tests.support.wait import until_sync

CAMERA = "bench-1"
GAP_S = 20
RUNS = 4
STARTED_S = 60.0
SHOTS, SMALL_SHOTS = 5, 1
WHY = {"purpose": "crime_investigation", "case_ref": "BENCH-1"}


class Store(NamedTuple):
    """What was recorded."""

    settings: Settings
    key: str
    files: list[Path]
    start_us: int
    end_us: int
    pictures: int


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    look, seconds, rounds = (footage.SMALL, 80, 1) if small else (footage.FULL, 600, 5)
    row = Row(f"first byte of {seconds // 60} min {seconds % 60} s over {RUNS - 1} gaps")
    clip = footage.make_clip(folder / "clip.mp4", look)
    made = asyncio.run(_record(folder, footage.read_clip(clip), seconds))
    playlist = Figure("session, playlist, first media byte", "ms", 0.2)
    first_clip = Figure("session, first byte of a clip", "ms", 0.2)
    listing = folder / "list.txt"
    listing.write_text("".join(f"file '{path}'\n" for path in made.files), "utf-8")
    api = measure.spawn(
        store.command("api"), folder / "log", store.environment(made.settings, "api")
    )
    try:
        client = Client(made)
        until_sync(client.ready, STARTED_S, "the API answers", every_s=0.1)
        shots = SMALL_SHOTS if small else SHOTS
        for number in range(-1, rounds):
            ours = statistics.median(client.play() for _ in range(shots))
            peer = statistics.median(_concat(listing) for _ in range(shots))
            clips = statistics.median(client.clip() for _ in range(shots))
            if number < 0:
                continue  # the round that warms both up
            for figure, value in ((playlist, ours), (first_clip, clips)):
                figure.ours.append(value)
                figure.peer.append(peer)
            row.notes.append(f"round {number + 1}: {measure.load()}")
        _judge(row, client, listing, made)
    finally:
        measure.end([api], signal.SIGTERM, 10)
    row.figures = [playlist, first_clip]
    row.notes.append(f"{shots} tries a side in each round, their median")
    return row


def _judge(row: Row, client: Client, listing: Path, made: Store) -> None:
    counts = {
        "playlist": _pictures(client.whole_playlist()),
        "clip": _pictures(client.whole_clip()),
        "ffmpeg": _pictures([_concat_whole(listing)]),
    }
    row.notes.append(f"pictures in all: {counts}")
    row.expect(set(counts.values()) == {made.pictures}, f"{made.pictures} recorded, {counts}")


async def _record(folder: Path, stream: footage.Stream, seconds: int) -> Store:
    """Four connections with holes between them, an hour ago, archived."""
    port = free_port()
    settings = store.settings_of(
        folder / "state", api={"port": port}, log={"level": "warning", "format": "json"}
    )
    each_s = (seconds - GAP_S * (RUNS - 1)) // RUNS if seconds > GAP_S * RUNS else seconds // RUNS
    gap_s = (seconds - each_s * RUNS) // (RUNS - 1)
    pictures = each_s * 90_000 // stream.step
    start_us = CLOCK.now_us() // SECOND_US * SECOND_US - footage.minutes_us(60)
    names = []
    async with store.opened(settings) as platform:
        camera = Camera(id=CAMERA, name=CAMERA, source=Source("rtsp://camera.test/1"))
        await add_cameras(platform, settings, [camera])
        for number in range(RUNS):
            begin_us = start_us + number * (each_s + gap_s) * SECOND_US
            made = footage.record(stream, CAMERA, begin_us, pictures)
            names += [await store.archive(platform, each) for each in made]
        key = await _person(platform)
    root = settings.path(settings.stores.blobs_dir)
    end_us = start_us + seconds * SECOND_US
    files = [(root / name).resolve() for name in names]
    return Store(settings, key, files, start_us, end_us, pictures * RUNS)


async def _person(platform: Platform) -> str:
    async with platform.database.write() as connection:
        await connection.execute(
            tables.user.insert().values(
                id="user-1",
                name="ada",
                roles=[role.value for role in (Role.ANALYST, Role.INVESTIGATOR)],
                created_at_us=platform.clock.now_us(),
            )
        )
    return (await keys.create_key(platform, user_name="ada")).token


class Client:
    """A player: every request on a connection of its own."""

    def __init__(self, made: Store) -> None:
        self._made = made
        self._port = made.settings.api.port
        self._body = json.dumps(
            {
                "camera": CAMERA,
                "start": civil.rfc3339(made.start_us),
                "end": civil.rfc3339(made.end_us),
                **WHY,
            }
        )

    def ready(self) -> bool:
        try:
            return self._ask("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def play(self) -> float:
        """Milliseconds to the first byte of media."""
        began_us = CLOCK.monotonic_us()
        first = next(iter(_media(self._playlist())))
        self._get(first, only_first=True)
        return measure.seconds_since(began_us) * 1_000

    def clip(self) -> float:
        began_us = CLOCK.monotonic_us()
        part = self._open("clip")["parts"][0]
        self._get((part["url"], None), only_first=True)
        return measure.seconds_since(began_us) * 1_000

    def whole_playlist(self) -> list[bytes]:
        """All media, a file for each init section and what follows it."""
        text, files = self._playlist(), []
        for kind, url, span in _entries(text):
            data = self._get((url, span))
            if kind == "init":
                files.append(b"")
            files[-1] += data
        return files

    def whole_clip(self) -> list[bytes]:
        return [self._get((part["url"], None)) for part in self._open("clip")["parts"]]

    def _open(self, kind: str) -> dict[str, Any]:
        status, body = self._ask("POST", f"/v1/{kind}-sessions", self._body)
        assert status == 201, (status, body[:300])
        found: dict[str, Any] = json.loads(body)
        return found

    def _playlist(self) -> str:
        base = self._open("playback")["url"]
        status, body = self._ask("GET", base)
        assert status == 200, (status, body[:300])
        folder = base.rsplit("/", 1)[0]
        return re.sub(
            r'(^|URI=")(?!#|/|http)(?=[^\n]+)', rf"\g<1>{folder}/", body.decode(), flags=re.M
        )

    def _get(self, what: tuple[str, str | None], *, only_first: bool = False) -> bytes:
        url, span = what
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request("GET", url, headers={"Range": f"bytes={span}"} if span else {})
            answer = connection.getresponse()
            assert answer.status in (200, 206), (url, answer.status, answer.read(300))
            return answer.read(1) if only_first else answer.read()
        finally:
            connection.close()

    def _ask(self, method: str, url: str, body: str | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        headers = {"Authorization": f"Bearer {self._made.key}", "Content-Type": "application/json"}
        try:
            connection.request(method, url, body, headers if method == "POST" else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def _entries(playlist: str) -> list[tuple[str, str, str | None]]:
    """(`init` or `media`, address, byte range) in order."""
    found: list[tuple[str, str, str | None]] = []
    span: str | None = None
    for line in playlist.splitlines():
        if line.startswith("#EXT-X-MAP:"):
            uri = re.search(r'URI="([^"]+)"', line)
            bytes_ = re.search(r'BYTERANGE="([^"]+)"', line)
            assert uri is not None
            found.append(("init", uri[1], _span(bytes_[1]) if bytes_ else None))
        elif line.startswith("#EXT-X-BYTERANGE:"):
            span = _span(line.partition(":")[2])
        elif line and not line.startswith("#"):
            found.append(("media", line, span))
            span = None
    return found


def _media(playlist: str) -> list[tuple[str, str | None]]:
    return [(url, span) for kind, url, span in _entries(playlist) if kind == "media"]


def _span(text: str) -> str:
    size, _, offset = text.partition("@")
    return f"{int(offset)}-{int(offset) + int(size) - 1}"


# The peer


def _command(listing: Path) -> list[str]:
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-f", "concat", "-safe", "0"]
    command += ["-i", str(listing), "-c", "copy", "-f", "mp4"]
    return [*command, "-movflags", "frag_keyframe+empty_moov+default_base_moof", "pipe:1"]


def _concat(listing: Path) -> float:
    """Milliseconds to the first byte."""
    began_us = CLOCK.monotonic_us()
    with subprocess.Popen(_command(listing), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        took = measure.seconds_since(began_us) * 1_000
        process.kill()
        return took


def _concat_whole(listing: Path) -> bytes:
    return subprocess.run(_command(listing), stdout=subprocess.PIPE, check=True).stdout


def _pictures(files: Sequence[bytes]) -> int:
    count = 0
    for data in files:
        with av.open(io.BytesIO(data), "r") as file:
            count += sum(bool(packet.size) for packet in file.demux(video=0))
    return count
