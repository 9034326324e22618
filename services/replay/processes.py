"""What the services cost while cameras are replayed to them: CPU and memory of their processes.

Found in /proc on this machine by their command line (`lamppost run SERVICE`, or the supervisor's
`services run SERVICE`), or given by their id. Memory is the proportional set size: each shared page
divided by its users, so that processes add up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from services import one
from shared.clock import SECOND_US, Clock
from shared.errors import Kind, LamppostError

SEARCH_US = 5 * SECOND_US
MEMORY_US = 10 * SECOND_US
SERVICES = frozenset((*one.SERVICES, "all", "relay"))
PROGRAMS = frozenset({"services", "lamppost"})
OWN = "replay"


def service_of(command: Sequence[str]) -> str | None:
    """The service that a command line runs; `all` is the supervisor with what it runs itself."""
    for at, word in enumerate(command):
        if word != "run" or at == 0 or Path(command[at - 1]).name not in PROGRAMS:
            continue
        name = next(iter(command[at + 1 : at + 2]), "all")
        if name.startswith("-"):
            name = "all"
        roles = [role for role in ("spool", "index") if f"--{role}" in command]
        return "-".join([name, *roles]) if name in SERVICES else None
    return None


def parse_watch(texts: Sequence[str]) -> dict[int, str]:
    """Names of the processes to watch by their id, of `PID` or `NAME=PID`."""
    found: dict[int, str] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        if not number.isdecimal() or (equals and not name):
            raise LamppostError(
                Kind.INVALID, f"--watch {text!r} is no process.", fix="Write PID or NAME=PID."
            )
        try:
            found[int(number)] = name or str(psutil.Process(int(number)).name())
        except psutil.Error as error:
            raise LamppostError(
                Kind.INVALID, f"There is no process {number}.", fix="Give --watch a running one."
            ) from error
    return found


@dataclass
class Cost:
    """Of the processes of one name."""

    cpu_s: float = 0.0
    processes: int = 0
    """At most at once."""
    started: int = 0
    """Processes that began after the watching did."""
    pss_bytes: int = 0
    """Last, all together."""
    pss_max_bytes: int = 0


@dataclass
class _Seen:
    name: str
    process: psutil.Process
    cpu_s: float


@dataclass
class Processes:
    """Looks now and then; blocking, for a thread."""

    clock: Clock
    watched: Mapping[int, str]
    own: Iterable[int]
    costs: dict[str, Cost] = field(default_factory=dict)
    _seen: dict[tuple[int, float], _Seen] = field(default_factory=dict)
    _search_us: int = 0
    _memory_us: int = 0
    _first: bool = True

    def look(self) -> None:
        """Take in what they used since the last look."""
        now_us = self.clock.monotonic_us()
        if now_us >= self._search_us:
            self._search_us = now_us + SEARCH_US
            self._search()
        for key, seen in tuple(self._seen.items()):
            try:
                used = sum(seen.process.cpu_times()[:2])
            except psutil.Error:
                del self._seen[key]
                continue
            self.costs[seen.name].cpu_s += used - seen.cpu_s
            seen.cpu_s = used
        if now_us >= self._memory_us:
            self._memory_us = now_us + MEMORY_US
            self._weigh()

    def _search(self) -> None:
        own = set(self.own)
        parents = {pid: name for pid, name in self.watched.items() if psutil.pid_exists(pid)}
        for pid in tuple(parents):
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(pid).children(recursive=True):
                    parents.setdefault(child.pid, parents[pid])
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                key = (process.pid, process.create_time())
                if key in self._seen:
                    continue
                name = OWN if process.pid in own else parents.get(process.pid)
                name = name or service_of(process.cmdline())
                if name is not None:
                    self._meet(key, name, process)
        self._first = False
        counts: dict[str, int] = {}
        for seen in self._seen.values():
            counts[seen.name] = counts.get(seen.name, 0) + 1
        for name, count in counts.items():
            self.costs[name].processes = max(self.costs[name].processes, count)

    def _meet(self, key: tuple[int, float], name: str, process: psutil.Process) -> None:
        """What was there at first has used CPU for other ends; what comes later has not."""
        cost = self.costs.setdefault(name, Cost())
        before = sum(process.cpu_times()[:2]) if self._first else 0.0
        cost.started += not self._first
        self._seen[key] = _Seen(name, process, before)

    def _weigh(self) -> None:
        sums: dict[str, int] = {}
        for seen in self._seen.values():
            with contextlib.suppress(psutil.Error):
                pss = int(seen.process.memory_full_info().pss)
                sums[seen.name] = sums.get(seen.name, 0) + pss
        for name, pss in sums.items():
            self.costs[name].pss_bytes = pss
            self.costs[name].pss_max_bytes = max(self.costs[name].pss_max_bytes, pss)
