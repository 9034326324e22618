"""The live terminal table of `lamppost run all`, and plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import IO, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.board import Detection
from services.summary import CameraFacts, Collector, Facts
from shared import civil
from shared.clock import SECOND_US, Clock
from shared.errors import LamppostError
from shared.runtime import Stop

REFRESH_S = 1.0
PLAIN_S = 10.0
_STATE_STYLE = {
    "recording": "green",
    "connecting": "yellow",
    "starting": "yellow",
    "retrying": "yellow",
    "maintenance": "cyan",
    "disabled": "dim",
}


class Signs(NamedTuple):
    """What stands above the table and does not change."""

    url: str
    sign_in: Sequence[str]
    notes: Sequence[str] = ()
    timezone: str = "UTC"
    log_file: str = ""


def duration(us: int) -> str:
    """`2:03:04` of microseconds; the hours are not cut at a day."""
    seconds = us // SECOND_US
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def size(count: float) -> str:
    """Bytes with a decimal unit, three digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.5 or unit == "TB":
            return f"{count:.0f} {unit}" if count >= 100 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def days(count: float) -> str:
    """`12 days`, and one decimal where it matters."""
    return f"{count:.1f} days" if count < 10 else f"{count:.0f} days"


def heading(signs: Signs) -> Text:
    """Addresses, how to sign in, and what the demo owes its viewer to say."""
    text = Text()
    text.append("Lamppost", style="bold")
    text.append(f"  status page {signs.url}/   API {signs.url}/v1/   ")
    text.append(f"its documentation {signs.url}/docs\n")
    for line in signs.sign_in:
        text.append(f"{line}\n")
    if signs.log_file:
        text.append(f"Log: {signs.log_file}. Ctrl-C stops everything.\n", style="dim")
    for note in signs.notes:
        text.append(f"{note}\n", style="yellow")
    return text


def cameras_table(
    cameras: Sequence[CameraFacts], timezone: str, limit: int, width: int = 200
) -> Table:
    """One row a camera; those over `limit` are counted, not shown. What does not fit the width is
    left out column by column: a figure that is cut says nothing."""
    shown = {name: [_CELLS[name](item, timezone) for item in cameras[:limit]] for name in _CELLS}
    names = _fitting({name: _width(name, cells) for name, cells in shown.items()}, width)
    grid = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for name in names:
        right = name not in ("camera", "where", "state")
        grid.add_column(name, no_wrap=True, justify="right" if right else "left")
    for row in zip(*(shown[name] for name in names), strict=True):
        grid.add_row(*row)
    if len(cameras) > limit:
        grid.add_row(f"… and {len(cameras) - limit} more")
    return grid


def _state(item: CameraFacts, _: str) -> Text:
    state = item.state + (f" ({item.reason})" if item.reason else "")
    return Text(state, style=_STATE_STYLE.get(item.state, "red"))


_CELLS: Mapping[str, Callable[[CameraFacts, str], Text]] = {
    "camera": lambda item, _: Text(item.id),
    "where": lambda item, _: Text(item.name),
    "state": _state,
    "recorded": lambda item, _: Text(duration(item.recorded_us)),
    "gaps 24 h": lambda item, _: Text(duration(item.gap_us) if item.gap_us else "-"),
    "a day": lambda item, _: Text(size(item.day_bytes) if item.day_bytes else "-"),
    "oldest": lambda item, zone: Text(when(item.oldest_us, zone)),
}
_LEFT_OUT = ("where", "a day", "oldest", "gaps 24 h")
"""In this order, where the terminal is too narrow."""
_SPACE = 2


def _width(name: str, cells: Sequence[Text]) -> int:
    return max([len(name), *(cell.cell_len for cell in cells)])


def _fitting(widths: Mapping[str, int], width: int) -> list[str]:
    names = list(widths)
    for name in _LEFT_OUT:
        if sum(widths[one] + _SPACE for one in names) - _SPACE <= width:
            break
        names.remove(name)
    return names


def when(us: int | None, timezone: str) -> str:
    """A local date and minute, or a dash."""
    if us is None:
        return "-"
    return civil.to_datetime(us, civil.zone(timezone)).strftime("%d %b %H:%M")


def footer(facts: Facts, timezone: str, min_free_ratio: float) -> Text:
    """The totals below the table."""
    text = Text()
    recording = f"{facts.recording} of {len(facts.cameras)} cameras recording"
    text.append(recording, style="bold green" if facts.recording else "bold yellow")
    text.append(f"   spool {facts.spool_items} files, {size(facts.spool_bytes)}")
    text.append(f"   {size(facts.day_bytes)} a day   disk {size(facts.disk_free)} free")
    if facts.days_left is not None:
        text.append(f", {days(facts.days_left)} left")
    text.append(f"\noldest footage {when(facts.oldest_us, timezone)}")
    text.append(f"   holds {facts.holds}, keeping {facts.held} segments past their expiry")
    text.append(f"   purged {facts.purged} segments, {size(facts.purged_bytes)}")
    seen = f"   {facts.sightings} sightings in the index"
    text.append("\n").append_text(detection(facts.detection)).append(seen)
    if facts.disk_free < facts.disk_total * min_free_ratio:
        text.append(
            f"\nRecording is stopped: less than {min_free_ratio:.0%} of the disk is free.",
            style="bold red",
        )
    if facts.overdue:
        text.append(f"\n{facts.overdue} segments are overdue for deletion.", style="bold red")
    if facts.stopped:
        text.append(f"\nDeletion is stopped: {facts.stopped}", style="bold red")
    return text


def detection(found: Detection) -> Text:
    """What detection does, or what keeps it from it."""
    if not found.workers:
        return Text("detection: no worker is running", style="dim")
    if not found.model:
        return Text(f"detection: {found.detail or 'starting'}", style="yellow")
    text = Text(f"detection {found.model}", style="green")
    text.append(f"   {found.rate_fps:.1f} frames/s", style="default")
    text.append(f"   {found.lag_s:.1f} s behind", style="default" if found.lag_s < 2 else "yellow")
    text.append(f"   {found.analysed} frames, {found.sightings} sightings in this run")
    if found.detail:
        text.append(f"   {found.detail}", style="yellow")
    return text


def plain_line(facts: Facts) -> str:
    """The same on one line, for a log."""
    waiting = [
        f"{item.id} {item.state}{' ' + item.reason if item.reason else ''}"
        for item in facts.cameras
        if item.state not in ("recording", "disabled")
    ]
    left = "" if facts.days_left is None else f", {days(facts.days_left)} left"
    recorded = sum(item.recorded_us for item in facts.cameras)
    gaps = sum(item.gap_us for item in facts.cameras)
    line = (
        f"lamppost: {facts.recording}/{len(facts.cameras)} cameras recording, "
        f"{duration(recorded)} recorded, gaps {duration(gaps)}, "
        f"spool {facts.spool_items} files, {size(facts.day_bytes)} a day, "
        f"disk {size(facts.disk_free)} free{left}, holds {facts.holds}, purged {facts.purged}, "
        f"{detection(facts.detection).plain}"
    )
    if facts.stopped:
        line += f"; deletion stopped: {facts.stopped}"
    return line + (f"; not recording: {', '.join(waiting[:5])}" if waiting else "")


class Display:
    """Shows facts until the stop: a live table on a terminal, a line every 10 s elsewhere."""

    def __init__(
        self, collector: Collector, signs: Signs, out: IO[str], clock: Clock, min_free_ratio: float
    ) -> None:
        self._collector = collector
        self._signs = signs
        self._console = Console(file=out)
        self._clock = clock
        self._min_free_ratio = min_free_ratio
        self.live = self._console.is_terminal

    async def run(self, stop: Stop) -> None:
        if not self.live:
            self._console.print(heading(self._signs).plain, soft_wrap=True, highlight=False)
            await self._plain(stop)
            return
        with Live(console=self._console, screen=True, auto_refresh=False) as live:
            while not stop.is_set:
                if picture := await self._picture():
                    live.update(picture, refresh=True)
                await stop.sleep(self._clock, REFRESH_S)
        if picture := await self._picture():
            self._console.print(picture)

    async def _plain(self, stop: Stop) -> None:
        while not stop.is_set:
            with contextlib.suppress(LamppostError):
                line = plain_line(await self._collector.collect())
                self._console.print(line, soft_wrap=True, highlight=False, markup=False)
            await stop.sleep(self._clock, PLAIN_S)

    async def _picture(self) -> Group | None:
        """None when the database did not answer: the old picture stays."""
        try:
            facts = await self._collector.collect()
        except LamppostError:
            return None
        return picture(self._console, facts, self._signs, self._min_free_ratio)


def picture(console: Console, facts: Facts, signs: Signs, min_free_ratio: float) -> Group:
    """Everything, with as many cameras as leave the totals on the screen."""
    width = console.width
    top, bottom = heading(signs), footer(facts, signs.timezone, min_free_ratio)
    used = sum(len(text.wrap(console, width)) for text in (top, bottom))
    limit = max(1, console.height - used - 4)  # a heading, a line between, "and more", the cursor
    return Group(top, cameras_table(facts.cameras, signs.timezone, limit, width), Text(), bottom)
