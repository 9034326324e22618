"""The recorder's internal HTTP over a real socket: spool, open segment, live, connection test."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from services.ingest import recorder_http
from services.ingest.live import MAX_QUEUE_ITEMS, MAX_VIEWERS, LiveHub
from services.ingest.recorder_http import build_app, server_of, wanted
from services.ingest.spool_view import Listed, SpoolView
from shared.clock import SECOND_US
from shared.domain import Camera
from shared.errors import Kind, LamppostError
from shared.spool import RecorderSpool, SpoolReader
from tests.support.fake_media import INIT, FakeRecording, camera
from tests.support.wait import until

KEY = "k" * 40
START = 1_713_225_600_000_000


class Recorder:
    """A spool, a hub and a server over them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spool = RecorderSpool(root, "recorder-1")
        self.hub = LiveHub()
        self.probed: list[Camera] = []
        self.probing: asyncio.Event | None = None
        self.url = ""

    async def probe(self, tried: Camera) -> dict[str, Any]:
        self.probed.append(tried)
        if self.probing is not None:
            await self.probing.wait()
        return {"ok": True, "jpeg_base64": base64.b64encode(b"jpeg").decode()}

    def record(
        self, pieces: int = 3, *, file: bool = True, start_us: int = START, **more: Any
    ) -> FakeRecording:
        made = FakeRecording(self.spool, start_us=start_us, **more)
        for number in range(pieces):
            self.hub.fragment(made.write(b"%d" % number * 100))
        if file:
            self.hub.filed(made.finish().segment)
        return made


@pytest.fixture
async def recorder(tmp_path: Path) -> AsyncIterator[Recorder]:
    made = Recorder(tmp_path)
    server = server_of(
        build_app(made.hub, made.spool, recorder="recorder-1", key=KEY, probe=made.probe)
    )
    made.url = await server.start()
    yield made
    made.hub.close()
    await server.stop()


@pytest.fixture
async def client(recorder: Recorder) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(
        base_url=recorder.url, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False
    ) as made:
        yield made


async def listing(
    client: httpx2.AsyncClient, start_us: int = START, end_us: int = START + 3600 * SECOND_US
) -> list[Listed]:
    answer = await client.get(
        "/internal/segments",
        params={"camera": "cam-1", "start_us": start_us, "end_us": end_us},
    )
    assert answer.status_code == 200
    return msgspec.json.decode(answer.content, type=list[Listed])


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/internal/segments?camera=cam-1&start_us=0&end_us=9"),
        ("GET", "/internal/segments/x/bytes"),
        ("GET", "/internal/live?camera=cam-1"),
        ("POST", "/internal/test"),
        ("GET", "/internal/metrics"),
        ("GET", "/nothing"),
    ],
)
async def test_nothing_without_the_key(
    recorder: Recorder, method: str, path: str, headers: dict[str, str]
) -> None:
    async with httpx2.AsyncClient(base_url=recorder.url, trust_env=False) as client:
        answer = await client.request(method, path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert recorder.probed == []


async def test_filed_and_open_segments_of_the_range_are_listed(
    recorder: Recorder, client: httpx2.AsyncClient
) -> None:
    first = recorder.record(start_us=START)
    second = recorder.record(start_us=START + 3 * SECOND_US)
    growing = recorder.record(2, file=False, start_us=START + 6 * SECOND_US)
    recorder.record(start_us=START, camera_id="cam-2")
    found = await listing(client)
    assert [(item.id, item.open) for item in found] == [
        (first.open.id, False),
        (second.open.id, False),
        (growing.open.id, True),
    ]
    assert found[0].fragments == tuple(first.fragments)
    assert found[2].fragments == tuple(growing.fragments)
    assert found[2].size_bytes == len(growing.data)
    # A segment that began before the range reaches into it; one that ends at its start does not.
    assert [i.id for i in await listing(client, START + SECOND_US, START + 2 * SECOND_US)] == [
        first.open.id
    ]
    assert [i.id for i in await listing(client, START + 3 * SECOND_US, START + 4 * SECOND_US)] == [
        second.open.id
    ]
    assert await listing(client, START - 10 * SECOND_US, START) == []


async def test_what_is_archived_or_damaged_is_not_listed(
    recorder: Recorder, client: httpx2.AsyncClient
) -> None:
    recorder.record(start_us=START)
    damaged = recorder.record(start_us=START + 3 * SECOND_US)
    name = f"{damaged.open.start_us:020d}-cam-1-{damaged.open.id}.json"
    (recorder.spool.new / name).write_bytes(b"{")
    reader = SpoolReader(recorder.root)
    reader.remove(next(item for item in reader.filed() if damaged.open.id not in item.name))
    assert await listing(client) == []


async def test_a_listing_is_bounded_and_says_when_it_left_some_off(
    recorder: Recorder, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ingest.spool_view.MAX_LISTED", 2)
    for number in range(3):
        recorder.record(start_us=START + number * 3 * SECOND_US)
    answer = await client.get(
        "/internal/segments",
        params={"camera": "cam-1", "start_us": START, "end_us": START + 60 * SECOND_US},
    )
    assert len(answer.json()) == 2 and answer.headers["x-lamppost-truncated"] == "1"


async def test_bytes_come_whole_and_in_ranges(
    recorder: Recorder, client: httpx2.AsyncClient
) -> None:
    made = recorder.record(file=False)
    path = f"/internal/segments/{made.open.id}/bytes"
    # A fragment that is being written is not yet part of it.
    with (recorder.spool.tmp / f"{START:020d}-cam-1-{made.open.id}.mp4").open("ab") as file:
        file.write(b"half a fragment")
    answer = await client.get(path)
    assert (answer.status_code, answer.content) == (200, made.data)
    answer = await client.get(path, headers={"Range": "bytes=10-19"})
    assert (answer.status_code, answer.content) == (206, made.data[10:20])
    assert answer.headers["content-range"] == f"bytes 10-19/{len(made.data)}"
    answer = await client.get(path, headers={"Range": f"bytes={len(made.data)}-"})
    assert answer.status_code == 416
    assert (await client.get("/internal/segments/unknown/bytes")).status_code == 404


async def test_bytes_of_a_segment_of_an_earlier_life_are_found(
    recorder: Recorder, client: httpx2.AsyncClient
) -> None:
    made = FakeRecording(recorder.spool)
    made.write(b"x" * 600_000)
    made.finish()
    path = f"/internal/segments/{made.open.id}/bytes"
    assert (await client.get(path)).content == made.data
    reader = SpoolReader(recorder.root)
    reader.remove(reader.filed()[0])
    assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, (0, 100, 200)),
        ("bytes=0-", (0, 100, 206)),
        ("bytes=5-5", (5, 6, 206)),
        ("bytes=90-1000", (90, 100, 206)),
        ("bytes=-10", (90, 100, 206)),
        ("bytes=-1000", (0, 100, 206)),
        ("bytes=1-2,5-6", (0, 100, 200)),
        ("bytes=x-", (0, 100, 200)),
        ("lines=1-2", (0, 100, 200)),
        ("bytes=-", (0, 100, 200)),
    ],
)
def test_range_headers(header: str | None, expected: tuple[int, int, int]) -> None:
    assert wanted(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=9-8", "bytes=-0"])
def test_ranges_outside(header: str) -> None:
    with pytest.raises(LamppostError) as caught:
        wanted(header, 100)
    assert caught.value.kind is Kind.RANGE_NOT_SATISFIABLE


async def test_live_begins_at_the_newest_key_frame_and_goes_on_into_the_next_segment(
    recorder: Recorder, client: httpx2.AsyncClient
) -> None:
    first = FakeRecording(recorder.spool)
    for data, key in ((b"old", True), (b"key", True), (b"more", False)):
        recorder.hub.fragment(first.write(data, key=key))
    async with client.stream("GET", "/internal/live", params={"camera": "cam-1"}) as answer:
        assert answer.status_code == 200
        assert answer.headers["x-lamppost-codec"] == "avc1.64001f"
        got = bytearray()
        pieces = answer.aiter_bytes()

        async def until_bytes(expected: bytes) -> None:
            while len(got) < len(expected):
                got.extend(await asyncio.wait_for(anext(pieces), 5))
            assert bytes(got) == expected

        await until_bytes(INIT + b"keymore")
        recorder.hub.fragment(first.write(b"next", key=False))
        await until_bytes(INIT + b"keymorenext")
        recorder.hub.filed(first.finish().segment)
        second = FakeRecording(recorder.spool, start_us=first.end_us)
        recorder.hub.fragment(second.write(b"second"))
        await until_bytes(INIT + b"keymorenextsecond")
        # Another connection to the camera: media time does not run on, so the stream ends.
        other = FakeRecording(recorder.spool, start_us=second.end_us, connection_id="connection-2")
        recorder.hub.fragment(other.write(b"other"))
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(pieces), 5)


async def test_live_ends_when_the_camera_stops_and_is_refused_when_nothing_is_recorded(
    recorder: Recorder, client: httpx2.AsyncClient
) -> None:
    assert (await client.get("/internal/live?camera=cam-1")).status_code == 503
    recorder.record(file=False)
    async with client.stream("GET", "/internal/live", params={"camera": "cam-1"}) as answer:
        recorder.hub.stopped("cam-1")
        assert (await asyncio.wait_for(answer.aread(), 5)).startswith(INIT)
    assert (await client.get("/internal/live?camera=cam-1")).status_code == 503


def test_a_slow_viewer_is_dropped_and_the_others_go_on(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    made = recorder.record(1, file=False)
    slow = recorder.hub.watch("cam-1")
    for _ in range(MAX_QUEUE_ITEMS):
        recorder.hub.fragment(made.write(b"x"))
    assert slow.dropped
    fresh = recorder.hub.watch("cam-1")
    recorder.hub.fragment(made.write(b"y"))
    assert not fresh.dropped


def test_viewers_are_limited(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.record(1, file=False)
    viewers = [recorder.hub.watch("cam-1") for _ in range(MAX_VIEWERS)]
    with pytest.raises(LamppostError) as caught:
        recorder.hub.watch("cam-1")
    assert caught.value.kind is Kind.LIMITED
    recorder.hub.leave("cam-1", viewers[0])
    recorder.hub.watch("cam-1")


async def test_a_hole_in_what_was_reported_ends_viewers(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    made = recorder.record(2, file=False)
    viewer = recorder.hub.watch("cam-1")
    made.write(b"lost")
    recorder.hub.fragment(made.write(b"after", key=False))
    assert b"after" not in b"".join([data async for data in viewer.read()])
    with pytest.raises(LamppostError):
        recorder.hub.watch("cam-1")
    recorder.hub.fragment(made.write(b"key"))
    recorder.hub.watch("cam-1")


def test_what_live_keeps_is_bounded_by_time_and_keeps_whole_groups(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    made = FakeRecording(recorder.spool)
    recorder.hub.fragment(made.write(b"key"))
    for _ in range(30):
        recorder.hub.fragment(made.write(b"-", key=False))
    # One long group of pictures: a joiner needs all of it.
    assert len(recorder.hub._feeds["cam-1"]._recent) == 31
    recorder.hub.fragment(made.write(b"key"))
    assert len(recorder.hub._feeds["cam-1"]._recent) <= 11


async def test_the_connection_test_answers_and_is_limited(
    recorder: Recorder, client: httpx2.AsyncClient
) -> None:
    body = msgspec.json.encode(camera("new-1"))
    answer = await client.post("/internal/test", content=body)
    assert answer.json() == {"ok": True, "jpeg_base64": "anBlZw=="}
    assert recorder.probed == [camera("new-1")]
    assert (await client.post("/internal/test", content=b"{}")).status_code == 422
    assert (await client.post("/internal/test", content=b" " * 300_000)).status_code == 413
    recorder.probing = asyncio.Event()
    running = [asyncio.create_task(client.post("/internal/test", content=body)) for _ in range(2)]
    await until(lambda: len(recorder.probed) == 3)
    assert (await client.post("/internal/test", content=body)).status_code == 429
    recorder.probing.set()
    assert [(await task).status_code for task in running] == [200, 200]


async def test_a_hanging_connection_test_ends(
    recorder: Recorder, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_http, "TEST_TIMEOUT_S", 0.05)
    recorder.probing = asyncio.Event()
    answer = await client.post("/internal/test", content=msgspec.json.encode(camera("new-1")))
    assert answer.json()["ok"] is False


def test_names_of_other_cameras_are_not_mistaken(tmp_path: Path) -> None:
    """A camera id may contain another one, and hyphens."""
    recorder = Recorder(tmp_path)
    for name in ("cam", "cam-1", "x-cam-1", "1-cam-1"):
        recorder.record(camera_id=name)
    found, cut = SpoolView(recorder.spool).listing("cam-1", START, START + SECOND_US)
    assert [item.camera_id for item in found] == ["cam-1"] and not cut


async def joined(hub: LiveHub) -> bytes:
    """What a viewer that joins now begins with."""
    viewer = hub.watch("cam-1")
    hub.leave("cam-1", viewer)
    return b"".join([data async for data in viewer.read()])


async def test_live_reads_back_what_was_written_wherever_the_file_has_gone(tmp_path: Path) -> None:
    hub, spool = LiveHub(), RecorderSpool(tmp_path, "recorder-1")
    made = FakeRecording(spool)
    for key, data in ((True, b"old"), (True, b"key" * 100), (False, b"then" * 50)):
        event = made.write(data, key=key)
        hub.fragment(event)
    assert event.path is not None
    wanted_bytes = INIT + b"key" * 100 + b"then" * 50
    assert await joined(hub) == wanted_bytes
    hub.filed(made.finish().segment)
    for path in (spool.dir / "new").iterdir():
        path.unlink()  # the archive has it
    assert await joined(hub) == wanted_bytes
    hub.close()


async def test_live_keeps_the_bytes_themselves_of_a_file_it_came_too_late_for(
    tmp_path: Path,
) -> None:
    hub, made = LiveHub(), FakeRecording(RecorderSpool(tmp_path, "recorder-1"))
    events = [made.write(data, key=key) for data, key in ((b"key", True), (b"then", False))]
    made.finish()  # before anybody read of it
    for event in events:
        hub.fragment(event)
    assert await joined(hub) == INIT + b"keythen"
    hub.close()


async def test_live_says_so_when_the_file_no_longer_gives_what_it_took(tmp_path: Path) -> None:
    hub, made = LiveHub(), FakeRecording(RecorderSpool(tmp_path, "recorder-1"))
    event = made.write(b"key")
    hub.fragment(event)
    assert event.path is not None
    event.path.write_bytes(b"")
    with pytest.raises(LamppostError) as refusal:
        hub.watch("cam-1")
    assert refusal.value.kind is Kind.UNAVAILABLE
    hub.close()
