"""What a replaying process counts, and what it tells the process that started it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from shared.intervals import Interval

MAX_SPANS = 10_000


class Count(msgspec.Struct):
    """Of one stream. Cumulative."""

    pictures: int = 0
    size_bytes: int = 0
    """With RTP's own bytes."""
    sessions: int = 0
    playing: int = 0
    refused: int = 0
    """Requests while the camera was away by its scenario: the connection was cut."""
    ended: dict[str, int] = {}
    """Sessions by what ended them: `client`, `scenario`, `slow`, `silent_client`, `stopped`."""
    spans: list[Interval] = []
    """What was sent from a key picture on, each session for itself: wall time of capture."""
    spans_left_out: int = 0

    def end(self, why: str) -> None:
        self.ended[why] = self.ended.get(why, 0) + 1

    def span(self, start_us: int, end_us: int) -> None:
        if len(self.spans) < MAX_SPANS:
            self.spans.append((start_us, end_us))
        else:
            self.spans_left_out += 1

    def add(self, other: Count) -> None:
        """Take in what another process counted of the same stream."""
        self.pictures += other.pictures
        self.size_bytes += other.size_bytes
        self.sessions += other.sessions
        self.playing += other.playing
        self.refused += other.refused
        for why, number in other.ended.items():
            self.ended[why] = self.ended.get(why, 0) + number
        self.spans += other.spans
        self.spans_left_out += other.spans_left_out


class Word(msgspec.Struct):
    """What a worker says, a line of JSON each."""

    kind: str
    """`ready`: everything is read; `serving`; `progress` each second; `end`; `error`."""
    port: int = 0
    streams: dict[str, Count] = {}
    late: int = 0
    """Moments at which this process was behind (services/replay/wheel.py)."""
    latest_us: int = 0
    cpu_s: float = 0.0
    refused_connections: int = 0
    message: str = ""
    fix: str = ""
    error: str = ""


class Task(msgspec.Struct, frozen=True):
    """What a worker is told at its start."""

    host: str
    port: int
    files: tuple[str, ...]
    subs: tuple[str, ...]
    cameras: int
    scenario: bytes
    """A `Scenario` as JSON."""
    user: str = ""
    password: str = ""
    log: str = ""
    """A file for one line a picture."""


def together(words: Iterable[Word]) -> dict[str, Count]:
    """The streams of all workers, each once."""
    found: dict[str, Count] = {}
    for word in words:
        for name, count in word.streams.items():
            found.setdefault(name, Count()).add(count)
    return found


def camera_name(number: int) -> str:
    """`cam-001` of 0."""
    return f"cam-{number + 1:03}"


def sub_name(name: str) -> str:
    """The path of a camera's small second stream."""
    return f"{name}/sub"
