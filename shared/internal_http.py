"""HTTP between the processes of one installation: recorders and detect workers answer the api.

Listens where section `internal` of the settings says (127.0.0.1, any free port), and answers only
to the installation's internal key. Imported late by those who listen: recording and looking come
first. See docs/architecture.md, "Processes".
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
from collections.abc import Iterator

import msgspec
import uvicorn
from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from shared import log, metrics
from shared.errors import Kind, LamppostError
from shared.listening import listen, url_of
from shared.settings import Internal

MAX_CONNECTIONS = 256
END_TIMEOUT_S = 1
METRICS_PATH = "/internal/metrics"


class KeyCheck:
    """Refuses every request without the internal key, compared in constant time."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._expected = b"Bearer " + key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                error = LamppostError(Kind.UNAUTHENTICATED, "The internal key is needed.")
                await problem(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def problem(error: LamppostError) -> Response:
    """The error as a problem body."""
    body = {
        "type": "about:blank",
        "title": error.kind.value,
        "status": error.status,
        "detail": str(error),
    }
    return Response(msgspec.json.encode(body), error.status, media_type="application/problem+json")


async def numbers(_request: Request) -> Response:
    """This process's metrics, as Prometheus' text."""
    return Response(generate_latest(metrics.REGISTRY), media_type="text/plain; version=0.0.4")


METRICS_ROUTE = Route(METRICS_PATH, numbers)


def metrics_app(key: str) -> ASGIApp:
    """The application of a process that has nothing but metrics to tell."""
    return KeyCheck(Starlette(routes=[METRICS_ROUTE]), key)


class _Quiet(uvicorn.Server):
    """Leaves signals to the process: the service stops the server in its turn."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class InternalServer:
    """The listening socket and its task."""

    def __init__(self, app: ASGIApp, log_name: str, settings: Internal | None = None) -> None:
        self._settings = settings or Internal()
        self._socket: socket.socket | None = None
        self._server = _Quiet(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="critical",
                access_log=False,
                lifespan="off",
                ws="none",
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=END_TIMEOUT_S,
                server_header=False,
            )
        )
        self._task: asyncio.Task[None] | None = None
        self._log = log.get(log_name)

    async def start(self, listening: socket.socket | None = None) -> str:
        """Listen, or answer at a socket that listens already; the base URL by which others reach
        it. OSError when no port is to be had."""
        listening = self._socket = listening or listen(self._settings)
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]))
        self._task.add_done_callback(self._ended)
        return url_of(self._settings, listening)

    async def stop(self, within_s: float = END_TIMEOUT_S + 0.5) -> None:
        """Stop listening, and cut off who still reads after `within_s`."""
        self._server.should_exit = True
        if self._task is not None:
            done, _ = await asyncio.wait({self._task}, timeout=within_s)
            if not done:
                self._log.warning("open requests were cut off")
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A server that fails is missed by its readers only; the process goes on."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("the internal server ended", cause=repr(error))
