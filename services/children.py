"""Child processes of the supervisor: one service each, restarted with back-off while it is wanted.

A child gets exactly its parent's settings and ends with its parent: Linux signals it, and it looks
at its parent's id as well. services/recorders.py and services/detectors.py say which children there
are (docs/architecture.md, "Processes").
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any, NamedTuple

from shared import log
from shared.clock import SECOND_US, Clock
from shared.errors import Kind, LamppostError
from shared.runtime import Backoff, Stop
from shared.settings import NOT_SETTINGS, PREFIX, Settings

HEALTHY_S = 30.0
PARENT_POLL_S = 1.0
ORPHAN_END_S = 4.0
_PR_SET_PDEATHSIG = 1


class Trade(NamedTuple):
    """What a kind of child does, and how it is ended."""

    word: str
    """For the log: `recorder`."""
    service: str
    kill_after_s: float
    """A child that was asked to end is killed after so long."""
    kill_matters: bool
    """Whether a kill leaves something to repair."""


def command(service: str, parent: int) -> tuple[str, ...]:
    """The arguments by which a supervisor starts a child."""
    return ("run", service, "--parent", str(parent))


def asked(arguments: Sequence[str]) -> tuple[str, int] | None:
    """The service and the parent's id, when a command line is a supervisor's (`command`)."""
    if len(arguments) == 4 and arguments[0] == "run" and arguments[2] == "--parent":
        return (arguments[1], int(arguments[3])) if arguments[3].isdigit() else None
    return None


def environment(settings: Settings, instance: str, base: Mapping[str, str]) -> dict[str, str]:
    """The environment that gives a child exactly these settings, whatever their source was."""
    env = {
        name: value
        for name, value in base.items()
        if not name.startswith(PREFIX) or (name in NOT_SETTINGS and name != "LAMPPOST_CONFIG")
    }
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


class Child:
    """One child, restarted with back-off for as long as it is wanted."""

    def __init__(
        self, trade: Trade, name: str, settings: Settings, clock: Clock, output: IO[str] | Any
    ) -> None:
        self.name = name
        self.crashes = 0
        self.kill_after_s = trade.kill_after_s
        self.process: asyncio.subprocess.Process | None = None
        self._trade = trade
        self._settings = settings
        self._clock = clock
        self._output = output
        self._log = log.get("supervisor").bind(**{trade.word: name})

    async def run(self, stop: Stop) -> None:
        """Keep it running until the stop, then end it: asked at first, killed when it lingers."""
        backoff = Backoff(0.2, 10.0)
        while not stop.is_set:
            started_us = self._clock.monotonic_us()
            status = await self._run_once(stop)
            if stop.is_set:
                return
            if self._clock.monotonic_us() - started_us > HEALTHY_S * SECOND_US:
                backoff.reset()
            self.crashes += 1
            delay_s = backoff.next_s()
            self._log.error(
                f"{self._trade.word} ended", status=status, again_in_s=round(delay_s, 2)
            )
            await stop.sleep(self._clock, delay_s)

    async def _run_once(self, stop: Stop) -> int | None:
        trade = self._trade
        self.process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "services", *command(trade.service, os.getpid())),
            env=environment(self._settings, self.name, os.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # A Ctrl-C on the terminal reaches the supervisor alone, which stops all in order.
            start_new_session=True,
        )
        reader = asyncio.ensure_future(self._relay(process))
        ended = asyncio.ensure_future(process.wait())
        asked_to = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({ended, asked_to}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await self._end(process, ended)
        finally:
            if process.returncode is None:
                self.kill()
            asked_to.cancel()
            await asyncio.wait({reader}, timeout=1.0)
            reader.cancel()
        return process.returncode

    async def _end(self, process: asyncio.subprocess.Process, ended: asyncio.Future[int]) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        done, _ = await asyncio.wait({ended}, timeout=self.kill_after_s)
        if not done:
            say = self._log.error if self._trade.kill_matters else self._log.warning
            say(f"{self._trade.word} did not end in time and is killed")
            self.kill()
            await ended

    def kill(self) -> None:
        """End it now; what it left half done is repaired at the next start."""
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
            log.get("child").warning("no death signal", errno=ctypes.get_errno())
    if os.getppid() != parent:
        raise LamppostError(Kind.CLOSED, "The supervisor ended before its child began.")


async def watch_parent(parent: int, stop: Stop, clock: Clock) -> None:
    """Set the stop when the parent is gone (systems without a death signal), then make sure."""
    while not await stop.sleep(clock, PARENT_POLL_S):
        if os.getppid() != parent:
            stop.set()
    if os.getppid() != parent:
        await clock.sleep(ORPHAN_END_S)
        os._exit(1)
