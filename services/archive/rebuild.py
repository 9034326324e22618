"""A segment's facts made anew from its object alone, for bytes that lost their row.

The key says camera, recording date, start and id; the file says everything else but the clock. So
the start is the recorder's own, the times in it are media times, and nobody knows any more how good
the camera's clock was: source and uncertainty are the cautious ones. Pure but for the pieces, which
are read one after the other; memory holds one fragment. See docs/architecture.md, "archive".
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import date
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from services.archive.filing import MAX_SEGMENT_US
from shared import civil, fmp4, ids
from shared.clock import SECOND_US
from shared.domain import ClockSource, Fragment, Segment
from shared.errors import Kind, LamppostError
from shared.fmp4 import InitInfo

MAX_PART = 64 * 1024 * 1024
"""No fragment of a second is as large; what is, is none of ours."""
UNCERTAINTY_US = 10 * SECOND_US
"""Wider than any recorder states: a hold beside it keeps more, never less."""
DRIFT_US = 60 * SECOND_US
"""How far media time may stand from the date in the key."""
ADOPTED = "adopted"


class Place(NamedTuple):
    """What an object's key says."""

    camera_id: str
    day: date
    start_us: int
    segment_id: str


def place_of(key: str) -> Place:
    """The parts of a key, which `ids.object_key` wrote; INVALID when it is not one."""
    if not ids.OBJECT_KEY.match(key):
        raise LamppostError(Kind.INVALID, f"{key!r} is not the key of an object.")
    _, day, camera_id, name = key.split("/")
    start, segment_id = name.rpartition(".")[0].split("-", 1)
    try:
        found = date.fromisoformat(day)
        start_us = civil.parse_instant(
            f"{start[:8]}T{start[9:15]}.{start[15:21]}+00:00", civil.zone("UTC")
        )
    except (LamppostError, ValueError) as error:
        raise LamppostError(Kind.INVALID, f"The key {key!r} has no such date: {error}.") from error
    return Place(camera_id, found, start_us, segment_id)


def latest_end_us(place: Place, zone: ZoneInfo) -> int:
    """No footage under this key can end later: by its date, and because no segment is longer."""
    day_end_us = civil.day_bounds_us(place.day, zone)[1]
    return max(place.start_us + 1, min(day_end_us, place.start_us + MAX_SEGMENT_US))


class _Part(NamedTuple):
    """One fragment, in media time."""

    offset: int
    size: int
    base_time: int
    duration: int
    key: bool
    samples: int
    sha256: bytes


class _Parser:
    """Takes a file in pieces of any size and keeps no more than what is not whole yet."""

    def __init__(self) -> None:
        self.init: InitInfo | None = None
        self.init_sha256 = ""
        self.parts: list[_Part] = []
        self.size = 0
        self.sha256 = hashlib.sha256()
        self._buffer = bytearray()
        self._offset = 0

    def feed(self, piece: bytes) -> None:
        self.size += len(piece)
        self.sha256.update(piece)
        self._buffer += piece
        while self._take():
            pass
        if len(self._buffer) > MAX_PART:
            raise LamppostError(Kind.CORRUPT, f"It has a part of over {MAX_PART} bytes.")

    def _take(self) -> bool:
        """Take the init section or the next fragment from the front, if it is whole."""
        if self.init is None:
            moov = fmp4.find(self._buffer, None, b"moov")
            if moov is None:
                return False
            self.init = fmp4.parse_init(self._buffer)
            self.init_sha256 = hashlib.sha256(self._buffer[: self.init.size]).hexdigest()
            self._drop(self.init.size)
            return True
        found = next(fmp4.parse_fragments(self._buffer), None)
        if found is None or found.offset != 0:
            return False
        raw = self._buffer[: found.end]
        self.parts.append(
            _Part(
                self._offset,
                found.size,
                found.base_time,
                found.duration,
                found.key,
                len(found.samples),
                hashlib.sha256(raw).digest(),
            )
        )
        self._drop(found.end)
        return True

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._offset += count

    def finish(self) -> InitInfo:
        """The init section, once all is read; CORRUPT when anything is left or missing."""
        if self.init is None or not self.parts:
            raise LamppostError(Kind.CORRUPT, "It holds no recording.")
        if self._buffer:
            raise LamppostError(Kind.CORRUPT, f"Its last {len(self._buffer)} bytes are no whole.")
        return self.init


async def rebuild(
    pieces: AsyncIterator[bytes], place: Place, zone: ZoneInfo, ceiling_us: int
) -> Segment:
    """The segment of a file; CORRUPT when it is not whole, or does not fit its key.

    No time lies after `ceiling_us`, when the store had received it (invariant 10).
    """
    parser = _Parser()
    async for piece in pieces:
        parser.feed(piece)
    init = parser.finish()
    fragments = _timed(parser.parts, init.timescale, place, ceiling_us)
    fragments = _fit_date(fragments, place, zone, ceiling_us)
    return Segment(
        id=place.segment_id,
        camera_id=place.camera_id,
        start_us=place.start_us,
        end_us=fragments[-1].end_us,
        size_bytes=parser.size,
        sha256=parser.sha256.hexdigest(),
        codec=init.codec,
        width=init.width,
        height=init.height,
        timescale=init.timescale,
        init_size=init.size,
        init_sha256=parser.init_sha256,
        connection_id=ids.derived_id(ADOPTED, place.segment_id),
        recorder=ADOPTED,
        epoch=0,
        clock_source=ClockSource.RECEIPT,
        clock_uncertainty_us=UNCERTAINTY_US,
        fragments=tuple(fragments),
        codec_string=init.codec_string,
        repaired=True,
    )


def _timed(parts: list[_Part], timescale: int, place: Place, ceiling_us: int) -> list[Fragment]:
    """Media times from the key's start on, drawn together where they would pass the receipt."""
    first, last = parts[0].base_time, parts[-1]
    length_us = (last.base_time + last.duration - first) * SECOND_US // timescale
    room_us = min(length_us, ceiling_us - place.start_us)
    start_us = place.start_us
    fragments = []
    for part in parts:
        media_us = (part.base_time + part.duration - first) * SECOND_US // timescale
        end_us = place.start_us + media_us * room_us // max(1, length_us)
        if end_us <= start_us:
            raise LamppostError(
                Kind.CORRUPT, "Its times run backwards, or begin after its receipt."
            )
        fragments.append(
            Fragment(
                offset=part.offset,
                size=part.size,
                start_us=start_us,
                end_us=end_us,
                key=part.key,
                sha256=part.sha256,
                samples=part.samples,
                base_time=part.base_time,
            )
        )
        start_us = end_us
    return fragments


def _fit_date(
    fragments: list[Fragment], place: Place, zone: ZoneInfo, ceiling_us: int
) -> list[Fragment]:
    """The recorder knew the date of the last picture; media time may miss midnight by a little."""
    first_us, end_us = civil.day_bounds_us(place.day, zone)
    last = fragments[-1]
    fitted = min(max(last.end_us, first_us + 1), end_us)
    fits = last.start_us < fitted <= ceiling_us and abs(fitted - last.end_us) <= DRIFT_US
    if not fits or fitted - place.start_us > MAX_SEGMENT_US:
        raise LamppostError(Kind.CORRUPT, "Its times do not fit the date of its key.")
    return [*fragments[:-1], msgspec.structs.replace(last, end_us=fitted)]
