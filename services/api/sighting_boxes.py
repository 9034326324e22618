"""The boxes of one sighting, out of the boxes objects beside the segments that it lies in.

They are written once a segment's detections have all come; until then the reply says what is
missing instead of guessing it from the path (shared/boxes.py, docs/architecture.md "archive").
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import RowMapping

from services.api import queries_sightings, times
from services.api.context import ApiContext
from shared import boxes, ids, intervals
from shared.errors import Kind, LamppostError
from shared.intervals import Interval
from shared.sightings import Sighting

PENDING, PARTIAL, NOT_RECORDED = "pending", "partial", "not_recorded"


async def boxes_of(context: ApiContext, sighting: Sighting) -> dict[str, Any]:
    """The members of a `BoxesOut`."""
    zone = context.zone
    span = (sighting.start_us, sighting.end_us)
    async with context.platform.database.read() as connection:
        rows = await queries_sightings.seen_segments(connection, sighting.camera_id, span)
    frames: dict[int, dict[str, Any]] = {}
    missing: list[tuple[Interval, str]] = []
    for row in rows:
        part = (max(span[0], row["start_us"]), min(span[1], row["end_us"]))
        found = await _object(context, row)
        if found is None:
            missing.append((part, PENDING))
            continue
        if row["boxes_partial"]:
            missing.append((part, PARTIAL))
        for frame in boxes.frames(found, sighting.start_us - 1_000, sighting.end_us):
            for box in frame.boxes:
                if box.sighting_id == sighting.id:
                    frames[frame.capture_us] = {
                        "at": times.text(frame.capture_us, zone),
                        "box": (box.x, box.y, box.w, box.h),
                        "confidence": box.confidence,
                        "class": box.class_name,
                    }
    known = [(row["start_us"], row["end_us"]) for row in rows]
    missing += [(part, NOT_RECORDED) for part in intervals.subtract([span], known)]
    return {
        "sighting_id": sighting.id,
        "frames": [frames[at_us] for at_us in sorted(frames)],
        "missing": [
            {
                "start": times.text(start_us, zone),
                "end": times.text(end_us, zone),
                "reason": reason,
            }
            for (start_us, end_us), reason in sorted(missing)
        ],
    }


async def _object(context: ApiContext, row: RowMapping) -> boxes.SegmentBoxes | None:
    """The segment's boxes; None while they are not written, or gone again."""
    if row["boxes_sha256"] is None or (row["boxes_size_bytes"] or 0) > boxes.MAX_BYTES:
        return None
    try:
        data = await context.platform.blobs.read(ids.boxes_key(row["key"]))
    except LamppostError as error:
        if error.kind is Kind.NOT_FOUND:
            return None
        raise
    return boxes.decode(data)
