"""The connection test as the recorder's HTTP answers it: a probe's result as JSON values."""

from __future__ import annotations

import base64
from typing import Any

from services.ingest.file_source import FileSource
from services.ingest.probe import probe, rtsp_for_probe
from services.ingest.source import PacketSource
from shared.clock import Clock
from shared.domain import Camera
from shared.settings import Settings


def run(camera: Camera, settings: Settings, clock: Clock) -> dict[str, Any]:
    """Try the camera's address once. Blocks, at most 10 s."""
    found = probe(camera, settings, clock, open_source=source_of)
    return {
        "ok": found.ok,
        "reason": found.reason,
        "detail": found.detail,
        "codec": found.codec,
        "width": found.width,
        "height": found.height,
        "rate_fps": found.rate_fps,
        "jpeg_base64": base64.b64encode(found.jpeg).decode("ascii"),
    }


def source_of(camera: Camera, settings: Settings, clock: Clock, url: str) -> PacketSource:
    """A source of its own for the test, whatever the recorder of this camera is doing."""
    if url.lower().startswith("file:"):
        return FileSource(camera, settings, clock)
    return rtsp_for_probe(camera, settings, clock, url)
