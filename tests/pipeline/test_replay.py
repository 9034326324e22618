"""What a replay sends is what a client gets: the file's own bytes, in order, and its faults."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from pathlib import Path

import pytest

from services.ingest.rtsp_client import Connection
from services.ingest.rtsp_source import RtspSource
from services.ingest.rtsp_wire import Authorizer, Url
from services.ingest.source import Packet, SourceError, StreamInfo
from services.ingest.source_memory import SourceMemory
from services.replay.count import Word
from services.replay.fleet import Fleet
from services.replay.scenario import Change, Ramp, Scenario, Silent, Skew, Storm
from shared.clock import SECOND_US, SystemClock
from shared.domain import Camera, ClockSource, GapReason, Source
from shared.errors import Kind, LamppostError
from shared.settings import load
from tests.support.replaying import replaying, split, task_of, units_of
from tests.support.video import write_video
from tests.support.wait import until

CLOCK = SystemClock()
CLIPS = {
    "h264": {},
    "h264 with B-frames": {"b_frames": 2},
    "h264 with large pictures": {"width": 640, "height": 480, "extra": "qp=4"},
    "h265 with B-frames": {"codec": "libx265", "b_frames": 2},
}
QUICK = "h264 with B-frames"
"""Of what plays in real time, `make test` has this one."""


def source_of(
    url: str, state_dir: Path, secret: str | None = None, silent_s: float = 10.0
) -> RtspSource:
    settings = load({}, {"state_dir": str(state_dir), "ingest": {"silent_s": silent_s}})
    camera = Camera(id="cam", name="cam", source=Source(url=url, secret=secret))
    return RtspSource(camera, settings, CLOCK, url, memory=SourceMemory())


def read(made: RtspSource, count: int) -> tuple[StreamInfo, list[Packet]]:
    try:
        info = made.open()
        return info, [made.read() for _ in range(count)]
    finally:
        made.close()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == QUICK else pytest.mark.slow, id=name)
        for name in CLIPS
    ],
)
async def test_our_client_gets_the_files_own_units_in_order(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", **CLIPS[name])  # type: ignore[arg-type]
    units, sets, codec = units_of(path)
    keyed = [[*sets, *unit] if at % 25 == 0 else unit for at, unit in enumerate(units)]
    async with replaying(task_of([path])) as running:
        made = source_of(running.url("cam-001"), tmp_path)
        info, packets = await asyncio.to_thread(read, made, 70)
    assert info.codec is codec and info.clock_source is ClockSource.RTCP_SENDER_REPORT
    got = [split(packet.data) for packet in packets]
    first = keyed.index(got[0])
    assert got == list(itertools.islice(itertools.cycle(keyed), first, first + 70))
    pts = sorted(packet.pts for packet in packets)
    # The last pictures' neighbours in time may not have come yet.
    assert {b - a for a, b in itertools.pairwise(pts[:-3])} == {3600}
    assert all(a.dts < b.dts for a, b in itertools.pairwise(packets))
    late = [packet.received_us - (packet.capture_us or 0) for packet in packets]
    assert min(late) >= -1_000


@pytest.mark.slow
async def test_a_camera_has_its_sub_stream_and_the_same_picture_for_all(tmp_path: Path) -> None:
    main = write_video(tmp_path / "a.mp4", width=320, height=240)
    sub = write_video(tmp_path / "b.mp4", width=160, height=96)
    async with replaying(task_of([main], subs=[sub], cameras=2)) as running:
        names = ("cam-001", "cam-001/sub", "cam-002", "cam-001")
        made = [source_of(running.url(name), tmp_path) for name in names]
        found = await asyncio.gather(*(asyncio.to_thread(read, one, 30) for one in made))
        counts = {name: s.count for name, (_, s) in running.server.street.streams.items()}
        await until(lambda: all(not count.playing for count in counts.values()), 5)
    assert [(info.width, info.height) for info, _ in found] == [
        (320, 240), (160, 96), (320, 240), (320, 240),
    ]  # fmt: skip
    taken = [{packet.capture_us // 1000: packet.data for packet in p} for _, p in found]  # type: ignore[operator]
    shared = [at for at in taken[0] for near in (at - 1, at, at + 1) if near in taken[3]]
    assert len(shared) > 10
    assert counts["cam-001"].sessions == 2 and counts["cam-001"].ended == {"client": 2}


@pytest.mark.slow
async def test_faults_are_what_a_recorder_sees(tmp_path: Path) -> None:
    """Away, silent, cut, and with a clock that is wrong, at their times."""
    path = write_video(tmp_path / "a.mp4")
    scenario = Scenario(
        ramp=Ramp(per_s=1.0),
        storm=(Storm(at_s=2.5, away_s=0.4),),
        silent=(Silent(at_s=4.5, for_s=3.0),),
        skew=(Skew(seconds=-40.0),),
    )

    def watch(made: RtspSource) -> tuple[GapReason, list[Packet]]:
        packets: list[Packet] = []
        try:
            made.open()
            while True:
                packets.append(made.read())
        except SourceError as error:
            return error.reason, packets
        finally:
            made.close()

    async with replaying(task_of([path], cameras=2, scenario=scenario)) as running:
        second = source_of(running.url("cam-002"), tmp_path)
        reason, _ = await asyncio.to_thread(watch, second)
        assert reason is GapReason.UNREACHABLE  # the ramp has not come to it
        made = source_of(running.url("cam-001"), tmp_path, silent_s=2.0)
        reason, packets = await asyncio.to_thread(watch, made)
        assert reason is GapReason.CONNECTION_LOST  # the storm
        skews = [p.received_us - p.capture_us for p in packets if p.capture_us is not None]
        assert min(skews) > 39.5 * SECOND_US and max(skews) < 41 * SECOND_US
        while reason is not GapReason.SILENT:
            reason, packets = await asyncio.to_thread(watch, made)
            assert reason in (GapReason.UNREACHABLE, GapReason.CONNECTION_LOST, GapReason.SILENT)
            await until(lambda: True, 1)
        assert packets
        count = running.server.street.streams["cam-001"][1].count
        assert count.ended["scenario"] == 1 and count.refused >= 0
        assert running.server.street.streams["cam-002"][1].count.refused >= 1


@pytest.mark.slow
async def test_another_file_comes_in_the_same_session(tmp_path: Path) -> None:
    small = write_video(tmp_path / "a.mp4")
    large = write_video(tmp_path / "b.mp4", width=256, height=128)
    units, _, _ = units_of(large)
    # Between two key pictures, and late enough for a slow machine to have seen one before.
    scenario = Scenario(change=(Change(at_s=3.5, file=str(large)),))
    async with replaying(task_of([small], scenario=scenario)) as running:
        made = source_of(running.url("cam-001"), tmp_path)
        _, packets = await asyncio.to_thread(read, made, 100)
    slices = [split(packet.data)[-1] for packet in packets]
    first = slices.index(units[0][-1])
    assert packets[first].key and 5 < first < 88
    assert slices[first : first + 10] == [unit[-1] for unit in units[:10]]


async def test_a_password_is_asked_for_and_checked(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    folder = tmp_path / "secrets" / "cameras"
    folder.mkdir(parents=True)
    for name, text in (("right", "officer:hunter2"), ("wrong", "officer:hunter3")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    async with replaying(task_of([path], user="officer", password="hunter2")) as running:
        url = running.url("cam-001")
        _, packets = await asyncio.to_thread(read, source_of(url, tmp_path, "right"), 3)
        assert len(packets) == 3
        for secret in ("wrong", None):
            with pytest.raises(SourceError) as raised:
                await asyncio.to_thread(source_of(url, tmp_path, secret).open)
            assert raised.value.reason is GapReason.CREDENTIALS_REFUSED


def _ask(port: int, *requests: str) -> bytes:
    """Send text, read until the other side closes or says nothing for a while."""
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.settimeout(0.5)
        found = b""
        for request in requests:
            client.sendall(request.replace("\n", "\r\n").encode())
            with contextlib.suppress(TimeoutError, ConnectionError):
                found += client.recv(65_536)
        return found


async def test_what_is_no_request_of_ours_has_its_status(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    async with replaying(task_of([path])) as running:

        async def status(*requests: str) -> str:
            answer = await asyncio.to_thread(_ask, running.port, *requests)
            return answer.decode("utf-8", "replace").rpartition("RTSP/1.0 ")[2][:3]

        cam = running.url("cam-001")
        setup = f"SETUP {cam}/trackID=0 RTSP/1.0\nCSeq: 2\nTransport: "
        assert await status(f"DESCRIBE {running.url('none')} RTSP/1.0\nCSeq: 1\n\n") == "404"
        assert await status(f"OPTIONS {cam} RTSP/1.0\nCSeq: 1\n\n") == "200"
        assert await status(f"RECORD {cam} RTSP/1.0\nCSeq: 1\n\n") == "501"
        assert await status(f"PLAY {cam} RTSP/1.0\nCSeq: 1\n\n") == "454"
        assert await status(f"{setup}RTP/AVP;unicast;client_port=5-6\n\n") == "461"
        assert (
            await status(f"{setup}RTP/AVP/TCP;interleaved=2-3\n\n", f"{setup}RTP/AVP/TCP\n\n")
            == "455"
        )
        assert await status("GET / HTTP/1.1\nHost: x\n\n") == ""
        assert await status("X" * 20_000) == ""
        assert await status(
            f"{setup}RTP/AVP/TCP;interleaved=0-1\n\n",
            f"GET_PARAMETER {cam} RTSP/1.0\nCSeq: 3\nSession: other\n\n",
        ) == "454"  # fmt: skip


@pytest.mark.slow
async def test_two_processes_share_a_port_and_end_with_their_last_word(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    fleet = Fleet(task_of([path], cameras=4), 2, CLOCK)
    await fleet.start()
    try:
        urls = [f"rtsp://127.0.0.1:{fleet.port}/cam-{number:03}" for number in (1, 2, 3, 4) * 3]
        made = [source_of(url, tmp_path) for url in urls]
        found = await asyncio.gather(*(asyncio.to_thread(read, one, 20) for one in made))
        with pytest.raises(LamppostError, match="Cannot listen") as raised:
            await Fleet(task_of([path], port=fleet.port), 1, CLOCK).start()
        assert raised.value.kind is Kind.UNAVAILABLE
    finally:
        await fleet.stop()
    assert fleet.lost == 0 and all(len(packets) == 20 for _, packets in found)
    assert sum(_sessions(word) for word in fleet.words) == 12
    assert all(word.kind == "end" for word in fleet.words)


def _sessions(word: Word) -> int:
    return sum(count.sessions for count in word.streams.values())


@pytest.mark.slow
async def test_a_file_that_cannot_be_replayed_ends_the_fleet_at_its_start(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    fleet = Fleet(task_of([tmp_path / "a.mp4"]), 2, CLOCK)
    with pytest.raises(LamppostError, match=r"a\.mp4"):
        await fleet.start()


@pytest.mark.slow
async def test_a_lost_process_is_noticed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    fleet = Fleet(task_of([path]), 2, CLOCK)
    await fleet.start()
    try:
        fleet.kill(0)
        await until(lambda: fleet.lost == 1, 5)
    finally:
        await fleet.stop()
    assert [word.kind == "end" for word in fleet.words] == [False, True]


async def test_a_connection_is_plain_rtsp_to_the_recorders_client(tmp_path: Path) -> None:
    """Methods are announced, so keep-alives are GET_PARAMETER, and TEARDOWN ends the session."""
    path = write_video(tmp_path / "a.mp4")
    async with replaying(task_of([path])) as running:

        def talk() -> int:
            url = Url.of(running.url("cam-001"))
            connection = Connection(url, CLOCK, Authorizer(None), None)
            connection.connect(["127.0.0.1"], 5)
            offer = connection.describe(5)
            assert offer.video is not None and offer.video.rate_fps == 25.0
            connection.play(offer.video, "tcp", 5)
            deadline = CLOCK.monotonic_us() + 5 * SECOND_US
            base = running.url("cam-001")
            reply = connection.request("GET_PARAMETER", base, {}, deadline)
            connection.close()
            return reply.status

        assert await asyncio.to_thread(talk) == 200
        count = running.server.street.streams["cam-001"][1].count
        await until(lambda: count.ended == {"client": 1}, 5)
