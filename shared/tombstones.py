"""Tombstones as values, and their journal outside the database (docs/retention.md, edge case 23).

A purge leaves a tombstone: ids, counts, bytes, hashes, policy version and times, nothing of the
content. It is written twice: as a row, and as a line of `<state>/tombstones/<month>.jsonl`. A
database restored from a backup has forgotten purges made since; the journal has not, so `restore`
replays it before anything opens. Where services run apart each retention worker has its own, in its
own state folder; a restore is given all of them, or their copies. Order: append to the journal
first, then commit the row, so that every row has its line; a line whose row never came is harmless,
because the bytes are gone.

All functions of `Journal` block: call them through `asyncio.to_thread`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from shared import civil
from shared.spool import sync_dir

FOLDER = "tombstones"
TAIL_BYTES = 256 * 1024
"""Holds the last line of any usual claim."""


class Purged(msgspec.Struct, frozen=True, array_like=True):
    """One purged segment."""

    id: str
    start_us: int
    end_us: int
    sha256: str
    size_bytes: int


class Tombstone(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of one purge claim; the fields of the `tombstone` row."""

    id: str
    """The claim's id: one tombstone a claim."""
    camera_id: str
    recording_date: date
    segments: tuple[Purged, ...]
    policy_version: int
    due_at_us: int
    claimed_at_us: int
    bytes_gone_at_us: int
    written_at_us: int

    @property
    def segment_count(self) -> int:
        return len(self.segments)

    @property
    def size_bytes(self) -> int:
        return sum(segment.size_bytes for segment in self.segments)


_line = msgspec.json.Decoder(Tombstone)
_segments = msgspec.msgpack.Decoder(tuple[Purged, ...])


def pack_segments(segments: tuple[Purged, ...]) -> bytes:
    """The `segments` column of a tombstone row."""
    return msgspec.msgpack.encode(segments)


def unpack_segments(data: bytes) -> tuple[Purged, ...]:
    """Back again."""
    return _segments.decode(data)


def row_of(tombstone: Tombstone) -> dict[str, Any]:
    """Column values of a `tombstone` row."""
    return {
        "id": tombstone.id,
        "camera_id": tombstone.camera_id,
        "recording_date": tombstone.recording_date,
        "segment_count": tombstone.segment_count,
        "size_bytes": tombstone.size_bytes,
        "segments": pack_segments(tombstone.segments),
        "policy_version": tombstone.policy_version,
        "due_at_us": tombstone.due_at_us,
        "claimed_at_us": tombstone.claimed_at_us,
        "bytes_gone_at_us": tombstone.bytes_gone_at_us,
        "written_at_us": tombstone.written_at_us,
    }


class Journal:
    """Append-only, one JSON line a tombstone, one file a month (UTC) of writing.

    Threads and processes may append at the same time: each waits until the other is done.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def append(self, *tombstones: Tombstone) -> None:
        """Durable when it returns. Appending one twice is fine: readers take the first."""
        by_file: dict[Path, list[Tombstone]] = {}
        for tombstone in tombstones:
            month = civil.to_datetime(tombstone.written_at_us).strftime("%Y-%m")
            by_file.setdefault(self.folder / f"{month}.jsonl", []).append(tombstone)
        self.folder.mkdir(parents=True, exist_ok=True)
        for path, lines in by_file.items():
            is_new = not path.exists()
            _append(path, b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
            if is_new:
                sync_dir(self.folder)

    def read(self) -> Iterator[Tombstone]:
        """Every tombstone in order of writing, one at a time; a line torn by a power cut was never
        acknowledged and is passed over."""
        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                yield from _whole(file)

    def newest(self) -> Tombstone | None:
        """The one written last, by the end of the newest file alone; None: there is none."""
        for path in sorted(self.folder.glob("*.jsonl"), reverse=True):
            with path.open("rb") as file:
                size, tail = file.seek(0, os.SEEK_END), TAIL_BYTES
                while True:
                    file.seek(max(0, size - tail))
                    # What stands before the first line's end may be the rest of a line.
                    lines = file.read(tail).split(b"\n")[0 if tail >= size else 1 :]
                    if found := list(_whole(lines)):
                        # Not the last line: a restore adds what other journals had.
                        return max(found, key=lambda stone: stone.written_at_us)
                    if tail >= size:
                        break
                    tail *= 8
        return None


def journal(state_dir: Path) -> Journal:
    """The journal of an installation."""
    return Journal(state_dir / FOLDER)


def _whole(lines: Iterable[bytes]) -> Iterator[Tombstone]:
    for line in lines:
        try:
            yield _line.decode(line)
        except msgspec.MsgspecError:
            continue


def _append(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # until the close
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            data = b"\n" + data  # end the torn line, so that it spoils only itself
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
