"""A response that streams media: constant memory, ended by the client's leave, a stall or a limit.

The generator is always closed, so that a file, a connection or a system hold behind it is let go
whatever ended the response.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress

from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared import log
from shared.errors import LamppostError

STALL_S = 20.0
"""A client that takes nothing for so long is dropped."""
MAX_SEND_S = 7_200.0
"""Nothing is sent longer than a system hold may last."""


class MediaStream(Response):
    """Sends the pieces of `body` as they come, and runs `at_end` once, however it ended."""

    def __init__(
        self,
        body: AsyncGenerator[bytes, None],
        *,
        status_code: int,
        headers: Mapping[str, str],
        media_type: str,
        at_end: Callable[[], Awaitable[None]] | None = None,
        stall_s: float = STALL_S,
        limit_s: float = MAX_SEND_S,
    ) -> None:
        self.status_code = status_code
        self.media_type = media_type
        self.background: BackgroundTask | None = None
        self.body = b""
        self._pieces = body
        self._at_end = at_end
        self._stall_s = stall_s
        self._limit_s = limit_s
        self.init_headers({**headers, "Cache-Control": "no-store"})

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """Like the base class, but without a length of zero for the empty `body`."""
        found = {**(headers or {}), "Content-Type": self.media_type or "video/mp4"}
        self.raw_headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in found.items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = scope["method"] == "HEAD"
        sender = asyncio.ensure_future(self._send(send, head))
        leaver = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({sender, leaver}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sender, leaver):
                task.cancel()
            results = await asyncio.gather(sender, leaver, return_exceptions=True)
            if self._at_end is not None:
                await asyncio.shield(self._at_end())
        error = results[0]
        if isinstance(error, Exception):
            raise error

    async def _send(self, send: Send, head: bool) -> None:
        start = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        async with aclosing(self._pieces) as pieces:
            await send(start)
            # A client that stalls or stays too long is cut off: the answer ends short of its
            # stated length, which a client sees.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limit_s):
                    if not head:
                        await self._send_pieces(send, pieces)
                    await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_pieces(self, send: Send, pieces: AsyncIterator[bytes]) -> None:
        try:
            async for piece in pieces:
                message = {"type": "http.response.body", "body": piece, "more_body": True}
                # Not wait_for: up to Python 3.11 it can swallow the cancel that ends a stream.
                async with asyncio.timeout(self._stall_s):
                    await send(message)
        except LamppostError as error:
            # The head is gone already; an answer cut short is all that can be said.
            log.get("api").warning("media ended early", cause=str(error))
            raise TimeoutError from error


async def _left(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        continue
