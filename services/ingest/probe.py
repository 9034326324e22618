"""The connection test: connect once, say what is there or what is wrong, take one picture.

Within 10 s, whatever the camera does. Nothing is recorded. docs/architecture.md, "ingest".
"""

from __future__ import annotations

import threading

import av
import msgspec

from services.ingest.decoder import Decoder
from services.ingest.frames import JpegMaker, Masker, Scaler
from services.ingest.rtsp_source import RtspSource
from services.ingest.sampler import SourceFactory
from services.ingest.source import PacketSource, SourceError, StreamInfo
from services.ingest.source_memory import SourceMemory
from shared.clock import Clock
from shared.domain import Camera
from shared.settings import Settings

LIMIT_S = 9.0
PACKETS_MAX = 300


class ProbeResult(msgspec.Struct, frozen=True):
    """What a connection test found. `reason` is a GapReason, empty where all is well."""

    ok: bool
    reason: str = ""
    detail: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    rate_fps: float = 0.0
    jpeg: bytes = b""


def rtsp_for_probe(camera: Camera, settings: Settings, clock: Clock, url: str) -> PacketSource:
    """A source without memory: a test asks the camera itself, even after a refusal."""
    return RtspSource(camera, settings, clock, url, memory=SourceMemory())


def probe(
    camera: Camera,
    settings: Settings,
    clock: Clock,
    *,
    open_source: SourceFactory = rtsp_for_probe,
    limit_s: float = LIMIT_S,
) -> ProbeResult:
    """Blocks, at most a second over `limit_s`: call it on a thread."""
    source = open_source(camera, settings, clock, camera.source.url)
    over, source_interrupted = threading.Event(), threading.Event()

    def watch() -> None:
        if not clock.wait(over, limit_s):
            source_interrupted.set()
            source.interrupt()

    watcher = threading.Thread(target=watch, name=f"probe-{camera.id}", daemon=True)
    watcher.start()
    try:
        info = source.open()
        jpeg = _picture(source, info, camera, settings)
    except SourceError as error:
        detail = "no picture in time" if source_interrupted.is_set() else error.detail
        return ProbeResult(ok=False, reason=error.reason.value, detail=detail)
    finally:
        over.set()
        source.close()
        watcher.join()
    return ProbeResult(
        ok=True,
        detail="" if jpeg else "connected, but no picture could be decoded",
        codec=info.codec.value,
        width=info.width,
        height=info.height,
        rate_fps=info.rate_fps,
        jpeg=jpeg,
    )


def _picture(source: PacketSource, info: StreamInfo, camera: Camera, settings: Settings) -> bytes:
    """The first key frame as JPEG, masked as analysis frames are; empty when none decodes."""
    decoder = Decoder()
    for _ in range(PACKETS_MAX):
        packet = source.read()
        if not packet.key:
            continue
        try:
            frames = decoder.frames(packet, info, alone=True)
        except (av.FFmpegError, ValueError):
            continue
        if frames:
            planes = Scaler(settings.ingest.sample_width).scale(frames[0][0])
            Masker(camera.mask).apply(planes)
            return JpegMaker().encode(planes) or b""
    return b""
