"""As much of a Kafka broker as a greeting, a sign-in by PLAIN and a question for metadata take."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO

from aiokafka.protocol.admin import (
    ApiVersionResponse_v0,
    SaslAuthenticateResponse_v0,
    SaslHandShakeResponse_v1,
)
from aiokafka.protocol.api import RequestHeader_v1
from aiokafka.protocol.metadata import MetadataResponse_v0
from aiokafka.protocol.types import Bytes, Int32

VERSIONS, METADATA, HANDSHAKE, SIGN_IN = 18, 3, 17, 36
AUTHENTICATION_FAILED = 58


class FakeBroker:
    """Listens on `port`. What it does may be changed while it runs."""

    def __init__(self) -> None:
        self.silent = False
        """It takes connections and bytes, and says nothing."""
        self.leader = 1
        """Of the one partition of each topic; -1: none."""
        self.password: str | None = None
        """Who wants metadata signs in with it; None: nobody signs in."""
        self.connections = 0
        self.questions = 0
        """For metadata, answered or not."""
        self.port = 0
        self._tls: ssl.SSLContext | None = None
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def server(self) -> str:
        """Where clients come in."""
        return f"127.0.0.1:{self.port}"

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Listen; on the same port again after a stop."""
        self._tls = tls or self._tls
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Nobody listens; all connections end."""
        if self._server is not None:
            self._server.close()
            self.hang_up()
            await self._server.wait_closed()
            self._server = None

    def hang_up(self) -> None:
        """End all connections, and go on listening."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                size = Int32.decode(BytesIO(await reader.readexactly(4)))
                answer = self._answer(BytesIO(await reader.readexactly(size)))
                if not self.silent:
                    writer.write(Int32.encode(len(answer)) + answer)
        except (OSError, EOFError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    def _answer(self, data: BytesIO) -> bytes:
        key, _, number, _ = (field.decode(data) for field in RequestHeader_v1.SCHEMA.fields)
        if key == VERSIONS:
            keys = [(VERSIONS, 0, 0), (METADATA, 0, 0), (HANDSHAKE, 1, 1), (SIGN_IN, 0, 0)]
            body = ApiVersionResponse_v0(0, keys).encode()
        elif key == HANDSHAKE:
            body = SaslHandShakeResponse_v1(0, ["PLAIN"]).encode()
        elif key == SIGN_IN:
            given = (Bytes.decode(data) or b"").split(b"\0")[-1].decode()
            code = 0 if given == self.password else AUTHENTICATION_FAILED
            body = SaslAuthenticateResponse_v0(code, None, b"").encode()
        else:
            self.questions += 1
            body = self._metadata().encode()
        encoded: bytes = Int32.encode(number) + body
        return encoded

    def _metadata(self) -> MetadataResponse_v0:
        code = 0 if self.leader >= 0 else 5
        return MetadataResponse_v0(
            [(1, "127.0.0.1", self.port)], [(0, "cameras", [(code, 0, self.leader, [1], [1])])]
        )


@asynccontextmanager
async def broker(tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeBroker]:
    """One that listens."""
    made = FakeBroker()
    await made.start(tls)
    try:
        yield made
    finally:
        await made.stop()
