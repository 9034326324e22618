"""Every way a camera can refuse, as the reason of a gap; nothing secret in what is said."""

from __future__ import annotations

import hashlib
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from services.ingest import rtsp_wire
from services.ingest.rtsp_source import RtspSource
from services.ingest.source import SourceError
from services.ingest.source_memory import SourceMemory
from shared.clock import SECOND_US, SystemClock
from shared.domain import Camera, GapReason, Source
from shared.settings import Settings, load
from tests.unit.ingest_rtsp.fake_camera import SDP, Answer, FakeCamera, reply

USER, PASSWORD = "officer", "hunter2"
PUBLIC = "OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, TEARDOWN"


def settings_in(folder: Path, **ingest: Any) -> Settings:
    return load({}, {"state_dir": str(folder), "ingest": ingest})


def write_secret(folder: Path, text: str) -> None:
    path = folder / "secrets" / "cameras" / "gate"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name("fresh")
    fresh.write_text(text)
    fresh.chmod(0o600)
    fresh.replace(path)


def source(
    url: str,
    settings: Settings,
    secret: str | None = None,
    memory: SourceMemory | None = None,
    transport: Any = "tcp",
) -> RtspSource:
    camera = Camera(
        id="mk-1", name="Gate", source=Source(url=url, secret=secret, transport=transport)
    )
    return RtspSource(camera, settings, SystemClock(), url, memory=memory or SourceMemory())


def fails(made: RtspSource) -> SourceError:
    with pytest.raises(SourceError) as raised:
        made.open()
    made.close()
    for secret in (PASSWORD, USER, "127.0.0.1"):
        assert secret not in str(raised.value)
    return raised.value


def always(status: int, **headers: str) -> Answer:
    return lambda _m, _u, asked: reply(status, asked["cseq"], **headers)


def describing(body: str) -> Answer:
    def answer(method: str, _uri: str, asked: dict[str, str]) -> bytes | None:
        if method == "DESCRIBE":
            return reply(200, asked["cseq"], body)
        if method == "SETUP":
            return reply(
                200,
                asked["cseq"],
                Session="77;timeout=60",
                Transport="RTP/AVP/TCP;unicast;interleaved=0-1",
            )
        return reply(200, asked["cseq"], Public=PUBLIC)

    return answer


def sdp(profile: str = "RTP/AVP", codec: str = "H264") -> str:
    return SDP.format(profile=profile, codec=codec)


AUDIO = "v=0\r\ns=x\r\nm=audio 0 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (always(404), GapReason.STREAM_NOT_FOUND),
        (always(403), GapReason.CREDENTIALS_REFUSED),
        (always(401), GapReason.CREDENTIALS_REFUSED),
        (always(302, Location="rtsp://127.0.0.1:1/other"), GapReason.HOST_NOT_ALLOWED),
        (always(301, Location="rtsp://127.0.0.1:1/other"), GapReason.HOST_NOT_ALLOWED),
        (always(503), GapReason.UNREACHABLE),
        (lambda *_: b"HTTP/1.1 400 Bad Request\r\n\r\n", GapReason.BROKEN_STREAM),
        (lambda *_: b"\x00\x01\x02\x03" * 9000, GapReason.BROKEN_STREAM),
        (describing(AUDIO), GapReason.AUDIO_ONLY),
        (describing("v=0\r\ns=x\r\n"), GapReason.UNSUPPORTED_CODEC),
        (describing(sdp(codec="JPEG")), GapReason.UNSUPPORTED_CODEC),
        (describing(sdp(codec="MP4V-ES")), GapReason.UNSUPPORTED_CODEC),
        (describing(sdp(profile="RTP/SAVP")), GapReason.ENCRYPTED),
        (describing(sdp()), GapReason.SILENT),
        (lambda *_: None, GapReason.UNREACHABLE),
    ],
)
def test_each_failure_has_its_reason(answer: Answer, reason: GapReason, tmp_path: Path) -> None:
    settings = settings_in(tmp_path, connect_timeout_s=0.5, silent_s=0.5)
    with FakeCamera(answer) as camera:
        assert fails(source(camera.url, settings)).reason is reason


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    with (
        FakeCamera(always(200)) as other,
        FakeCamera(always(302, Location=other.url)) as camera,
    ):
        fails(source(camera.url, settings_in(tmp_path)))
        assert other.requests == []


def test_nobody_there_and_nobody_allowed(tmp_path: Path) -> None:
    with FakeCamera(always(200)) as camera:
        port = camera.port
    url = f"rtsp://127.0.0.1:{port}/stream"
    assert fails(source(url, settings_in(tmp_path))).reason is GapReason.UNREACHABLE
    listed = settings_in(tmp_path, rtsp_hosts=["10.0.0.0/8", "cam.example"])
    with FakeCamera(always(200)) as camera:
        assert fails(source(camera.url, listed)).reason is GapReason.HOST_NOT_ALLOWED
        assert camera.requests == []


@pytest.mark.parametrize("url", ["http://x/", "rtsp:///x", "rtsp://a:b@host/x", "rtsp://h/a\r\nb"])
def test_addresses_that_are_none(url: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as raised:
        source(url, settings_in(tmp_path)).open()
    assert "a:b" not in str(raised.value)


def guarded(algorithm: str, words: list[str]) -> Answer:
    """A camera that checks digest authentication itself; `words` is its user and password."""
    make = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}[algorithm]

    def digest(text: str) -> str:
        return make(text.encode(), usedforsecurity=False).hexdigest()

    def answer(method: str, uri: str, asked: dict[str, str]) -> bytes:
        given = asked.get("authorization", "")
        fields = dict(re.findall(r'(\w+)="?([^",]+)"?', given))
        user, password = words
        expected = digest(
            f"{digest(f'{user}:cams:{password}')}:n1:{fields.get('nc')}:{fields.get('cnonce')}"
            f":auth:{digest(f'{method}:{uri}')}"
        )
        if fields.get("response") == expected and fields.get("uri") == uri:
            return reply(404, asked["cseq"])
        challenge = f'Digest realm="cams", nonce="n1", qop="auth", algorithm={algorithm}'
        return reply(401, asked["cseq"], WWW_Authenticate=challenge)

    return answer


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
def test_digest_authentication(algorithm: str, tmp_path: Path) -> None:
    write_secret(tmp_path, f"{USER}:{PASSWORD}")
    with FakeCamera(guarded(algorithm, [USER, PASSWORD])) as camera:
        error = fails(source(camera.url, settings_in(tmp_path), "gate"))
        assert error.reason is GapReason.STREAM_NOT_FOUND, "the secret was accepted"
        asked = repr(camera.requests)
        assert PASSWORD not in asked


def test_a_refused_secret_is_tried_again_only_when_it_changes(tmp_path: Path) -> None:
    write_secret(tmp_path, f"{USER}:wrong")
    settings, memory = settings_in(tmp_path), SourceMemory()
    with FakeCamera(guarded("MD5", [USER, PASSWORD])) as camera:
        first = fails(source(camera.url, settings, "gate", memory))
        asked = len(camera.requests)
        for _ in range(5):
            again = fails(source(camera.url, settings, "gate", memory))
            assert again.reason is first.reason is GapReason.CREDENTIALS_REFUSED
            assert again.retry_after_s is not None and again.retry_after_s <= 2.0
        assert len(camera.requests) == asked, "a camera must not be asked to lock us out"
        write_secret(tmp_path, f"{USER}:{PASSWORD}")
        error = fails(source(camera.url, settings, "gate", memory))
        assert error.reason is GapReason.STREAM_NOT_FOUND, "the new secret was accepted"


def test_a_missing_secret_is_said_by_name(tmp_path: Path) -> None:
    with FakeCamera(always(200)) as camera:
        error = fails(source(camera.url, settings_in(tmp_path), "gate"))
        assert error.reason is GapReason.CREDENTIALS_REFUSED
        assert "'gate' is missing" in error.detail
        assert camera.requests == []


@pytest.mark.parametrize("answer", [lambda *_: None, describing(sdp())])
def test_an_interrupt_ends_a_blocked_open(answer: Answer, tmp_path: Path) -> None:
    clock = SystemClock()
    settings = settings_in(tmp_path, connect_timeout_s=60, silent_s=60)
    with FakeCamera(answer) as camera:
        made = source(camera.url, settings)
        errors: list[SourceError] = []
        took: list[int] = []

        def blocked() -> None:
            try:
                made.open()
            except SourceError as error:
                errors.append(error)
            took.append(clock.monotonic_us())

        thread = threading.Thread(target=blocked)
        thread.start()
        never = threading.Event()
        while len(camera.requests) < (1 if answer(*("", "", {"cseq": "1"})) is None else 4):
            clock.wait(never, 0.01)
        begun = clock.monotonic_us()
        made.interrupt()
        thread.join(5)
        made.close()
    assert errors
    assert took[0] - begun < SECOND_US


def test_sdp_addresses() -> None:
    join = rtsp_wire.control_url
    assert join("rtsp://h/a", "track1") == "rtsp://h/a/track1"
    assert join("rtsp://h/a/", "track1") == "rtsp://h/a/track1"
    assert join("rtsp://h/a", "*") == "rtsp://h/a"
    assert join("rtsp://h/a", "rtsp://h/b") == "rtsp://h/b"
    assert join("rtsp://h/a/b", "/c") == "rtsp://h/c"


def test_the_first_usable_video_of_several_is_taken() -> None:
    text = (
        "v=0\r\nm=application 0 RTP/AVP 98\r\na=rtpmap:98 vnd.onvif.metadata/90000\r\n"
        "m=video 0 RTP/AVP 26\r\na=control:j\r\n"
        "m=video 0 RTP/AVP 97\r\na=rtpmap:97 H265/90000\r\na=framerate:12.5\r\n"
        "a=fmtp:97 sprop-vps=QAE=;sprop-sps=QgE=;sprop-pps=RAE\r\na=control:h\r\n"
    )
    video = rtsp_wire.parse_sdp(text).video
    assert video is not None
    assert (video.encoding, video.payload, video.rate_fps, video.control) == ("H265", 97, 12.5, "h")
    assert rtsp_wire.sprop_nals(video.fmtp) == [b"\x40\x01", b"\x42\x01", b"\x44\x01"]
