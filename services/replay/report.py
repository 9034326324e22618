"""The report of a replay: what was sent, what became of it, what it cost. JSON and text."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from rich.console import Console
from rich.table import Table

from services.replay.judge import Spread
from services.table import duration, size
from shared.clock import SECOND_US

MIB = 1024 * 1024
SHOWN = 20


class Sent(msgspec.Struct):
    """What the replay itself did. Streams are main and sub streams."""

    cameras: int
    processes: int
    seconds: float
    pictures: int
    size_bytes: int
    rate_bps: float
    sessions: int
    ended: dict[str, int]
    """Sessions by what ended them: `client`, `scenario`, `slow`, `silent_client`, `stopped`."""
    refused: int
    """Requests to cameras that were away by their scenario."""
    served_s: float
    """Of main streams, all cameras together."""
    behind_max_s: float
    behind: int
    """Moments at which the replay itself was more than 0.2 s behind: its figures are in doubt."""
    cpu_s: float
    cpu_per_camera: float
    """Cores, of the sending processes."""
    lost_processes: int = 0
    """Ended without a last word: what they sent is not counted."""


class Fate(msgspec.Struct):
    """One camera."""

    camera: str
    pictures: int
    served_s: float
    skew_s: float = 0.0
    recorded_s: float | None = None
    lost_s: float | None = None
    lost_spans: list[tuple[int, int]] = []
    """UTC microseconds."""
    edge_s: float | None = None
    gaps_s: dict[str, float] = {}
    pending_s: float | None = None
    unaccounted_s: float | None = None


class Service(msgspec.Struct):
    """The processes of one name, together."""

    name: str
    processes: int
    started: int
    cpu_s: float
    cores: float
    cores_per_camera: float
    pss_max_bytes: int
    pss_bytes: int
    pss_per_camera_bytes: int


class Archive(msgspec.Struct):
    """What the api says, all cameras together."""

    recorded_s: float
    lost_s: float
    edge_s: float
    gaps_s: dict[str, float]
    pending_s: float
    unaccounted_s: float
    late_s: Spread | None
    """How much of what had been sent could not be searched yet, over looks at single cameras."""
    counters: dict[str, float]
    dropped: dict[str, dict[str, float]]
    """By counter and label, where something was."""
    frame_age_s: dict[str, float]
    """Capture of a frame to its boxes, by quantile."""
    filed_s: dict[str, float]
    """Spool file seen to row committed, by quantile."""
    events: int
    frame_to_event_s: Spread | None
    """Capture of a frame to the event that tells of it, at a client of the api."""
    unread: int = 0
    """Cameras whose ledger could not be read: nothing is known of them."""


class Report(msgspec.Struct):
    """The whole."""

    start_us: int
    end_us: int
    scenario: str
    sent: Sent
    services: list[Service]
    cameras: list[Fate]
    archive: Archive | None = None
    notes: list[str] = []

    @property
    def clean(self) -> bool:
        """Nothing lost as far as everything is known, and nobody too slow."""
        archive = self.archive
        if archive is not None and (archive.unread or archive.lost_s + archive.unaccounted_s > 0):
            return False
        return not self.sent.lost_processes and not self.sent.ended.get("slow")


def to_json(report: Report) -> bytes:
    """Indented."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2)


def printer(report: Report) -> Callable[[Console], None]:
    """The report for a person."""

    def write(console: Console) -> None:
        _sent(console, report)
        if report.archive is not None:
            _archive(console, report.archive)
        _services(console, report)
        worst = sorted((f for f in report.cameras if f.lost_s), key=lambda f: -(f.lost_s or 0))
        for fate in worst[:SHOWN]:
            console.print(
                f"[red]{fate.camera} lost {fate.lost_s:.2f} s of {fate.served_s:.1f} s sent[/]",
                highlight=False,
            )
        for note in report.notes:
            console.print(f"[yellow]{note}[/]", highlight=False)

    return write


def _sent(console: Console, report: Report) -> None:
    sent = report.sent
    ended = ", ".join(f"{number} {why}" for why, number in sorted(sent.ended.items())) or "none"
    for line in (
        f"sent        {sent.cameras} cameras in {sent.processes} processes for "
        f"{duration(round(sent.seconds * SECOND_US))}: {sent.pictures} pictures, "
        f"{size(sent.size_bytes)}, {sent.rate_bps / 1e6:.1f} Mbit/s",
        f"sessions    {sent.sessions}; ended: {ended}; refused while away: {sent.refused}",
        f"served      {sent.served_s:.1f} camera-seconds; replay behind by "
        f"{sent.behind_max_s:.2f} s at most, {sent.behind} times over 0.2 s",
        f"cost        {sent.cpu_s:.1f} CPU seconds, {sent.cpu_per_camera * 100:.2f} % of a core "
        "a camera",
    ):
        console.print(line, highlight=False, soft_wrap=True)


def _archive(console: Console, found: Archive) -> None:
    gaps = ", ".join(f"{why} {seconds:.1f}" for why, seconds in found.gaps_s.items()) or "none"
    style = "red" if found.lost_s else "green"
    console.print(
        f"recorded    {found.recorded_s:.1f} camera-seconds; "
        f"[{style}]lost {found.lost_s:.2f} s[/], edges {found.edge_s:.2f} s, "
        f"pending {found.pending_s:.1f} s, unaccounted {found.unaccounted_s:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"gaps        {gaps}", highlight=False, soft_wrap=True)
    console.print(f"searchable  {_spread(found.late_s)} after capture", highlight=False)
    console.print(
        f"events      {found.events}; frame to event {_spread(found.frame_to_event_s)}",
        highlight=False,
    )
    counted = ", ".join(f"{_plain(name)} {n:.0f}" for name, n in found.counters.items())
    console.print(f"counted     {counted}", highlight=False, soft_wrap=True)
    for name, by in found.dropped.items():
        told = ", ".join(f"{key or 'all'} {number:.0f}" for key, number in by.items())
        console.print(f"            {_plain(name)}: {told}", highlight=False, soft_wrap=True)
    _quantiles(console, "frame to boxes", found.frame_age_s)
    _quantiles(console, "spool to row", found.filed_s)


def _quantiles(console: Console, what: str, values: Mapping[str, float]) -> None:
    if values:
        told = ", ".join(f"{name} {value:.2f} s" for name, value in values.items())
        console.print(f"            {what}: {told}", highlight=False)


def _plain(name: str) -> str:
    return name.removeprefix("lamppost_").replace("_", " ")


def _spread(found: Spread | None) -> str:
    if found is None:
        return "not measured"
    return (
        f"p50 {found.p50:.2f} s, p95 {found.p95:.2f} s, most {found.most:.2f} s "
        f"({found.count} values)"
    )


def _services(console: Console, report: Report) -> None:
    if not report.services:
        return
    grid = Table(box=None, pad_edge=False, header_style="bold")
    names = ("service", "processes", "CPU s", "cores", "% core/camera", "memory", "a camera")
    for name in names:
        grid.add_column(name, justify="left" if name == "service" else "right")
    for one in report.services:
        grid.add_row(
            one.name,
            str(one.processes) + (f" (+{one.started})" if one.started else ""),
            f"{one.cpu_s:.1f}",
            f"{one.cores:.3f}",
            f"{one.cores_per_camera * 100:.2f}",
            f"{one.pss_max_bytes / MIB:.0f} MiB",
            f"{one.pss_per_camera_bytes / MIB:.1f} MiB",
        )
    console.print(grid)
