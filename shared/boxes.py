"""The boxes object beside a segment: what detection saw in it, and what it did not look at.

One msgpack array (`SegmentBoxes`) under `ids.boxes_key(segment.key)`, written by the archive, read
by the api and `check`. Times are whole milliseconds after the segment's recorded start, places and
sizes ten-thousandths of the picture, confidences thousandths; names stand in tables that rows point
into. The same facts always give the same bytes, so a write that a crash cut short can be repeated.
docs/architecture.md, "archive".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from shared.coverage import split
from shared.errors import Kind, LamppostError
from shared.intervals import Interval
from shared.messages import Box, FrameAnalysed, FramesPassedOver

FORMAT = "lamppost-boxes/1"
MAX_BYTES = 32 * 1024 * 1024
MAX_COVERS_US = 10_000_000
"""No frame stands for more than this (FrameMeta.covers_us)."""
GATED = "gated"
NOBODY = -1
_PLACE, _CONFIDENCE = 10_000, 1_000


class Model(msgspec.Struct, frozen=True, array_like=True, order=True):
    """What looked: name, SHA-256 of its file (may be unknown: empty), and what it computed in."""

    name: str
    sha256: str
    precision: str


class BoxRow(msgspec.Struct, frozen=True, array_like=True, order=True):
    """One box: `class_at` and `sighting_at` point into the object's tables (-1: no sighting)."""

    class_at: int
    confidence: int
    x: int
    y: int
    w: int
    h: int
    sighting_at: int


class FrameRow(msgspec.Struct, frozen=True, array_like=True, order=True):
    """One frame at `ms`, which stands for the `covers_ms` before it. The last may lie after the
    segment's end: it stands for the end, and a player that draws boxes needs it to glide there."""

    ms: int
    covers_ms: int
    model_at: int
    boxes: tuple[BoxRow, ...]


class PassedRow(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Sampled frames of [start, end) that no detector looked at; may reach past the segment."""

    start_ms: int
    end_ms: int
    frames: int
    reason: str


class SegmentBoxes(msgspec.Struct, frozen=True, array_like=True):
    """See the module. Rows are in order of time."""

    format: str
    segment_id: str
    camera_id: str
    start_us: int
    end_us: int
    classes: tuple[str, ...]
    sightings: tuple[str, ...]
    models: tuple[Model, ...]
    frames: tuple[FrameRow, ...]
    passed: tuple[PassedRow, ...]

    @property
    def is_empty(self) -> bool:
        return not self.frames and not self.passed


class Seen(NamedTuple):
    """The sums of a segment row."""

    analysed_us: int
    gated_us: int
    dropped_us: int


class Frame(NamedTuple):
    """One frame with its names, as it was sent."""

    capture_us: int
    model: Model
    boxes: tuple[Box, ...]


_decoder = msgspec.msgpack.Decoder(SegmentBoxes)
_Plain = dict[int, tuple[int, Model, tuple[tuple[str, int, int, int, int, int, str], ...]]]
"""By `ms`: covers, model, boxes with their names."""


def covered(event: FrameAnalysed | FramesPassedOver) -> Interval:
    """The time that a message tells of; empty for a frame that stands for none."""
    if isinstance(event, FramesPassedOver):
        return event.start_us, event.end_us
    covers_us = min(max(0, event.covers_us), MAX_COVERS_US)
    return event.capture_us - covers_us, event.capture_us


def touches(event: FrameAnalysed | FramesPassedOver, start_us: int, end_us: int) -> bool:
    """Whether it belongs to a segment recorded in [start, end)."""
    first_us, last_us = covered(event)
    inside = isinstance(event, FrameAnalysed) and start_us <= event.capture_us < end_us
    return inside or (first_us < last_us and first_us < end_us and last_us > start_us)


def build(
    segment_id: str,
    camera_id: str,
    start_us: int,
    end_us: int,
    events: Iterable[FrameAnalysed | FramesPassedOver],
) -> SegmentBoxes:
    """The object of a segment recorded in [start, end), of those messages that belong to it, in
    whatever order and however often they came."""
    frames: _Plain = {}
    passed: set[PassedRow] = set()
    for event in events:
        if not touches(event, start_us, end_us):
            continue
        first_us, last_us = covered(event)
        first_ms, last_ms = (first_us - start_us) // 1000, (last_us - start_us) // 1000
        if isinstance(event, FramesPassedOver):
            passed.add(PassedRow(first_ms, last_ms, event.frames, event.reason))
        else:
            model = Model(event.model, event.model_sha256, event.precision)
            _keep(frames, last_ms, (last_ms - first_ms, model, tuple(map(_plain, event.boxes))))
    return _made(segment_id, camera_id, start_us, end_us, frames, passed)


def merge(one: SegmentBoxes, other: SegmentBoxes) -> SegmentBoxes:
    """What both tell of the same segment."""
    frames: _Plain = {}
    for each in (one, other):
        for row in each.frames:
            boxes = tuple(
                (each.classes[box.class_at], box.confidence, box.x, box.y, box.w, box.h,
                 "" if box.sighting_at == NOBODY else each.sightings[box.sighting_at])
                for box in row.boxes
            )  # fmt: skip
            _keep(frames, row.ms, (row.covers_ms, each.models[row.model_at], boxes))
    passed = {*one.passed, *other.passed}
    return _made(one.segment_id, one.camera_id, one.start_us, one.end_us, frames, passed)


def encode(boxes: SegmentBoxes) -> bytes:
    """Its bytes."""
    return msgspec.msgpack.encode(boxes)


def decode(data: bytes) -> SegmentBoxes:
    """Back again; CORRUPT when it is not one, or points outside its tables."""
    try:
        found = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise LamppostError(Kind.CORRUPT, f"Not a boxes object: {error}.") from error
    counts = len(found.classes), len(found.sightings), len(found.models)
    sound = found.format == FORMAT and all(
        0 <= row.model_at < counts[2]
        and all(
            0 <= box.class_at < counts[0] and NOBODY <= box.sighting_at < counts[1]
            for box in row.boxes
        )
        for row in found.frames
    )
    if not sound:
        raise LamppostError(Kind.CORRUPT, f"Not a boxes object of format {FORMAT}.")
    return found


def seen(boxes: SegmentBoxes) -> Seen:
    """The sums of its segment's row: microseconds analysed, gated and dropped of the recorded
    interval, each instant once, the rest seen by nobody."""
    span = 0, boxes.end_us - boxes.start_us
    analysed = [((row.ms - row.covers_ms) * 1000, row.ms * 1000) for row in boxes.frames]
    gated = [_us(row) for row in boxes.passed if row.reason == GATED]
    dropped = [_us(row) for row in boxes.passed if row.reason != GATED]
    return Seen(*split(span, analysed, gated, dropped))


def frames(boxes: SegmentBoxes, start_us: int = 0, end_us: int = 1 << 62) -> Iterator[Frame]:
    """Its frames captured in [start, end), in order, as messages have them."""
    for row in boxes.frames:
        capture_us = boxes.start_us + row.ms * 1000
        if start_us <= capture_us < end_us:
            found = tuple(_box(boxes, box) for box in row.boxes)
            yield Frame(capture_us, boxes.models[row.model_at], found)


def _box(boxes: SegmentBoxes, row: BoxRow) -> Box:
    return Box(
        boxes.classes[row.class_at],
        row.confidence / _CONFIDENCE,
        row.x / _PLACE,
        row.y / _PLACE,
        row.w / _PLACE,
        row.h / _PLACE,
        "" if row.sighting_at == NOBODY else boxes.sightings[row.sighting_at],
    )


def _plain(box: Box) -> tuple[str, int, int, int, int, int, str]:
    x, y, w, h = (round(part * _PLACE) for part in (box.x, box.y, box.w, box.h))
    return box.class_name, round(box.confidence * _CONFIDENCE), x, y, w, h, box.sighting_id


def _keep(
    found: _Plain,
    ms: int,
    frame: tuple[int, Model, tuple[tuple[str, int, int, int, int, int, str], ...]],
) -> None:
    """Of two results for one frame the same one always: that of more boxes, and so on."""
    other = found.get(ms)
    if other is None or (len(frame[2]), frame) > (len(other[2]), other):
        found[ms] = frame


def _made(
    segment_id: str,
    camera_id: str,
    start_us: int,
    end_us: int,
    plain: _Plain,
    passed: set[PassedRow],
) -> SegmentBoxes:
    """Names go into tables in order of their first use."""
    classes: dict[str, int] = {}
    sightings: dict[str, int] = {"": NOBODY}
    models: dict[Model, int] = {}
    rows = []
    for ms, (covers_ms, model, boxes) in sorted(plain.items()):
        drawn = tuple(
            BoxRow(
                classes.setdefault(name, len(classes)),
                *(confidence, x, y, w, h),
                sightings.setdefault(sighting_id, len(sightings) - 1),
            )
            for name, confidence, x, y, w, h, sighting_id in boxes
        )
        rows.append(FrameRow(ms, covers_ms, models.setdefault(model, len(models)), drawn))
    return SegmentBoxes(
        FORMAT,
        segment_id,
        camera_id,
        start_us,
        end_us,
        tuple(classes),
        tuple(name for name in sightings if name),
        tuple(models),
        tuple(rows),
        tuple(sorted(passed)),
    )


def _us(row: PassedRow) -> Interval:
    return row.start_ms * 1000, row.end_ms * 1000
