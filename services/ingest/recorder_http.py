"""A recorder's internal HTTP: what it still holds, live fragments, and the connection test.

The routes; shared/internal_http.py listens and asks for the key. Memory does not grow with what is
sent, and no reader slows recording. See docs/architecture.md, "Playback and live".
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Callable
from io import FileIO
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from services.ingest.live import LiveHub
from services.ingest.spool_view import Listed, SpoolView, open_listed
from shared.domain import Camera
from shared.errors import Kind, LamppostError
from shared.internal_http import METRICS_ROUTE, InternalServer, KeyCheck, problem
from shared.settings import Internal
from shared.spool import RecorderSpool

PIECE_BYTES = 256 * 1024
MAX_BODY_BYTES = 256 * 1024
SEND_TIMEOUT_S = 10.0
TEST_TIMEOUT_S = 11.0
MAX_TESTS = 2
MAX_DIGITS = 19

Probe = Callable[[Camera], Any]
"""Tries a camera's connection: a struct or mapping, or an awaitable of one."""


class Sending(StreamingResponse):
    """A video stream whose reader must take each piece within `SEND_TIMEOUT_S`, or is cut off.

    `finish` is called at the end, whether the body was begun or not.
    """

    def __init__(
        self,
        body: AsyncIterator[bytes],
        status: int,
        headers: dict[str, str],
        finish: Callable[[], None],
    ) -> None:
        super().__init__(body, status, headers, "video/mp4")
        self._finish = finish

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._finish()

    async def stream_response(self, send: Send) -> None:
        async def timely(message: Any) -> None:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await send(message)

        await super().stream_response(timely)


class Answers:
    """The routes of one recorder."""

    def __init__(self, hub: LiveHub, spool: RecorderSpool, recorder: str, probe: Probe) -> None:
        self._hub = hub
        self._view = SpoolView(spool)
        self._recorder = recorder
        self._probe = probe
        self._tests = asyncio.Semaphore(MAX_TESTS)

    async def segments(self, request: Request) -> Response:
        """Segments of a camera's range that are still here."""
        camera, start_us, end_us = (
            _text(request, "camera"),
            _number(request, "start_us"),
            _number(request, "end_us"),
        )
        # The open segment first: should it be filed meanwhile, the look at the folder finds it.
        growing = [
            open_listed(segment, fragments, self._recorder)
            for segment, fragments in self._hub.open_segments(camera)
        ]
        filed, cut = await asyncio.to_thread(self._view.listing, camera, start_us, end_us)
        known = {segment.id for segment in filed}
        found: list[Listed] = filed + [
            item
            for item in growing
            if item.id not in known and item.start_us < end_us and item.end_us > start_us
        ]
        headers = {"X-Lamppost-Truncated": "1"} if cut else {}
        return Response(msgspec.json.encode(found), media_type="application/json", headers=headers)

    async def content(self, request: Request) -> Response:
        """Bytes of a segment's file, whole or a range."""
        segment_id = request.path_params["segment_id"]
        name = self._hub.name_of(segment_id)
        if name is None:
            name = await asyncio.to_thread(self._view.find, segment_id)
            if name is None:
                raise LamppostError(Kind.NOT_FOUND, "This segment is no longer in the spool.")
            self._hub.name(segment_id, name)
        size = self._hub.open_size(segment_id)
        file = await asyncio.to_thread(self._view.open, name, size)
        try:
            first, after, status = wanted(request.headers.get("range"), file.size_bytes)
        except BaseException:
            file.close()
            raise
        headers = {"Accept-Ranges": "bytes", "Content-Length": str(after - first)}
        if status == 206:
            headers["Content-Range"] = f"bytes {first}-{after - 1}/{file.size_bytes}"
        return Sending(pieces(file.raw, first, after), status, headers, file.close)

    async def live(self, request: Request) -> Response:
        """The camera's stream from its newest key frame on."""
        camera = _text(request, "camera")
        viewer = self._hub.watch(camera)
        headers = {"X-Lamppost-Codec": viewer.codec_string, "Cache-Control": "no-store"}
        return Sending(viewer.read(), 200, headers, lambda: self._hub.leave(camera, viewer))

    async def test(self, request: Request) -> Response:
        """Connect to a camera once and say what is there."""
        camera = decode_camera(await _body(request))
        if self._tests.locked():
            raise LamppostError(Kind.LIMITED, f"{MAX_TESTS} connection tests are running already.")
        async with self._tests:
            return Response(
                msgspec.json.encode(await _probed(self._probe, camera)),
                media_type="application/json",
            )


def build_app(
    hub: LiveHub, spool: RecorderSpool, *, recorder: str, key: str, probe: Probe
) -> ASGIApp:
    """The application of one recorder. Plain Starlette: a recorder must start fast."""
    answers = Answers(hub, spool, recorder, probe)

    async def known(_request: Request, error: Exception) -> Response:
        assert isinstance(error, LamppostError)
        return problem(error)

    app = Starlette(
        routes=[
            Route("/internal/segments", answers.segments),
            Route("/internal/segments/{segment_id}/bytes", answers.content),
            Route("/internal/live", answers.live),
            Route("/internal/test", answers.test, methods=["POST"]),
            METRICS_ROUTE,
        ],
        exception_handlers={LamppostError: known},
    )
    return KeyCheck(app, key)


def server_of(app: ASGIApp, settings: Internal | None = None) -> InternalServer:
    """Who listens for a recorder."""
    return InternalServer(app, "ingest.http", settings)


def _text(request: Request, name: str) -> str:
    value = request.query_params.get(name, "")
    if not value:
        raise LamppostError(Kind.INVALID, f"The parameter {name} is needed.")
    return value


def _number(request: Request, name: str) -> int:
    value = _text(request, name)
    if len(value) > MAX_DIGITS or not value.removeprefix("-").isdecimal():
        raise LamppostError(Kind.INVALID, f"The parameter {name} is microseconds.")
    return int(value)


def wanted(header: str | None, size: int) -> tuple[int, int, int]:
    """First byte, the byte after the last, and the status of a Range header (one range only)."""
    if header is None or not header.startswith("bytes=") or "," in header:
        return 0, size, 200
    begin, dash, end = header.removeprefix("bytes=").partition("-")
    if not dash or not (begin + end).isascii() or not (begin + end).isdigit():
        return 0, size, 200
    if not begin:
        first, after = max(0, size - int(end)), size
    else:
        first, after = int(begin), min(size, int(end) + 1 if end else size)
    if first >= after:
        raise LamppostError(Kind.RANGE_NOT_SATISFIABLE, f"The segment has {size} bytes.")
    return first, after, 206


async def pieces(file: FileIO, first: int, after: int) -> AsyncIterator[bytes]:
    """The bytes [first, after) of an open file, one piece in memory at a time."""
    while first < after:
        size = min(PIECE_BYTES, after - first)
        data = await asyncio.to_thread(os.pread, file.fileno(), size, first)
        if not data:
            return
        yield data
        first += len(data)


def decode_camera(body: bytes) -> Camera:
    """The camera of a request; INVALID when it is none."""
    try:
        return msgspec.json.decode(body, type=Camera)
    except msgspec.MsgspecError as error:
        raise LamppostError(Kind.INVALID, f"Not a camera: {error}.") from error


async def _body(request: Request) -> bytes:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BODY_BYTES:
            raise LamppostError(Kind.TOO_LARGE, f"At most {MAX_BODY_BYTES} bytes.")
    return bytes(data)


async def _probed(probe: Probe, camera: Camera) -> Any:
    try:
        async with asyncio.timeout(TEST_TIMEOUT_S):
            if inspect.iscoroutinefunction(probe):
                return await probe(camera)
            return await asyncio.to_thread(probe, camera)
    except TimeoutError:
        return {"ok": False, "reason": "unreachable", "detail": "No answer in time."}
