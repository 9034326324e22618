"""The processes of a replay as their parent sees them: started together, heard, ended together.

All listen on one port, so the kernel deals the connections out among them; each can serve every
camera (services/replay/worker.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

import msgspec

from services.replay.count import Task, Word
from shared.clock import Clock
from shared.errors import Kind, LamppostError

MAX_LINE_BYTES = 256 * 1024 * 1024
READ_S = 300.0
"""Reading the files may take so long."""
END_S = 20.0
HEAD_START_US = 200_000
MAX_PROCESSES = 64


class Fleet:
    """Use `start`, look at `words` and `lost`, then `stop`."""

    def __init__(self, task: Task, processes: int, clock: Clock) -> None:
        self._task, self._clock = task, clock
        self._wanted = processes
        self._workers: list[asyncio.subprocess.Process] = []
        self._hearing: list[asyncio.Task[None]] = []
        self._held: socket.socket | None = None
        self._stopping = False
        self.words: list[Word] = [Word("none") for _ in range(processes)]
        """The last of each."""
        self.port = task.port
        self.start_us = 0
        """Monotonic."""

    @property
    def pids(self) -> list[int]:
        return [worker.pid for worker in self._workers]

    @property
    def lost(self) -> int:
        """Processes that ended without their last word."""
        pairs = zip(self._hearing, self.words, strict=False)
        return sum(task.done() and word.kind != "end" for task, word in pairs)

    def kill(self, number: int) -> None:
        """End one without a word."""
        self._workers[number].kill()

    async def start(self) -> None:
        """Start all, wait until they have read everything, and let the replay begin."""
        try:
            self._held = _held(self._task.host, self._task.port)
            self.port = int(self._held.getsockname()[1])
            task = msgspec.structs.replace(self._task, port=self.port)
            for number in range(self._wanted):
                await self._spawn(number, task)
            for worker in self._workers:
                await self._expect(worker, "ready", READ_S)
            self.start_us = self._clock.monotonic_us() + HEAD_START_US
            for worker in self._workers:
                await _tell(worker, b"%d\n" % self.start_us)
            for worker in self._workers:
                await self._expect(worker, "serving", READ_S)
        except BaseException:
            await self._kill()
            raise
        for number, worker in enumerate(self._workers):
            self._hearing.append(asyncio.ensure_future(self._hear(number, worker)))

    async def _spawn(self, number: int, task: Task) -> None:
        # A session of its own: the terminal's Ctrl-C is for the parent, which ends them in order.
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.replay.worker",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES, start_new_session=True,
        )  # fmt: skip
        self._workers.append(worker)
        log = f"{task.log}-{number + 1}.csv" if task.log else ""
        await _tell(worker, msgspec.json.encode(msgspec.structs.replace(task, log=log)) + b"\n")

    async def _expect(self, worker: asyncio.subprocess.Process, kind: str, within_s: float) -> None:
        assert worker.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                line = await worker.stdout.readline()
        except TimeoutError as error:
            raise LamppostError(
                Kind.TIMEOUT, "A replaying process did not begin in time.", fix="Use smaller files."
            ) from error
        if not line:
            raise LamppostError(Kind.INTERNAL, "A replaying process ended at its start.")
        found = msgspec.json.decode(line, type=Word)
        if found.kind == "error":
            raise LamppostError(Kind(found.error), found.message, fix=found.fix)
        if found.kind != kind:
            raise LamppostError(Kind.INTERNAL, f"A replaying process said {found.kind}.")

    async def _hear(self, number: int, worker: asyncio.subprocess.Process) -> None:
        """Keep the newest word until the process ends."""
        assert worker.stdout is not None
        while line := await worker.stdout.readline():
            with contextlib.suppress(msgspec.DecodeError):  # the half line of one that was killed
                self.words[number] = msgspec.json.decode(line, type=Word)

    async def stop(self) -> None:
        """Let all end with their last word; what does not within `END_S` is killed."""
        if self._stopping:
            return
        self._stopping = True
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.close()
        try:
            async with asyncio.timeout(END_S):
                await asyncio.gather(*self._hearing)
                await asyncio.gather(*(worker.wait() for worker in self._workers))
        except TimeoutError:
            pass  # killed below; it counts as lost, since its last word is missing
        finally:
            await self._kill()

    async def _kill(self) -> None:
        for worker in self._workers:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            await worker.wait()
        for task in self._hearing:
            task.cancel()
        await asyncio.gather(*self._hearing, return_exceptions=True)
        if self._held is not None:
            self._held.close()
            self._held = None


async def _tell(worker: asyncio.subprocess.Process, line: bytes) -> None:
    assert worker.stdin is not None
    with contextlib.suppress(ConnectionError):  # what it says, or its silence, tells why
        worker.stdin.write(line)
        await worker.stdin.drain()


def _held(host: str, port: int) -> socket.socket:
    """The port, kept for the workers: bound and not listening. A port that somebody else listens on
    is refused here, because sharing would let them take half of the connections."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        held = socket.socket(family)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
    except OSError as error:
        raise LamppostError(
            Kind.UNAVAILABLE,
            f"Cannot listen on {host}:{port}: {error.strerror or error}.",
            fix="Choose another --port or --host.",
        ) from error
    return held
