"""Which seconds are in this recorder's spool and nowhere else yet: it says so with its status.

Should it die, its last word tells where they are (docs/architecture.md, "Assignment and failover").
Blocking: looks at the folder, called on a thread by one task.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import msgspec

from shared.clock import SECOND_US
from shared.intervals import Interval
from shared.messages import SpoolWaiting

MAX_KNOWN = 20_000
"""Ends remembered; past them a segment is taken to be as long as they are made."""
MAX_READ = 500
"""Sidecars read in one look; the others have their turn in the next."""
MAX_SPANS = 1_000
PER_CAMERA = 16
JOIN_US = SECOND_US
_START, _ID = 20, 36


class _End(msgspec.Struct):
    end_us: int


_decoder = msgspec.json.Decoder(_End)


class Waiting:
    """Looks at one recorder's `new/`."""

    def __init__(self, new: Path, segment_s: float) -> None:
        self._new = new
        self._length_us = round(segment_s * SECOND_US)
        self._ends: dict[str, int] = {}

    def look(self, names: Iterable[str]) -> list[SpoolWaiting]:
        """What the files of these names (`shared/spool.py`, without their ending) hold."""
        found: list[SpoolWaiting] = []
        ends: dict[str, int] = {}
        reads = MAX_READ
        for name in names:
            camera_id, start = name[_START + 1 : -_ID - 1], name[:_START]
            if not camera_id or not start.isdigit():
                continue
            end_us = self._ends.get(name)
            if end_us is None and reads and len(ends) < MAX_KNOWN:
                reads -= 1
                end_us = self._read(name)
            if end_us is not None and len(ends) < MAX_KNOWN:
                ends[name] = end_us
            start_us = int(start)
            if end_us is None:
                end_us = start_us + self._length_us
            if end_us > start_us:
                found.append(SpoolWaiting(camera_id, start_us, end_us))
        self._ends = ends
        return found

    def _read(self, name: str) -> int | None:
        try:
            return _decoder.decode((self._new / f"{name}.json").read_bytes()).end_us
        except (OSError, msgspec.MsgspecError):
            return None


def merged(spans: Iterable[SpoolWaiting]) -> tuple[SpoolWaiting, ...]:
    """The spans of each camera joined, and few enough for a message: where they are too many the
    smallest holes between them are filled. They may say more, never less."""
    by_camera: dict[str, list[Interval]] = defaultdict(list)
    for span in spans:
        by_camera[span.camera_id].append((span.start_us, span.end_us))
    most = max(1, min(PER_CAMERA, MAX_SPANS // max(1, len(by_camera))))
    return tuple(
        SpoolWaiting(camera_id, start_us, end_us)
        for camera_id, found in sorted(by_camera.items())[:MAX_SPANS]
        for start_us, end_us in _joined(found, most)
    )


def _joined(spans: list[Interval], most: int) -> list[Interval]:
    joined: list[Interval] = []
    for start_us, end_us in sorted(spans):
        if joined and start_us - joined[-1][1] <= JOIN_US:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end_us))
        else:
            joined.append((start_us, end_us))
    if len(joined) <= most:
        return joined
    holes = sorted((joined[i + 1][0] - joined[i][1], i) for i in range(len(joined) - 1))
    filled = {i for _, i in holes[: len(joined) - most]}
    kept: list[Interval] = [joined[0]]
    for i, span in enumerate(joined[1:]):
        if i in filled:
            kept[-1] = (kept[-1][0], span[1])
        else:
            kept.append(span)
    return kept


def filed(folder: Path) -> tuple[int, int, list[str]]:
    """Filed items, their bytes, and the names of the videos among them."""
    items = size = 0
    videos: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.endswith((".mp4", ".gap.json")):
                continue
            try:
                size += entry.stat().st_size
            except FileNotFoundError:
                continue
            items += 1
            if entry.name.endswith(".mp4"):
                videos.append(entry.name.removesuffix(".mp4"))
    return items, size, videos
