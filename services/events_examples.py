"""One example of every event, for docs/ref: made of the types, so that it cannot be wrong."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from services.api import relay_notices
from services.api.relay_notices import (
    GapNotice,
    LinePassed,
    Notice,
    SegmentNotice,
    SightingNotice,
    StatusNotice,
    ZoneStay,
)
from shared import civil
from shared.clock import DAY_US, SECOND_US
from shared.domain import Camera, GapReason, RecordingState, Source
from shared.messages import (
    Box,
    CameraChanged,
    DetectorStatus,
    FrameAnalysed,
    FramesPassedOver,
    GapRecorded,
    RecorderStatus,
    SegmentArchived,
    SegmentPurged,
    SightingUpdated,
    StatusChanged,
)
from shared.sightings import (
    Best,
    Colour,
    Colours,
    LineCrossing,
    PathPoint,
    Sighting,
    Speed,
    Zone,
    ZoneVisit,
)

AT_US = civil.parse_instant("2026-11-25T14:02:00", civil.zone("Asia/Hong_Kong"))
END_US = AT_US + 8 * SECOND_US + 1
CAMERA = "mk-argyle-01"
SEEN = "6f1d2f8e-6a0e-5f9b-9b57-0d8e3c0f4a11"
SEGMENT = "0c3a5b7e-1111-4f0e-8a55-2c7f6f1a9b02"
TOMBSTONE = "b1b0a6f4-2222-4d7c-9a55-7e1f3a9b0c03"
MODEL_SHA256 = "5f" * 32

_SIGHTING = Sighting(
    id=SEEN,
    camera_id=CAMERA,
    class_name="person",
    group="person",
    start_us=AT_US,
    end_us=END_US,
    confidence=0.91,
    frames=16,
    path=(PathPoint(0, 0.21, 0.66, 0.24), PathPoint(8000, 0.74, 0.71, 0.27)),
    zones=(ZoneVisit("z-1", "crossing", AT_US + 2 * SECOND_US, AT_US + 5 * SECOND_US),),
    lines=(LineCrossing("l-1", "kerb", AT_US + 2 * SECOND_US, 1, "towards the road"),),
    colours=Colours(upper=Colour.RED, lower=Colour.BLACK),
    speed=Speed.WALKING,
    best=Best(AT_US + 4 * SECOND_US, (0.44, 0.42, 0.08, 0.27), 0.91),
    model="coco-ssd-480x640",
    model_sha256=MODEL_SHA256,
    precision="f32",
    uncertainty_us=120_000,
)
BUS: dict[str, msgspec.Struct] = {
    "camera.changed": CameraChanged(
        Camera(
            id=CAMERA,
            name="Argyle Street at Nathan Road",
            source=Source(url="rtsp://10.20.0.7/main", secret=CAMERA),
            district="Mong Kok",
            created_at_us=AT_US,
        ),
        (
            Zone(
                id="z-1", kind="zone", name="crossing", points=((0.3, 0.5), (0.6, 0.5), (0.6, 0.9))
            ),
        ),
    ),
    "segment.archived": SegmentArchived(
        SEGMENT, CAMERA, AT_US, AT_US + 60 * SECOND_US, 15_204_113, "ab" * 32, AT_US + 30 * DAY_US
    ),
    "segment.purged": SegmentPurged(SEGMENT, CAMERA, AT_US, AT_US + 60 * SECOND_US, TOMBSTONE),
    "camera.status": StatusChanged(
        camera_id=CAMERA,
        state=RecordingState.RECORDING,
        since_us=AT_US,
        at_us=AT_US + 5 * SECOND_US,
        recorder="ingest-1",
        epoch=7,
        recorder_url="http://10.30.0.4:8601",
        codec="h264",
        width=1920,
        height=1080,
        rate_fps=25.0,
        bitrate_bps=2_000_000.0,
        accounted_until_us=AT_US + 5 * SECOND_US - 160_000,
    ),
    "camera.gap": GapRecorded(
        "g-20261125-1", CAMERA, AT_US, AT_US + 3 * SECOND_US, GapReason.CONNECTION_LOST
    ),
    "recorder.status": RecorderStatus(
        recorder="ingest-1",
        at_us=AT_US,
        epoch=7,
        url="http://10.30.0.4:8601",
        cameras=(CAMERA,),
        spool_items=2,
        spool_bytes=30_400_000,
        free_bytes=812_000_000_000,
    ),
    "detector.status": DetectorStatus(
        worker="detect-1",
        at_us=AT_US,
        model="coco-ssd-480x640",
        precision="f32",
        cameras=15,
        analysed=18_204,
        skipped=12,
        lag_s=0.4,
    ),
    "frame.analysed": FrameAnalysed(
        camera_id=CAMERA,
        capture_us=AT_US,
        covers_us=500_000,
        epoch=7,
        sequence=812,
        width=640,
        height=360,
        model="coco-ssd-480x640",
        precision="f32",
        boxes=(Box("person", 0.91, 0.44, 0.42, 0.08, 0.27, SEEN),),
    ),
    "frames.passed_over": FramesPassedOver(CAMERA, AT_US, AT_US + 10 * SECOND_US, 20, "gated"),
    "sighting.updated": SightingUpdated(_SIGHTING, False, END_US + 200_000),
}


def _sighting(*, ended: bool) -> SightingNotice:
    return SightingNotice(
        sighting_id=SEEN,
        camera_id=CAMERA,
        class_name="person",
        start=civil.rfc3339(AT_US),
        end=civil.rfc3339(END_US),
        confidence=0.91,
        speed=Speed.WALKING,
        ended=ended,
        expires_at=civil.rfc3339(AT_US + 31 * DAY_US),
        colours=Colours(upper=Colour.RED, lower=Colour.BLACK),
        zones=(
            ZoneStay(
                "z-1",
                "crossing",
                civil.rfc3339(AT_US + 2 * SECOND_US),
                civil.rfc3339(AT_US + 5 * SECOND_US),
            ),
        ),
        lines=(LinePassed("l-1", "kerb", civil.rfc3339(AT_US + 2_000_000), "towards the road"),),
    )


_SPAN = {"start": civil.rfc3339(AT_US), "end": civil.rfc3339(AT_US + 60 * SECOND_US)}
OUTSIDE: dict[str, msgspec.Struct] = {
    "sighting.begun": _sighting(ended=False),
    "sighting.updated": _sighting(ended=False),
    "sighting.ended": _sighting(ended=True),
    "camera.status": StatusNotice(
        camera_id=CAMERA,
        state=RecordingState.RETRYING,
        since=civil.rfc3339(AT_US),
        at=civil.rfc3339(AT_US),
        reason=GapReason.CONNECTION_LOST,
    ),
    "camera.gap": GapNotice(
        gap_id="g-20261125-1", camera_id=CAMERA, reason=GapReason.CONNECTION_LOST, **_SPAN
    ),
    "segment.archived": SegmentNotice(
        segment_id=SEGMENT,
        camera_id=CAMERA,
        expires_at=civil.rfc3339(AT_US + 31 * DAY_US),
        **_SPAN,
    ),
    "segment.purged": SegmentNotice(
        segment_id=SEGMENT, camera_id=CAMERA, tombstone_id=TOMBSTONE, **_SPAN
    ),
}


def value_of(name: str) -> Any:
    """The example of an event (`sighting.updated`) or notice (`notice.sighting.begun`) as JSON."""
    outside = name.removeprefix("notice.")
    struct = BUS[name] if outside == name else OUTSIDE[outside]
    return json.loads(msgspec.json.encode(struct))


def envelope_of(name: str) -> Any:
    """The example of a notice as a webhook's whole body."""
    event = name.removeprefix("notice.")
    id_ = "1b9d6bcd-bbfd-5b2d-9b5d-ab8dfbbd4bed"
    notice = Notice(event, id_, CAMERA, END_US, END_US, END_US, OUTSIDE[event])
    return json.loads(relay_notices.body_of(notice))
