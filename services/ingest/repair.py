"""What a dead recorder left half-written: cut to its last whole fragment and filed, or set aside
with a reason, never silently dropped (docs/architecture.md, "ingest").

Only `tmp/` is looked at, which holds at most one file a camera; what waits in `new/` costs nothing.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from services.ingest.segment_file import OpenState, make_segment
from shared import fmp4, log
from shared.clock import SECOND_US
from shared.domain import Fragment, Segment
from shared.errors import LamppostError
from shared.spool import RecorderSpool

PIECE_BYTES = 64 * 1024
_decoder = msgspec.json.Decoder(OpenState)
_logger = log.get("ingest")


def left_behind(spool: RecorderSpool) -> dict[str, list[Path]]:
    """Half-written videos by camera, oldest first; other leavings of `tmp/` are removed."""
    found: dict[str, list[Path]] = {}
    for path in sorted(spool.tmp.iterdir()):
        if path.suffix == ".mp4":
            found.setdefault(camera_of(path), []).append(path)
        elif (
            path.suffix == ".part"
            or not path.with_name(path.name.removesuffix(".open.json") + ".mp4").exists()
        ):
            path.unlink(missing_ok=True)
    return found


def camera_of(path: Path) -> str:
    """The camera in a spool name `{start_us}-{camera}-{uuid}`."""
    return path.stem[21:-37]


def repair(
    spool: RecorderSpool,
    path: Path,
    ceiling_us: int,
    accounted: Callable[[int], None] = lambda _until_us: None,
) -> Segment | None:
    """File one half-written video; None when nothing of it could be saved.

    `ceiling_us` is now: no repaired time lies after the file's last write or after that.
    `accounted` is told up to when the camera is recorded, once that is durable and before it is
    filed: who dies in between finds the video here again.
    """
    sidecar = path.with_suffix(".open.json")
    if _is_blank(path):
        _remove(path)
        return None
    try:
        state = _decoder.decode(sidecar.read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        _give_up(spool, path, f"what it is cannot be read: {error}")
        return None
    size = path.stat().st_size
    init = state.segment.init
    if size <= len(init):
        _remove(path)
        return None
    written_us = min(ceiling_us, path.stat().st_mtime_ns // 1_000)
    with path.open("r+b") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if data[: len(init)] != init:
                    _give_up(spool, path, "it does not begin with its init section")
                    return None
                fragments, digest, end = _measure(data, state, written_us)
        except (LamppostError, ValueError) as error:
            _give_up(spool, path, str(error))
            return None
        if not fragments:
            _give_up(spool, path, "it holds no whole fragment")
            return None
        file.truncate(end)
        os.fsync(file.fileno())
    segment = make_segment(state, fragments, end, digest, repaired=True)
    accounted(segment.end_us)
    spool.file_segment(path, segment)
    return segment


def recorded_until(path: Path, ceiling_us: int) -> int | None:
    """Up to when `repair` would file the video, which stays as it is; None when nothing of it can
    be saved. OSError where it cannot be read, FileNotFoundError once somebody filed it."""
    try:
        state = _decoder.decode(path.with_suffix(".open.json").read_bytes())
    except msgspec.MsgspecError:
        return None
    init = state.segment.init
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if found.st_size <= len(init):
            return None
        written_us = min(ceiling_us, found.st_mtime_ns // 1_000)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[: len(init)] != init:
                return None
            try:
                return max((end for _, _, end in _whole(data, state, written_us)), default=None)
            except (LamppostError, ValueError):
                return None


def _whole(
    data: mmap.mmap, state: OpenState, written_us: int
) -> Iterator[tuple[fmp4.ParsedFragment, int, int]]:
    """The whole fragments, and when each begins and ends."""
    segment = state.segment
    end, first, start_us = len(segment.init), None, segment.start_us
    for part in fmp4.parse_fragments(data, end):
        if part.offset != end or not _plausible(data, part):
            return
        first = part.base_time if first is None else first
        media_us = (part.base_time + part.duration - first) * SECOND_US // segment.timescale
        end_us = max(start_us + 1, min(segment.start_us + media_us, written_us))
        yield part, start_us, end_us
        start_us, end = end_us, part.end


def _measure(
    data: mmap.mmap, state: OpenState, written_us: int
) -> tuple[tuple[Fragment, ...], str, int]:
    """The whole fragments with their times and hashes, the hash of all, and where they end."""
    whole = hashlib.sha256(state.segment.init)
    fragments: list[Fragment] = []
    end = len(state.segment.init)
    for part, start_us, end_us in _whole(data, state, written_us):
        raw = data[part.offset : part.end]
        whole.update(raw)
        end = part.end
        fragments.append(
            Fragment(
                offset=part.offset,
                size=part.size,
                start_us=start_us,
                end_us=end_us,
                key=part.key,
                sha256=hashlib.sha256(raw).digest(),
                samples=len(part.samples),
                base_time=part.base_time,
            )
        )
    return tuple(fragments), whole.hexdigest(), end


def _plausible(data: mmap.mmap, part: fmp4.ParsedFragment) -> bool:
    """Whether the pictures are there: after a power cut a file may end in pages of zeros."""
    return all(any(data[sample.offset : sample.offset + 4]) for sample in part.samples)


def _is_blank(path: Path) -> bool:
    """Whether nothing of it reached the disk but its size: it is empty, or zeros."""
    with path.open("rb") as file:
        return not any(piece.strip(b"\0") for piece in iter(lambda: file.read(PIECE_BYTES), b""))


def _remove(path: Path) -> None:
    path.unlink()
    path.with_suffix(".open.json").unlink(missing_ok=True)


def _give_up(spool: RecorderSpool, path: Path, reason: str) -> None:
    _logger.warning("set a half-written segment aside", file=path.name, reason=reason)
    spool.set_aside(path, reason)
    path.with_suffix(".open.json").unlink(missing_ok=True)
