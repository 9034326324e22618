"""Recorders as child processes of the supervisor: at most `ingest.max_streams` streams each.

PyAV's threads cost several times as much each when one process has fifty of them, and a crash of
one process should not touch the cameras of another (docs/architecture.md, "Five services"). A
recorder ends with its parent: Linux signals it, and it looks at its parent's id as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import IO, Any, NamedTuple

from shared import log
from shared.bus.groups import plan as assign
from shared.bus.partitioner import partition_of
from shared.clock import Clock
from shared.errors import Kind, LamppostError
from shared.messages import CAMERAS
from shared.runtime import Backoff, Stop
from shared.settings import NOT_SETTINGS, PREFIX, Settings

COMMAND = ("run", "ingest")
KILL_AFTER_S = 4.0
HEALTHY_S = 30.0
PARENT_POLL_S = 1.0
_PR_SET_PDEATHSIG = 1
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "262144"}
"""For the GNU C library: a hundred threads that take turns need no heap each, and what is as large
as a picture goes back to the system when it is freed. 37 MB less for 24 cameras."""


class Load(NamedTuple):
    """How many recorders, and how many streams the fullest of them has."""

    recorders: int
    fullest: int


def recorder_name(number: int) -> str:
    """`recorder-1` and so on; the width keeps the order of names the order of numbers."""
    return f"recorder-{number:03d}"


def plan(camera_ids: Sequence[str], max_streams: int, partitions: int) -> Load:
    """The fewest recorders of which none has more than `max_streams` cameras.

    Uses the bus's own mapping of cameras to partitions and of partitions to members. INVALID when
    a single partition is too full for one recorder.
    """
    per_partition = Counter(partition_of(camera_id, partitions) for camera_id in camera_ids)
    fullest = max(per_partition.values(), default=0)
    if fullest > max_streams:
        raise LamppostError(
            Kind.INVALID,
            f"{fullest} cameras fall on one partition; a recorder takes {max_streams}.",
            fix="Raise stores.bus_partitions (on a new installation).",
        )
    topic = CAMERAS.name
    for count in range(1, partitions + 1):
        members = {recorder_name(number + 1): frozenset({topic}) for number in range(count)}
        streams = [
            sum(per_partition[partition] for _, partition in places)
            for places in assign(members, partitions).values()
        ]
        if max(streams) <= max_streams:
            return Load(count, max(streams))
    raise AssertionError("unreachable: one recorder a partition is never too full")


def environment(settings: Settings, instance: str, base: Mapping[str, str]) -> dict[str, str]:
    """The environment that gives a child exactly these settings, whatever their source was."""
    env = {
        name: value
        for name, value in base.items()
        if not name.startswith(PREFIX) or (name in NOT_SETTINGS and name != "LAMPPOST_CONFIG")
    }
    env = {**MALLOC, **env}
    values = settings.model_dump(mode="json")
    values["state_dir"] = str(settings.state_dir.resolve())
    values["instance"] = instance
    for name, value in values.items():
        if isinstance(value, dict):
            for key, inner in value.items():
                _put(env, f"{PREFIX}{name}__{key}".upper(), inner)
        else:
            _put(env, f"{PREFIX}{name}".upper(), value)
    return env


def _put(env: dict[str, str], name: str, value: Any) -> None:
    if value is not None:
        env[name] = json.dumps(value) if isinstance(value, list | dict) else str(value)


class Recorder:
    """One child, restarted with back-off for as long as it is wanted."""

    def __init__(self, name: str, settings: Settings, clock: Clock, output: IO[str] | Any) -> None:
        self.name = name
        self.crashes = 0
        self.process: asyncio.subprocess.Process | None = None
        self._settings = settings
        self._clock = clock
        self._output = output
        self._log = log.get("supervisor")

    async def run(self, stop: Stop) -> None:
        """Keep it running until the stop, then end it: asked at first, killed after 4 s."""
        backoff = Backoff(0.2, 10.0)
        while not stop.is_set:
            started_us = self._clock.monotonic_us()
            status = await self._run_once(stop)
            if stop.is_set:
                return
            if self._clock.monotonic_us() - started_us > HEALTHY_S * 1e6:
                backoff.reset()
            self.crashes += 1
            delay_s = backoff.next_s()
            self._log.error(
                "recorder ended", recorder=self.name, status=status, again_in_s=round(delay_s, 2)
            )
            await stop.sleep(self._clock, delay_s)

    async def _run_once(self, stop: Stop) -> int | None:
        self.process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "services", *COMMAND, "--parent", str(os.getpid())),
            env=environment(self._settings, self.name, os.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # A Ctrl-C on the terminal reaches the supervisor alone, which stops all in order.
            start_new_session=True,
        )
        reader = asyncio.ensure_future(self._relay(process))
        ended = asyncio.ensure_future(process.wait())
        asked = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await self._end(process, ended)
        finally:
            if process.returncode is None:
                self.kill()
            asked.cancel()
            await asyncio.wait({reader}, timeout=1.0)
            reader.cancel()
        return process.returncode

    async def _end(self, process: asyncio.subprocess.Process, ended: asyncio.Future[int]) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        done, _ = await asyncio.wait({ended}, timeout=KILL_AFTER_S)
        if not done:
            self._log.error("recorder did not end in time and is killed", recorder=self.name)
            self.kill()
            await ended

    def kill(self) -> None:
        """End it now; its half-written segment is repaired at the next start."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()

    async def _relay(self, process: asyncio.subprocess.Process) -> None:
        """Pass on what the child logs; a line over 64 KiB is passed on in pieces."""
        assert process.stdout is not None
        while data := await process.stdout.read(65536):
            self._output.write(data.decode("utf-8", "replace"))
            self._output.flush()


def end_with_parent(parent: int) -> None:
    """Called by a child at its start: ask Linux for a SIGTERM when the parent dies.

    When the parent is gone already, nothing would ever tell: end at once.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
            log.get("recorder").warning("no death signal", errno=ctypes.get_errno())
    if os.getppid() != parent:
        raise LamppostError(Kind.CLOSED, "The supervisor ended before its recorder began.")


async def watch_parent(parent: int, stop: Stop, clock: Clock) -> None:
    """Set the stop when the parent is gone (systems without a death signal), then make sure."""
    while not await stop.sleep(clock, PARENT_POLL_S):
        if os.getppid() != parent:
            stop.set()
    if os.getppid() != parent:
        await clock.sleep(KILL_AFTER_S)
        os._exit(1)
