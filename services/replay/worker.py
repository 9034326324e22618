"""A process of `lamppost replay`: reads the files, serves every camera, says what it counted.

`python -m services.replay.worker`. First line of standard input: its `Task`; it answers `ready`.
Second line: the monotonic time, in microseconds, at which the replay begins in all workers (Linux
has one such clock for all processes). When standard input ends, so does the worker, with its last
word. services/replay/fleet.py is the other end.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import msgspec

from services.replay import clip
from services.replay.count import Count, Task, Word
from services.replay.scenario import Scenario
from services.replay.server import Server, Street
from services.replay.stream import LOG_HEAD, World
from services.replay.wheel import Wheel
from services.replay.wire import Guard
from shared.clock import SECOND_US, Clock, SystemClock
from shared.errors import Kind, LamppostError
from shared.runtime import Stop

PROGRESS_S = 1.0
LAST_WORD_US = 10 * SECOND_US
LOG_BUFFER_BYTES = 256 * 1024


class Voice:
    """Standard output, a line of JSON a word. A parent that does not read stops no camera."""

    def __init__(self, transport: asyncio.WriteTransport, clock: Clock) -> None:
        self._transport, self._clock = transport, clock

    @classmethod
    async def opened(cls, clock: Clock) -> Voice:
        """Of this process."""
        transport, _ = await asyncio.get_running_loop().connect_write_pipe(
            asyncio.BaseProtocol, sys.stdout
        )
        return cls(transport, clock)

    @property
    def waiting(self) -> bool:
        """Whether the parent has not read the last word yet."""
        return self._transport.get_write_buffer_size() > 0

    def say(self, word: Word) -> None:
        """One line."""
        self._transport.write(msgspec.json.encode(word) + b"\n")

    async def finish(self) -> None:
        """Wait, within reason, until the parent has read everything."""
        deadline_us = self._clock.monotonic_us() + LAST_WORD_US
        while self.waiting and self._clock.monotonic_us() < deadline_us:
            await self._clock.sleep(0.05)


def read_clips(names: tuple[str, ...]) -> dict[str, clip.Clip]:
    """Each file once. TOO_LARGE when together they are more than may be held."""
    found: dict[str, clip.Clip] = {}
    for name in dict.fromkeys(names):
        found[name] = clip.read(Path(name))
        if sum(one.size_bytes for one in found.values()) > 2 * clip.MAX_CLIP_BYTES:
            raise LamppostError(
                Kind.TOO_LARGE,
                "The files together are too large to be held in memory.",
                fix="Use fewer or shorter ones.",
            )
    return found


def build(task: Task, clock: Clock, log: IO[str] | None = None) -> Server:
    """The server of a task; it listens to nobody yet."""
    scenario = msgspec.json.decode(task.scenario, type=Scenario)
    clips = read_clips((*task.files, *task.subs, *scenario.files))
    world = World(clock, Wheel(clock), log)
    street = Street(world, clips, task.files, task.subs, task.cameras, scenario)
    return Server(street, task.host, Guard(task.user, task.password))


async def serve(server: Server, port: int, start_us: int, voice: Voice, stop: Stop) -> Word:
    """Play until the stop, telling what was counted each second; the last word."""
    world, began_cpu_s = server.street.world, cpu_s()
    server.street.start(start_us)
    found = await server.listen(port)
    voice.say(Word("serving", port=found))
    # What is alive now stays alive: the collector need not walk it while pictures are due.
    gc.freeze()
    turning = asyncio.ensure_future(world.wheel.run(stop))
    try:
        while not await stop.sleep(world.clock, PROGRESS_S):
            if not voice.waiting:
                voice.say(word("progress", server, began_cpu_s, spans=False))
    finally:
        stop.set()
        await server.close()
        await asyncio.gather(turning)
    return word("end", server, began_cpu_s, spans=True)


def cpu_s() -> float:
    """Of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def word(kind: str, server: Server, since_cpu_s: float, *, spans: bool) -> Word:
    """What was counted so far; what was sent when, only at the end."""
    streams: dict[str, Count] = {}
    for name, (_, stream) in server.street.streams.items():
        count = stream.count
        streams[name] = count if spans else msgspec.structs.replace(count, spans=[])
    wheel = server.street.world.wheel
    return Word(
        kind,
        streams=streams,
        late=wheel.late,
        latest_us=wheel.latest_us,
        cpu_s=cpu_s() - since_cpu_s,
        refused_connections=server.refused,
    )


async def _lines() -> AsyncIterator[bytes]:
    """The lines of standard input until it ends."""
    reader = asyncio.StreamReader(limit=4 * 1024 * 1024)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        yield line


def _log(path: Path) -> IO[str]:
    file = path.open("w", buffering=LOG_BUFFER_BYTES)
    file.write(LOG_HEAD)
    return file


async def main() -> int:
    """From the first line to the end of standard input; the exit status."""
    clock = SystemClock()
    voice = await Voice.opened(clock)
    try:
        await _work(clock, voice)
    except StopAsyncIteration:
        return 0  # The parent went before anything began.
    except LamppostError as error:
        voice.say(Word("error", error=error.kind.value, message=error.message, fix=error.fix))
        return 1
    except OSError as error:
        text = f"{error.strerror or error} ({error.filename or 'a socket'})."
        voice.say(Word("error", error=Kind.UNAVAILABLE.value, message=text))
        return 1
    finally:
        await voice.finish()
    return 0


async def _work(clock: Clock, voice: Voice) -> None:
    lines = _lines()
    task = msgspec.json.decode(await anext(lines), type=Task)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(_log(Path(task.log))) if task.log else None
        server = build(task, clock, log)
        voice.say(Word("ready"))
        start_us = int(await anext(lines))
        stop = Stop()

        async def watch() -> None:
            async for _ in lines:
                pass
            stop.set()

        watching = asyncio.ensure_future(watch())
        last = await serve(server, task.port, start_us, voice, stop)
        await asyncio.gather(watching)
        voice.say(last)


def run() -> int:
    """The exit status. The terminal's Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return asyncio.run(main())


if __name__ == "__main__":
    sys.exit(run())
