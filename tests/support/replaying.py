"""A replay's server in this process, on a free port, and what a file holds to compare with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import av
import msgspec

from services.ingest import nal
from services.replay.count import Task
from services.replay.scenario import Scenario
from services.replay.server import Server
from services.replay.worker import build
from shared.clock import Clock, SystemClock
from shared.domain import Codec
from shared.runtime import Stop

CODECS = {"h264": Codec.H264, "hevc": Codec.H265}


def task_of(
    files: Sequence[Path],
    *,
    subs: Sequence[Path] = (),
    cameras: int = 1,
    scenario: Scenario | None = None,
    user: str = "",
    password: str = "",
    port: int = 0,
) -> Task:
    """The task of a worker."""
    return Task(
        host="127.0.0.1",
        port=port,
        files=tuple(map(str, files)),
        subs=tuple(map(str, subs)),
        cameras=cameras,
        scenario=msgspec.json.encode(scenario or Scenario()),
        user=user,
        password=password,
    )


class Running:
    """A server that listens."""

    def __init__(self, server: Server, port: int) -> None:
        self.server, self.port = server, port

    def url(self, name: str) -> str:
        return f"rtsp://127.0.0.1:{self.port}/{name}"


@asynccontextmanager
async def replaying(task: Task, clock: Clock | None = None) -> AsyncIterator[Running]:
    """Cameras that play until the block ends."""
    clock = clock or SystemClock()
    server = build(task, clock)
    stop = Stop()
    server.street.start(clock.monotonic_us())
    port = await server.listen(task.port)
    turning = asyncio.ensure_future(server.street.world.wheel.run(stop))
    try:
        yield Running(server, port)
    finally:
        stop.set()
        await server.close()
        await asyncio.gather(turning)


def units_of(path: Path) -> tuple[list[list[bytes]], list[bytes], Codec]:
    """The NAL units of each access unit of a file in decode order, its parameter sets, its codec;
    read as the recorder's file source reads them."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = CODECS[stream.codec_context.name]
        extradata = bytes(stream.codec_context.extradata or b"")
        found = []
        for packet in container.demux(stream):
            if packet.size:
                unit = nal.to_unit(bytes(packet), codec, nal.length_size_of(extradata, codec))
                assert unit is not None
                found.append(split(unit.data))
    return found, nal.sets_of_extradata(extradata, codec), codec


def split(data: bytes) -> list[bytes]:
    """The NAL units of a length-prefixed access unit."""
    return [data[start:end] for start, end in nal.length_spans(data) or []]
