"""Topics and the messages on them: declared once (docs/architecture.md, "Topics").

Values are JSON of msgspec structs, except `frames`, whose value is JPEG bytes and whose metadata
stand in the headers so that a late frame is skipped before it is decoded. Headers follow the
CloudEvents Kafka binding (`ce_*`).
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar, cast

import msgspec

from shared import ids
from shared.domain import Camera, GapReason, RecordingState
from shared.errors import Kind, LamppostError
from shared.sightings import Sighting, Zone

Headers = tuple[tuple[str, bytes], ...]


class Topic(NamedTuple):
    """One topic: how it is kept, and whether it may lose anything."""

    name: str
    kept_s: int | None
    compacted: bool = False
    durable: bool = True
    max_bytes: int = 256 * 1024


CAMERAS = Topic("cameras", None, compacted=True)
FRAMES = Topic("frames", 60, durable=False, max_bytes=512 * 1024)
DETECTIONS = Topic("detections", 24 * 3600)
SIGHTINGS = Topic("sightings", 24 * 3600)
SEGMENTS = Topic("segments", 24 * 3600)
CAMERA_STATUS = Topic("camera-status", 24 * 3600)
TOPICS: dict[str, Topic] = {
    topic.name: topic for topic in (CAMERAS, FRAMES, DETECTIONS, SIGHTINGS, SEGMENTS, CAMERA_STATUS)
}
DEAD_LETTERS = Topic("dead-letters", 7 * 24 * 3600)
"""Messages of the other topics that their readers could not use (shared/bus/letters.py)."""
ALL_TOPICS: dict[str, Topic] = {**TOPICS, DEAD_LETTERS.name: DEAD_LETTERS}
"""With those that carry no events of their own."""


class CameraChanged(msgspec.Struct, frozen=True, tag="camera.changed", tag_field="type"):
    """Topic `cameras`: a camera as it is now. A deleted camera keeps its last configuration with
    `deleted_at_us` set, so that its recorder is told why to stop."""

    camera: Camera
    zones: tuple[Zone, ...] = ()
    """Its zones and lines as they are now: detection marks sightings with them."""


class SegmentArchived(msgspec.Struct, frozen=True, tag="segment.archived", tag_field="type"):
    """Topic `segments`: bytes durable, hash checked, row committed."""

    segment_id: str
    camera_id: str
    start_us: int
    end_us: int
    size_bytes: int
    sha256: str
    expires_at_us: int


class SegmentPurged(msgspec.Struct, frozen=True, tag="segment.purged", tag_field="type"):
    """Topic `segments`: bytes and row gone, tombstone written."""

    segment_id: str
    camera_id: str
    start_us: int
    end_us: int
    tombstone_id: str


class StatusChanged(msgspec.Struct, frozen=True, tag="camera.status", tag_field="type"):
    """Topic `camera-status`: a recorder says what a camera is doing. Sent at each change and every
    `ingest.status_interval_s`, with where its open segment and live stream are to be had. Of two
    recorders' words the one with the higher `epoch` (of this assignment) counts."""

    camera_id: str
    state: RecordingState
    since_us: int
    at_us: int
    recorder: str
    epoch: int
    reason: GapReason | None = None
    detail: str = ""
    recorder_url: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    rate_fps: float = 0.0
    bitrate_bps: float = 0.0
    clock_offset_us: int | None = None
    frames_sampled: int = 0
    frames_dropped: int = 0
    recorded_us: int = 0
    """Recorded by this recorder process so far."""
    accounted_until_us: int | None = None
    """Every moment of the camera before this is written as video or filed as a gap; none where
    this recorder has done neither yet. Who takes over from a recorder that died begins here."""


class GapRecorded(msgspec.Struct, frozen=True, tag="camera.gap", tag_field="type"):
    """Topic `camera-status`: a gap row was committed."""

    gap_id: str
    camera_id: str
    start_us: int
    end_us: int
    reason: GapReason
    detail: str = ""


class SpoolWaiting(msgspec.Struct, frozen=True):
    """[start, end) of a camera that was recorded and is in the recorder's spool only."""

    camera_id: str
    start_us: int
    end_us: int


class RecorderStatus(msgspec.Struct, frozen=True, tag="recorder.status", tag_field="type"):
    """Topic `camera-status`, keyed by recorder: its spool and where it listens."""

    recorder: str
    at_us: int
    epoch: int
    url: str
    cameras: tuple[str, ...]
    spool_items: int
    spool_bytes: int
    free_bytes: int
    stopped: bool = False
    waiting: tuple[SpoolWaiting, ...] = ()
    """What nobody has filed yet, the segments being written too; neighbours are joined where there
    are too many to name."""
    version: str = ""
    """Of the program; empty from one that does not say."""


class DetectorStatus(msgspec.Struct, frozen=True, tag="detector.status", tag_field="type"):
    """Topic `camera-status`, keyed by worker: what a detect worker does. `detail` says what to do
    while it has no model."""

    worker: str
    at_us: int
    model: str
    """Empty while there is none."""
    precision: str
    cameras: int
    """Whose frames it got in the last minute."""
    analysed: int
    """Frames since its start."""
    skipped: int
    lag_s: float
    """Age of the newest result, from capture to boxes."""
    detail: str = ""
    stopped: bool = False
    started_us: int = 0
    """Which process of this worker speaks: its counts begin anew with each."""
    sightings: int = 0
    """Begun since its start."""
    url: str = ""
    """Where its metrics are, for the api alone; empty while it cannot listen."""
    version: str = ""
    """Of the program; empty from one that does not say."""


class Box(msgspec.Struct, frozen=True, array_like=True):
    """One detection: normalised `x, y, w, h` from the top left, and the sighting it belongs to
    (empty: none yet, or never)."""

    class_name: str
    confidence: float
    x: float
    y: float
    w: float
    h: float
    sighting_id: str = ""


class FrameAnalysed(msgspec.Struct, frozen=True, tag="frame.analysed", tag_field="type"):
    """Topic `detections`: the boxes of one frame, none where nothing was seen.

    `covers_us`: how long before its capture the last sampled frame was, so that seconds analysed
    can be counted.
    """

    camera_id: str
    capture_us: int
    covers_us: int
    epoch: int
    sequence: int
    width: int
    height: int
    model: str
    precision: str
    boxes: tuple[Box, ...]
    model_sha256: str = ""


class FramesPassedOver(msgspec.Struct, frozen=True, tag="frames.passed_over", tag_field="type"):
    """Topic `detections`: sampled frames of [start, end) that no detector looked at, and why:
    `gated` (nothing moved: ingest, runs of at most 10 s), `late`, `decode`, `too_large` (ingest),
    `too_old`, `superseded`, `undecodable`, `no_model` (detect)."""

    camera_id: str
    start_us: int
    end_us: int
    frames: int
    reason: str


class SightingUpdated(
    msgspec.Struct, frozen=True, gc=False, tag="sighting.updated", tag_field="type"
):
    """Topic `sightings`: a sighting, whole, as it is now. `thumbnail` (JPEG) comes with the first
    update that has it and with each better one. After `ended` nothing more comes."""

    sighting: Sighting
    ended: bool
    sent_at_us: int
    thumbnail: bytes | None = None


SegmentEvent = SegmentArchived | SegmentPurged
DetectionEvent = FrameAnalysed | FramesPassedOver
StatusEvent = StatusChanged | GapRecorded | RecorderStatus | DetectorStatus
Event = CameraChanged | SegmentEvent | StatusEvent | DetectionEvent | SightingUpdated

_encoder = msgspec.json.Encoder()
T = TypeVar("T")


@cache
def _decoder(of: Any) -> msgspec.json.Decoder[Any]:
    """Made once a type: to make it costs more than to use it."""
    return msgspec.json.Decoder(of)


def encode(event: Event) -> bytes:
    """The JSON bytes of an event."""
    return _encoder.encode(event)


def decode(value: bytes, of: type[T]) -> T:
    """The event of a value; CORRUPT when it is not one (a poison message)."""
    try:
        event: T = _decoder(cast(Any, of)).decode(value)
        return event
    except msgspec.MsgspecError as error:
        raise LamppostError(Kind.CORRUPT, f"Not a message of this topic: {error}.") from error


def cloud_headers(
    event_type: str,
    source: str,
    at_rfc3339: str,
    event_id: str | None = None,
    content_type: Literal["application/json", "image/jpeg"] = "application/json",
) -> Headers:
    """CloudEvents 1.0 binary-mode headers."""
    return (
        ("ce_specversion", b"1.0"),
        ("ce_type", f"org.lamppost.{event_type}.v1".encode()),
        ("ce_source", source.encode()),
        ("ce_id", (event_id or ids.new_id()).encode()),
        ("ce_time", at_rfc3339.encode()),
        ("content-type", content_type.encode()),
    )


class FrameMeta(NamedTuple):
    """Headers of one analysis frame."""

    camera_id: str
    capture_us: int
    uncertainty_us: int
    width: int
    height: int
    epoch: int
    sequence: int
    covers_us: int = 0
    """Time since the sampled frame before it, gated or not; at most 10 s."""

    def headers(self) -> Headers:
        """As bus headers `lp_*`, decimal text."""
        return tuple(
            (f"lp_{name}", str(value).encode())
            for name, value in zip(self._fields, self, strict=True)
        )

    @classmethod
    def of(cls, headers: Headers) -> FrameMeta:
        """Back from headers; CORRUPT when one is missing or no number."""
        found = dict(headers)
        try:
            return cls(
                found["lp_camera_id"].decode(),
                *(int(found[f"lp_{name}"]) for name in cls._fields[1:]),
            )
        except (KeyError, ValueError, UnicodeDecodeError) as error:
            raise LamppostError(Kind.CORRUPT, f"Frame header missing or wrong: {error}.") from error
