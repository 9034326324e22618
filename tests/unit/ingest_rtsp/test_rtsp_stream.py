"""What a camera sends after PLAY: pictures, replies in between, endings of all kinds."""

from __future__ import annotations

import base64
import io
import threading
from pathlib import Path

import av
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.ingest import rtsp_wire
from services.ingest.rtsp_source import RtspSource
from services.ingest.source import SourceError
from services.ingest.source_memory import SourceMemory
from shared.clock import SECOND_US, SystemClock
from shared.domain import Camera, Codec, GapReason, Source
from tests.support.recording import settings_for
from tests.support.video import make_video
from tests.unit.ingest_rtsp.fake_camera import FakeCamera, reply
from tests.unit.ingest_rtsp.packetise import interleaved, packets

CLOCK = SystemClock()
TEARDOWN = b"TEARDOWN rtsp://x/ RTSP/1.0\r\nCSeq: 4\r\n\r\n"
QUESTION = b"OPTIONS * RTSP/1.0\r\nCSeq: 9\r\n\r\n"
LATE_REPLY = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"


def pictures(b_frames: int = 0) -> list[list[bytes]]:
    """A clip's access units as NAL units; the first begins with SPS and PPS."""
    data = make_video(frames=30, gop=10, b_frames=b_frames, container="h264")
    with av.open(io.BytesIO(data), format="h264") as file:
        found = []
        for packet in file.demux(video=0):
            units = [unit.rstrip(b"\x00") for unit in bytes(packet).split(b"\x00\x00\x01")]
            if any(units):
                found.append([unit for unit in units if unit])
    return found


def sdp(units: list[bytes]) -> str:
    sets = ",".join(base64.b64encode(u).decode() for u in units if u[0] & 31 in (7, 8))
    return (
        "v=0\r\ns=x\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
        f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={sets}\r\na=control:t\r\n"
    )


def sending(stream: bytes, description: str) -> FakeCamera:
    def answer(method: str, _uri: str, asked: dict[str, str]) -> bytes | None:
        cseq = asked.get("cseq", "0")
        if method == "DESCRIBE":
            return reply(200, cseq, description)
        if method == "SETUP":
            transport = "RTP/AVP/TCP;unicast;interleaved=4-5"
            return reply(200, cseq, Session="7", Transport=transport)
        return reply(200, cseq) + (stream if method == "PLAY" else b"")

    return FakeCamera(answer)


def source(fake: FakeCamera, folder: Path, **ingest: float) -> RtspSource:
    made = settings_for(folder, **{"silent_s": 0.6, **ingest})
    camera = Camera(id="mk-1", name="Gate", source=Source(url=fake.url))
    return RtspSource(camera, made, CLOCK, fake.url, memory=SourceMemory(), key_frame_soon_s=0.2)


def nals(data: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return found


def test_pictures_between_messages_arrive_whole(tmp_path: Path) -> None:
    units = pictures()
    made = packets(units, Codec.H264)
    half = len(made) // 2
    stream = interleaved(made[:half], 4) + QUESTION + LATE_REPLY + b"\r\n"
    stream += interleaved([b"\x80\xc9\x00\x01abcd"], 5) + interleaved(made[half:], 4)
    with sending(stream, sdp(units[0])) as fake:
        made_source = source(fake, tmp_path)
        info = made_source.open()
        assert (info.codec, info.width, info.height) == (Codec.H264, 128, 96)
        found = [made_source.read() for _ in units]
        with pytest.raises(SourceError) as raised:
            made_source.read()
        made_source.close()
    assert [nals(packet.data) for packet in found] == units
    assert [packet.key for packet in found] == [n % 10 == 0 for n in range(30)]
    assert [packet.pts for packet in found] == [n * 3_000 for n in range(30)]
    assert raised.value.reason is GapReason.SILENT


def test_without_a_key_frame_the_parameter_sets_must_do(tmp_path: Path) -> None:
    units = pictures()
    stream = interleaved(packets(units[1:10], Codec.H264), 4)
    with sending(stream, sdp(units[0])) as fake:
        made = source(fake, tmp_path)
        info = made.open()
        made.close()
    assert (info.width, info.height) == (128, 96)


def test_pictures_without_any_parameter_sets_are_named(tmp_path: Path) -> None:
    units = pictures()
    stream = interleaved(packets(units[1:10], Codec.H264), 4)
    with sending(stream, sdp([])) as fake, pytest.raises(SourceError) as raised:
        source(fake, tmp_path).open()
    assert raised.value.reason is GapReason.SILENT


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (TEARDOWN, GapReason.CONNECTION_LOST),
        (b"HTTP/1.1 500 Oh\r\n\r\n", GapReason.BROKEN_STREAM),
        (b"x" * 40_000, GapReason.BROKEN_STREAM),
    ],
)
def test_endings(ending: bytes, reason: GapReason, tmp_path: Path) -> None:
    units = pictures()
    with sending(interleaved(packets(units, Codec.H264), 4) + ending, sdp(units[0])) as fake:
        made = source(fake, tmp_path)
        made.open()
        found = [made.read() for _ in units]
        with pytest.raises(SourceError) as raised:
            made.read()
        made.close()
    assert [nals(packet.data) for packet in found] == units, "nothing before the end is lost"
    assert raised.value.reason is reason


def test_a_read_is_interrupted_at_once(tmp_path: Path) -> None:
    units = pictures()
    with sending(interleaved(packets(units, Codec.H264), 4), sdp(units[0])) as fake:
        made = source(fake, tmp_path, silent_s=60)
        made.open()
        ended_us: list[int] = []

        def read() -> None:
            try:
                while True:
                    made.read()
            except SourceError:
                ended_us.append(CLOCK.monotonic_us())

        thread = threading.Thread(target=read)
        thread.start()
        CLOCK.wait(threading.Event(), 0.3)
        begun_us = CLOCK.monotonic_us()
        made.interrupt()
        thread.join(5)
        made.close()
    assert ended_us[0] - begun_us < SECOND_US


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=300))
@example("²".encode("latin-1"))
@example(b"RTSP/1.0 \xb2 OK")
@example(b"9" * 5_000)
def test_heads_and_descriptions_of_garbage_are_refused_or_read(data: bytes) -> None:
    for head in (data, b"RTSP/1.0 200 OK\r\n" + data):
        try:
            rtsp_wire.body_length(rtsp_wire.parse_head(head))
        except rtsp_wire.WireError:
            continue
    text = data.decode("latin-1")
    for part in (text, "m=video 0 RTP/AVP " + text, "m=video 0 RTP/AVP 96\r\na=rtpmap:96 " + text):
        video = rtsp_wire.parse_sdp(part).video
        if video is not None:
            rtsp_wire.sprop_nals(video.fmtp)
            rtsp_wire.control_url("rtsp://camera/a", video.control)
