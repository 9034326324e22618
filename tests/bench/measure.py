"""What a side cost: CPU seconds and memory of process trees, and ratios of interleaved rounds.

Figures of one machine mean little elsewhere; the ratio of two sides that ran turn about does, so a
row reports the median of its rounds' ratios (docs/measured.md).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import statistics
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil

from shared.clock import SECOND_US, SystemClock

ROOT = Path(__file__).parents[2]
CLOCK = SystemClock()
MIB = 1024 * 1024
_never = threading.Event()
T = TypeVar("T")


class Cost(NamedTuple):
    """What some work took."""

    cpu_s: float
    wall_s: float


@dataclass
class Figure:
    """One measured thing, a value a round and side; without a peer the value itself is judged."""

    what: str
    unit: str
    reach: float | None
    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)

    @property
    def value(self) -> float:
        """The median ratio of the rounds, or without a peer the median value."""
        if self.peer:
            return statistics.median(a / b for a, b in zip(self.ours, self.peer, strict=True))
        return statistics.median(self.ours)

    def line(self) -> str:
        """One row of a table in Markdown."""
        middle = f"{statistics.median(self.ours):.3g} {self.unit}"
        if not self.peer:
            return f"| {self.what} | {middle} | - | {middle} | {self._verdict()} |"
        spread = sorted(a / b for a, b in zip(self.ours, self.peer, strict=True))
        return (
            f"| {self.what} | {middle} | {statistics.median(self.peer):.3g} {self.unit} "
            f"| {self.value:.2f}x ({spread[0]:.2f} to {spread[-1]:.2f}) | {self._verdict()} |"
        )

    def _verdict(self) -> str:
        if self.reach is None:
            return "for information"
        mark = f"<= {self.reach:g}" + ("x" if self.peer else f" {self.unit}")
        return f"{mark}: {'met' if self.value <= self.reach else 'fell short'}"


@dataclass
class Row:
    """A benchmark's outcome. `differences` says where the sides' results are not the same."""

    name: str
    figures: list[Figure] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def expect(self, true: bool, otherwise: str) -> None:
        if not true:
            self.differences.append(otherwise)

    def report(self) -> str:
        """Markdown."""
        lines = [f"## {self.name}", "", "| figure | ours | peer | median | reach |"]
        lines += ["|---|---|---|---|---|", *(figure.line() for figure in self.figures), ""]
        lines += [f"- {note}" for note in self.notes]
        if self.differences:
            lines += [f"- DIFFERENT RESULT: {text}" for text in self.differences]
        else:
            lines.append("- both sides gave the same result")
        return "\n".join(lines)


def rest(seconds: float) -> None:
    """Let `seconds` pass."""
    CLOCK.wait(_never, seconds)


def seconds_since(start_us: int) -> float:
    return (CLOCK.monotonic_us() - start_us) / SECOND_US


def tree(processes: Sequence[subprocess.Popen[bytes]]) -> list[psutil.Process]:
    """These processes and everything below them."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(process.pid)
            found += [parent, *parent.children(recursive=True)]
    return found


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """CPU seconds so far, user and system."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def pss_bytes(processes: Sequence[psutil.Process]) -> int:
    """Memory with each shared page divided by its users."""
    return sum(process.memory_full_info().pss for process in processes)


def window(processes: Sequence[psutil.Process], seconds: float) -> tuple[float, int]:
    """CPU seconds a second, and memory at the end, over the next `seconds`."""
    began_us, before = CLOCK.monotonic_us(), cpu_s(processes)
    rest(seconds)
    used, took = cpu_s(processes) - before, seconds_since(began_us)
    return used / took, pss_bytes(processes)


@contextlib.contextmanager
def costing() -> Iterator[list[Cost]]:
    """The cost of the block, of this process with its threads, appended when it ends."""
    found: list[Cost] = []
    usage, began_us = resource.getrusage(resource.RUSAGE_SELF), CLOCK.monotonic_us()
    yield found
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    found.append(Cost(used, seconds_since(began_us)))


def isolated(work: Callable[..., T], *arguments: Any) -> T:
    """Run it in a fresh process, so that no side pays for another's memory or imports."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *arguments).result()


def spawn(command: Sequence[str], log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a program whose output goes to a file. It may keep bytecode, as programs do."""
    env = {name: value for name, value in env.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with log.open("ab") as file:
        return subprocess.Popen(
            list(command),
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )


def end(processes: Sequence[subprocess.Popen[bytes]], signal_number: int, within_s: float) -> None:
    """Ask them to end; what does not is killed with everything below it."""
    every = tree(processes)
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal_number)
    psutil.wait_procs(every, timeout=within_s)
    for found in every:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.kill()
    for process in processes:
        process.wait()


def load() -> str:
    """How busy the machine is: a figure is only as good as the quiet it was taken in."""
    return f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
