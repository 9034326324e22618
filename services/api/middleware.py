"""What every request passes: its id, its size limit, security headers, metrics.

Pure ASGI, so that a stream of video passes through unbuffered.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api import problems
from shared import ids, log, metrics
from shared.clock import SECOND_US, Clock
from shared.errors import Kind, LamppostError

REQUEST_ID_HEADER = "x-request-id"
MAX_BODY_BYTES = 2 * 1024 * 1024
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{8,64}\Z")

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # With `no-referrer` a browser's form would say `Origin: null` and be refused as foreign.
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""A route that says otherwise (pages, ETags) keeps its own."""


class Edge:
    """The outermost layer of the api."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock
        self._log = log.get("api")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        asked = headers.get(REQUEST_ID_HEADER, "")
        request_id = asked if _REQUEST_ID.match(asked) else ids.new_id()
        scope["lamppost.request_id"] = request_id
        began_us = self._clock.monotonic_us()
        status = 500
        started = False

        async def on_send(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = int(message["status"]), True
                found = MutableHeaders(scope=message)
                found[REQUEST_ID_HEADER] = request_id
                for name, value in SECURITY_HEADERS.items():
                    found.setdefault(name, value)
            await send(message)

        try:
            await self._limited(scope, headers, receive, on_send)
        except Exception as error:
            self._log_error(scope, error)
            if started:
                raise  # The server ends the connection, so that nobody takes a part for the whole.
            await problems.unexpected(Request(scope))(scope, receive, on_send)
        finally:
            self._measure(scope, status, began_us)

    async def _limited(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        """Refuse a body over the limit, stated or not."""
        too_large = LamppostError(
            Kind.TOO_LARGE,
            f"A request has at most {MAX_BODY_BYTES} bytes.",
            fix="Send it in parts.",
        )
        stated = headers.get("content-length", "0")
        if not stated.isdecimal() or len(stated) > 18 or int(stated) > MAX_BODY_BYTES:
            response = problems.of_error(Request(scope), too_large)
            await response(scope, receive, send)
            return
        seen = 0
        answering = refused = False

        async def on_receive() -> MutableMapping[str, Any]:
            nonlocal seen, refused
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_BODY_BYTES:
                refused = not answering
                raise too_large
            return message

        async def on_send(message: Message) -> None:
            # Whoever reads the body turns any error into "cannot be parsed": that answer is not it.
            nonlocal answering
            if not refused:
                answering = True
                await send(message)

        try:
            await self._app(scope, on_receive, on_send)
        except Exception:
            if not refused:
                raise
        if refused:
            await problems.of_error(Request(scope), too_large)(scope, receive, send)

    def _log_error(self, scope: Scope, error: Exception) -> None:
        request_id = scope["lamppost.request_id"]
        if isinstance(error, LamppostError):
            self._log.warning("answer cut short", request=request_id, cause=str(error))
        else:
            self._log.error("unexpected error", request=request_id, exc_info=error)

    def _measure(self, scope: Scope, status: int, began_us: int) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        took_s = (self._clock.monotonic_us() - began_us) / SECOND_US
        metrics.HTTP_SECONDS.labels(route, method).observe(took_s)
        metrics.HTTP_RESPONSES.labels(route, method, f"{status // 100}xx").inc()
        if status >= 500:
            self._log.warning(
                "server error", route=route, status=status, request=scope["lamppost.request_id"]
            )


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
