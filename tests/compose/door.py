"""Carry every connection from one address to another: `door.py FROM TO`, `tcp:HOST:PORT` or
`unix:PATH`.

In a container of the tests it stands for a server that has no image here: the network, the name
and the port are those of docker-compose.yml, and the server runs outside, behind a Unix socket.
Needs nothing but Python, so that it runs on both sides.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

PIECE = 256 * 1024


async def _open(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    kind, _, where = address.partition(":")
    if kind == "unix":
        return await asyncio.open_unix_connection(where)
    host, _, port = where.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def main(source: str, target: str) -> None:
    async def through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await _open(target)
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(_carry(reader, back), _carry(there, writer))
        finally:
            writer.close()
            back.close()

    kind, _, where = source.partition(":")
    if kind == "unix":
        os.umask(0)  # a container's user, whoever that is, may come in
        server = await asyncio.start_unix_server(through, where)
    else:
        host, _, port = where.rpartition(":")
        server = await asyncio.start_server(through, host, int(port))
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
