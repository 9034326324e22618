"""What a person sees while cameras are replayed: a live table, or a line now and then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.replay.processes import Cost
from services.table import duration, size
from shared.clock import SECOND_US

PLAIN_US = 10 * SECOND_US


class Now(NamedTuple):
    """A moment of a replay."""

    elapsed_us: int
    playing: int
    streams: int
    registered: int | None
    """Cameras in the api; None without one."""
    pictures: int
    size_bytes: int
    ended: Mapping[str, int]
    refused: int
    behind_us: int
    costs: Mapping[str, Cost]
    """CPU and memory by service."""
    events: int
    doing: str = ""


class Show:
    """Use as a context manager; `update` about once a second."""

    def __init__(self, out: IO[str], address: str) -> None:
        self._console = Console(file=out)
        self._address = address
        self._live: Live | None = None
        self._before: Now | None = None
        self._told_us: int | None = None

    def __enter__(self) -> Show:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        else:
            text = f"lamppost replay: cameras at {self._address}"
            self._console.print(text, soft_wrap=True, highlight=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, now: Now) -> None:
        """Show this moment; rates are since the last one."""
        before, self._before = self._before, now
        took_s = (now.elapsed_us - before.elapsed_us) / SECOND_US if before is not None else 0.0
        if self._live is not None:
            self._live.update(self._picture(now, before, took_s), refresh=True)
        elif self._told_us is None or now.elapsed_us - self._told_us >= PLAIN_US:
            self._told_us = now.elapsed_us
            self._console.print(
                f"lamppost replay: {self._line(now, before, took_s)}",
                soft_wrap=True, highlight=False, markup=False,
            )  # fmt: skip

    def _line(self, now: Now, before: Now | None, took_s: float) -> str:
        parts = [duration(now.elapsed_us), f"{now.playing} of {now.streams} streams playing"]
        if before is not None and took_s > 0:
            pictures = (now.pictures - before.pictures) / took_s
            bits = (now.size_bytes - before.size_bytes) * 8 / took_s
            parts.append(f"{pictures:.0f} pictures/s, {bits / 1e6:.1f} Mbit/s")
        if now.registered is not None:
            parts.append(f"{now.registered} cameras registered, {now.events} events")
        ended = ", ".join(f"{number} {why}" for why, number in sorted(now.ended.items()))
        parts.append(f"ended: {ended or 'none'}")
        parts.append(f"behind {now.behind_us / SECOND_US:.2f} s at most")
        return ", ".join(parts) + (f"; {now.doing}" if now.doing else "")

    def _picture(self, now: Now, before: Now | None, took_s: float) -> Group:
        head = Text("Lamppost replay", style="bold")
        head.append(f"  {self._address}  Ctrl-C ends it with its report.", style="dim")
        grid = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("service", "processes", "cores", "memory"):
            grid.add_column(name, justify="left" if name == "service" else "right")
        for name, cost in sorted(now.costs.items()):
            earlier = before.costs.get(name) if before is not None else None
            cores = "-"
            if earlier is not None and took_s > 0:
                cores = f"{(cost.cpu_s - earlier.cpu_s) / took_s:.2f}"
            grid.add_row(name, str(cost.processes), cores, size(cost.pss_bytes))
        return Group(head, Text(self._line(now, before, took_s)), grid)
