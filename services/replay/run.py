"""`lamppost replay`: the fleet, the api and the watch on processes, from the start to the report.

docs/guide/load-testing.md. The cameras that are registered are disabled at the end, whatever
happens; what they recorded expires as everything does.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.cli.remote import Remote
from services.replay import outcome
from services.replay.archive import METRICS_S, Account, Archive, Sightings
from services.replay.count import camera_name, sub_name, together
from services.replay.fleet import Fleet
from services.replay.judge import Look, loss
from services.replay.options import Options
from services.replay.processes import Processes
from services.replay.report import Report
from services.replay.show import Now, Show
from shared.clock import SECOND_US, Clock
from shared.errors import LamppostError
from shared.runtime import Stop

PROGRESS_S = 1.0
LOOK_S = 1.0
PROCESSES_S = 2.0
RETRY_S = 1.0
DISABLE_S = 180.0
DISABLE_AT_ONCE = 4
SHOWN = 5
MAX_LOOKS = 100_000
T = TypeVar("T")


class Replay:
    """One replay."""

    def __init__(self, options: Options, clock: Clock, archive: Archive | None) -> None:
        self.options, self.clock, self.archive = options, clock, archive
        self.fleet = Fleet(options.task, options.processes, clock)
        self.start_us = 0
        self.end_us = 0
        """When cameras began to be disabled; what follows is the end's own."""
        self.sent_until_us = 0
        self.names = [camera_name(number) for number in range(options.task.cameras)]
        self.registered: dict[str, int] = {}
        """When, by camera."""
        self.disabled: dict[str, int] = {}
        self.looks: dict[str, list[Look]] = {}
        self.accounts: dict[str, Account] = {}
        self.notes: list[str] = []
        self.sightings: Sightings | None = None
        self.processes: Processes | None = None
        self.hurry = Stop()
        """Set: the end waits for nothing that is still on its way."""
        self._failure: LamppostError | None = None

    def camera_id(self, name: str) -> str:
        return self.options.prefix + name

    async def run(self, stop: Stop, show: Callable[[str], Show]) -> Report:
        """Until the stop, the end of its time, or the loss of a process; the report."""
        if self.archive is not None:
            await asyncio.to_thread(self.archive.check)
        await self.fleet.start()
        self.start_us = self.clock.now_us()
        self.processes = Processes(self.clock, self.options.watched, self.fleet.pids)
        await asyncio.to_thread(self.processes.look)
        address = f"rtsp://{self._url_host()}:{self.fleet.port}/{self.names[0]} …"
        with show(address) as board:
            working = [asyncio.ensure_future(work(stop)) for work in self._works()]
            try:
                await self._watch(stop, board)
            finally:
                self.end_us = self.clock.now_us()
                stop.set()
                await asyncio.gather(*working, return_exceptions=True)
                await self._finish(board)
        if self._failure is not None:
            raise self._failure
        return outcome.report(self)

    def _works(self) -> list[Callable[[Stop], Awaitable[None]]]:
        works: list[Callable[[Stop], Awaitable[None]]] = [self._look_at_processes]
        if self.archive is not None:
            works += [self._register_all, self._look_at_ledgers, self._scrape]
        return works

    def follow(self, remote: Remote) -> None:
        """Measure events as well, with a client of its own."""
        own = frozenset(self.camera_id(name) for name in self.names)
        self.sightings = Sightings(remote, self.options.why, own, self.clock)

    async def _watch(self, stop: Stop, board: Show) -> None:
        seconds = self.options.seconds
        while not await stop.sleep(self.clock, PROGRESS_S):
            board.update(self.now())
            if self.fleet.lost:
                self.notes.append("A replaying process ended: what it sent is not counted.")
                return
            if seconds is not None and self._elapsed_us() >= seconds * SECOND_US:
                return

    def _elapsed_us(self) -> int:
        return max(0, self.clock.monotonic_us() - self.fleet.start_us)

    def now(self, doing: str = "") -> Now:
        """This moment, for the board."""
        counts = together(self.fleet.words)
        ended: dict[str, int] = {}
        for count in counts.values():
            for why, number in count.ended.items():
                ended[why] = ended.get(why, 0) + number
        return Now(
            elapsed_us=self._elapsed_us(),
            playing=sum(count.playing for count in counts.values()),
            streams=len(self.names) * (2 if self.options.task.subs else 1),
            registered=None if self.archive is None else len(self.registered),
            pictures=sum(count.pictures for count in counts.values()),
            size_bytes=sum(count.size_bytes for count in counts.values()),
            ended=ended,
            refused=sum(count.refused for count in counts.values()),
            behind_us=max(word.latest_us for word in self.fleet.words),
            costs=copy.deepcopy(self.processes.costs) if self.processes else {},
            events=self.sightings.events if self.sightings else 0,
            doing=doing,
        )

    # The api.

    async def _register_all(self, stop: Stop) -> None:
        """Each camera when it begins to answer: a ramp is a ramp of both."""
        ramp = self.options.scenario.ramp
        for number, name in enumerate(self.names):
            due_us = round(number / ramp.per_s * SECOND_US) if ramp is not None else 0
            wait_us = due_us - self._elapsed_us()
            if wait_us > 0 and await stop.sleep(self.clock, wait_us / SECOND_US):
                return
            try:
                await self._until_done(stop, self._register, name)
            except LamppostError as error:
                self._failure = error
                stop.set()
            if stop.is_set:
                return
        if self.sightings is not None:
            # Now, because a stream of events shows the cameras that there were when it began.
            self.sightings.start()

    def _register(self, name: str) -> None:
        assert self.archive is not None
        base = f"rtsp://{self._url_host()}:{self.fleet.port}/"
        sub = base + sub_name(name) if self.options.task.subs else None
        at_us = self.clock.now_us()
        secret = self.options.secret or None
        self.archive.register(self.camera_id(name), base + name, sub, secret)
        self.registered[name] = at_us

    def _url_host(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.options.task.host)
        host = host or self.options.task.host
        return f"[{host}]" if ":" in host else host

    async def _until_done(self, stop: Stop, work: Callable[[str], None], name: str) -> bool:
        """Do it, again and again while the api is away; false when the stop came first."""
        while True:
            try:
                await asyncio.to_thread(work, name)
                return True
            except LamppostError as error:
                if not error.retryable:
                    raise
            if await stop.sleep(self.clock, RETRY_S):
                return False

    async def _look_at_ledgers(self, stop: Stop) -> None:
        """One camera after the other: how new is what can be searched?"""
        assert self.archive is not None
        made = 0
        while made < MAX_LOOKS and not await stop.sleep(self.clock, LOOK_S):
            names = list(self.registered)
            if not names:
                continue
            name = names[made % len(names)]
            made += 1
            with contextlib.suppress(LamppostError):
                newest_us = await asyncio.to_thread(self.archive.newest_us, self.camera_id(name))
                since_us = max(newest_us, self.registered[name])
                self.looks.setdefault(name, []).append(Look(self.clock.now_us(), since_us))

    async def _scrape(self, stop: Stop) -> None:
        assert self.archive is not None
        while True:
            await asyncio.to_thread(self.archive.scrape)
            if await stop.sleep(self.clock, METRICS_S):
                return

    async def _look_at_processes(self, stop: Stop) -> None:
        assert self.processes is not None
        while not await stop.sleep(self.clock, PROCESSES_S):
            await asyncio.to_thread(self.processes.look)

    # The end.

    async def _finish(self, board: Show) -> None:
        """Disable, end the fleet, and wait until what was recorded can be searched."""
        if self.processes is not None:
            await asyncio.to_thread(self.processes.look)
        if self.archive is not None:
            board.update(self.now("disabling the cameras"))
            await asyncio.to_thread(self.archive.scrape)
            await self._disable_all()
        if self.sightings is not None:
            self.sightings.stop()
        await self.fleet.stop()
        self.sent_until_us = self.clock.now_us()
        if self.archive is not None and self._failure is None:
            board.update(self.now("waiting for what was recorded"))
            await self._settle()

    async def _disable_all(self) -> None:
        """All of them, a few at a time; for as long as an api that struggles may need."""
        left = list(self.registered)
        waiting, reasons = iter(tuple(left)), set[str]()

        async def some() -> None:
            for name in waiting:
                self.disabled[name] = self.clock.now_us()
                try:
                    if await self._until_done(self.hurry, self._disable, name):
                        left.remove(name)
                except LamppostError as error:
                    reasons.add(str(error))

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISABLE_S):
                await asyncio.gather(*(some() for _ in range(DISABLE_AT_ONCE)))
        self.notes += sorted(reasons)
        if left:
            ids = ", ".join(self.camera_id(name) for name in left[:SHOWN])
            self.notes.append(f"{len(left)} cameras were not disabled, do it by hand: {ids} …")

    def _disable(self, name: str) -> None:
        assert self.archive is not None
        self.archive.disable(self.camera_id(name))

    async def _settle(self) -> None:
        """Read every ledger until nothing is on its way, or the time for it is over."""
        assert self.archive is not None
        counts = together(self.fleet.words)
        left = list(self.registered)
        deadline_us = self.clock.monotonic_us() + round(self.options.settle_s * SECOND_US)
        while left:
            for name in tuple(left):
                window = (self.registered[name], self.disabled.get(name, self.end_us))
                with contextlib.suppress(LamppostError):
                    found = await asyncio.to_thread(
                        self.archive.account, self.camera_id(name), *window
                    )
                    self.accounts[name] = found
                    missing = loss(counts[name].spans, found.recorded).lost
                    if not missing and not found.pending_us:
                        left.remove(name)
            if self.clock.monotonic_us() >= deadline_us:
                return
            if left and await self.hurry.sleep(self.clock, RETRY_S):
                return
