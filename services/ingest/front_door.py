"""Where others reach a recorder: it listens from its start, and loads who answers when somebody
first comes.

An HTTP server and what it imports are 4 MiB of a recorder and a third of a second of its start,
when every camera waits to be recorded. A recorder that nobody watches and no one measures never
needs them. Who comes first waits in the kernel's queue meanwhile.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from shared import log
from shared.listening import listen, url_of
from shared.settings import Internal

if TYPE_CHECKING:
    from shared.internal_http import InternalServer


class FrontDoor:
    """`answerer` makes the server, which takes the socket over. Belongs to the event loop."""

    def __init__(
        self, settings: Internal, answerer: Callable[[], Awaitable[InternalServer]]
    ) -> None:
        self._settings = settings
        self._answerer = answerer
        self._socket: socket.socket | None = None
        self._answering: asyncio.Task[None] | None = None
        self._server: InternalServer | None = None
        self._log = log.get("ingest.http")

    def open(self) -> str:
        """Listen; the base URL by which others reach it. OSError when no port is to be had."""
        listening = self._socket = listen(self._settings)
        asyncio.get_running_loop().add_reader(listening, self._knocked)
        return url_of(self._settings, listening)

    def _knocked(self) -> None:
        assert self._socket is not None
        asyncio.get_running_loop().remove_reader(self._socket)
        self._answering = asyncio.create_task(self._answer(self._socket), name="front door")

    async def _answer(self, listening: socket.socket) -> None:
        try:
            server = await self._answerer()
            await server.start(listening)
            self._server = server
        except Exception:
            # Its readers miss it, and recording goes on. A closed port tells them at once.
            self._log.exception("nobody answers for this recorder")
            listening.close()

    async def stop(self) -> None:
        """Stop listening, and cut off who still reads after a while."""
        if self._answering is not None:
            self._answering.cancel()
            await asyncio.gather(self._answering, return_exceptions=True)
        elif self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
        if self._server is not None:
            await self._server.stop()
        if self._socket is not None:
            self._socket.close()
