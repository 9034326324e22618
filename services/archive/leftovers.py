"""What crashes and damage leave in the spool, and when it goes.

A sidecar whose video is neither being written nor filed is what a crash left between the two
deletes of an archived item. Videos set aside in `bad/` are footage too: they leave at their expiry
like everything else, unless a hold covers them (docs/invariants.md, 4 and 5); the reason stays.
All functions block: call them through `asyncio.to_thread`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from services.archive.filing import named
from shared.domain import Segment
from shared.spool import Filed, RecorderSpool

ABANDONED_US = 60_000_000
"""A video whose length nobody knows is taken to be a minute long."""


class Aside(NamedTuple):
    """One video in `bad/`."""

    path: Path
    camera_id: str
    start_us: int
    end_us: int


def set_aside(root: Path, item: Filed, reason: str) -> None:
    """Move an item to its recorder's `bad/`, video first: what is left of a crash is a sidecar."""
    spool = RecorderSpool(root, item.recorder_dir.name)
    for path in (item.video, item.sidecar):
        if path is not None and path.exists():
            # Another archive on the volume may be as far with the same item.
            with contextlib.suppress(FileNotFoundError):
                spool.set_aside(path, reason)


def remove_lonely_sidecars(root: Path) -> int:
    """Remove sidecars that nothing will ever claim; how many.

    The recorder writes the sidecar before it moves the video from `tmp/` to `new/`, so looking
    there in that order misses no video on its way.
    """
    count = 0
    for folder in _folders(root, "new"):
        for sidecar in folder.glob("*.json"):
            name = sidecar.name.removesuffix(".json")
            if name.endswith(".gap"):
                continue
            writing, filed = folder.parent / "tmp" / f"{name}.mp4", folder / f"{name}.mp4"
            if not writing.exists() and not filed.exists():
                sidecar.unlink(missing_ok=True)
                count += 1
    return count


def waits_in_spool(root: Path, name: str) -> bool:
    """Whether a recorder or the archive still has the video in hand."""
    return any(
        (folder / f"{name}.mp4").exists()
        for part in ("tmp", "new")
        for folder in _folders(root, part)
    )


def size_aside(root: Path, name: str) -> int | None:
    """The size of a video that was set aside; None when it was not."""
    for folder in _folders(root, "bad"):
        try:
            return (folder / f"{name}.mp4").stat().st_size
        except FileNotFoundError:
            continue
    return None


def videos_aside(root: Path) -> list[Aside]:
    """Every video in `bad/`, with the best that is known of its times."""
    found = []
    for folder in _folders(root, "bad"):
        for path in folder.glob("*.mp4"):
            aside = _aside(path)
            if aside is not None:
                found.append(aside)
    return found


def remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _aside(path: Path) -> Aside | None:
    parts = named(path.stem)
    try:
        if parts is None:
            end_us = path.stat().st_mtime_ns // 1_000
            return Aside(path, "", end_us - 1, end_us)
        end_us = _stated_end_us(path.with_suffix(".json")) or parts.start_us + ABANDONED_US
        return Aside(path, parts.camera_id, parts.start_us, max(end_us, parts.start_us + 1))
    except FileNotFoundError:
        return None


def _stated_end_us(sidecar: Path) -> int | None:
    try:
        return msgspec.json.decode(sidecar.read_bytes(), type=Segment).end_us
    except (OSError, msgspec.MsgspecError):
        return None


def _folders(root: Path, name: str) -> Iterator[Path]:
    if root.is_dir():
        for recorder in sorted(root.iterdir()):
            if (recorder / name).is_dir():
                yield recorder / name
