"""What is still in this recorder's spool, for readers: listings and bytes, whatever it holds.

Blocking: called on threads. A listing looks at names, which say camera and start, and reads only
the sidecars that may overlap. See shared/spool.py for the names.
"""

from __future__ import annotations

import bisect
import hashlib
import os
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import msgspec

from services.ingest.media import OpenSegment
from shared.domain import Fragment, Segment
from shared.errors import Kind, LamppostError
from shared.spool import RecorderSpool, item_name

MAX_LISTED = 1_000
MAX_LISTED_BYTES = 12 * 1024 * 1024
_START_DIGITS = 20
_ID_CHARS = 36


class Listed(Segment, frozen=True, kw_only=True):
    """One segment of a listing; `open` while it is being written."""

    open: bool = False


class Bytes(NamedTuple):
    """An open file of a segment and up to where it is whole."""

    raw: FileIO
    size_bytes: int

    def close(self) -> None:
        self.raw.close()


_decoder = msgspec.json.Decoder(Listed)


class SpoolView:
    """Reads one recorder's folder."""

    def __init__(self, spool: RecorderSpool) -> None:
        self._spool = spool

    def listing(self, camera_id: str, start_us: int, end_us: int) -> tuple[list[Listed], bool]:
        """Filed segments of [start, end), in order of time, and whether some were left off."""
        found: list[Listed] = []
        size = 0
        for name in self._candidates(camera_id, start_us, end_us):
            try:
                data = (self._spool.new / (name + ".json")).read_bytes()
                segment = _decoder.decode(data)
            except (FileNotFoundError, msgspec.MsgspecError):
                continue  # Archived meanwhile, or for the archive to set aside.
            if segment.end_us <= start_us or segment.start_us >= end_us:
                continue
            size += len(data)
            if len(found) >= MAX_LISTED or size > MAX_LISTED_BYTES:
                return found, True
            found.append(segment)
        return found, False

    def _candidates(self, camera_id: str, start_us: int, end_us: int) -> list[str]:
        """Names of the camera that start in the range, and the two before: they may reach in."""
        starts = sorted(
            (int(name[:_START_DIGITS]), name)
            for name in self._videos()
            if name[_START_DIGITS + 1 : -_ID_CHARS - 1] == camera_id
        )
        first = bisect.bisect_left(starts, (start_us, ""))
        after = bisect.bisect_left(starts, (end_us, ""))
        return [name for _, name in starts[max(0, first - 2) : after]]

    def _videos(self) -> Iterable[str]:
        with os.scandir(self._spool.new) as entries:
            for entry in entries:
                name = entry.name
                if name.endswith(".mp4") and len(name) > _START_DIGITS + _ID_CHARS + 5:
                    yield name.removesuffix(".mp4")

    def find(self, segment_id: str) -> str | None:
        """The name of a filed segment, by a look at all names."""
        return next((name for name in self._videos() if name.endswith("-" + segment_id)), None)

    def open(self, name: str, whole_bytes: int | None) -> Bytes:
        """The file of that name, filed or being written (`whole_bytes` says up to where);
        NOT_FOUND once archived. An open file stays readable when it is moved or removed."""
        # First where it is written, then where it is filed: it moves only in that direction.
        for folder in (self._spool.tmp, self._spool.new):
            path: Path = folder / (name + ".mp4")
            try:
                raw = FileIO(path)
            except FileNotFoundError:
                continue
            size = os.fstat(raw.fileno()).st_size
            if folder == self._spool.tmp:
                size = min(size, whole_bytes or 0)
            return Bytes(raw, size)
        raise LamppostError(Kind.NOT_FOUND, "This segment is no longer in the spool.")


def open_listed(segment: OpenSegment, fragments: tuple[Fragment, ...], recorder: str) -> Listed:
    """A segment that is being written, as far as it is whole."""
    last = fragments[-1]
    return Listed(
        id=segment.id,
        camera_id=segment.camera_id,
        start_us=fragments[0].start_us,
        end_us=last.end_us,
        size_bytes=last.offset + last.size,
        sha256="",
        codec=segment.codec,
        width=segment.width,
        height=segment.height,
        timescale=segment.timescale,
        init_size=len(segment.init),
        init_sha256=hashlib.sha256(segment.init).hexdigest(),
        connection_id=segment.connection_id,
        recorder=recorder,
        epoch=segment.epoch,
        clock_source=segment.clock_source,
        clock_uncertainty_us=segment.clock_uncertainty_us,
        fragments=fragments,
        codec_string=segment.codec_string,
        open=True,
    )


def name_of_open(segment: OpenSegment) -> str:
    """The file name of a segment that is being written."""
    return item_name(segment.camera_id, segment.start_us, segment.id)
