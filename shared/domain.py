"""Values of the domain. Times are UTC microseconds, intervals half-open, sizes bytes.

Names are the glossary's (docs/glossary.md). These are immutable values (msgspec structs): they
cross the bus, the spool and the database, so a field is added with a default and never retyped.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

Point = tuple[float, float]
"""Normalised x, y in 0..1, origin at the top left."""


class SiteKind(StrEnum):
    GOVERNMENT_BUILDING = "government_building"
    LAMP_POST = "lamp_post"
    SMART_LAMP_POST = "smart_lamp_post"


class Purpose(StrEnum):
    """Why a person searches or watches; a camera lists the ones it may serve."""

    CRIME_INVESTIGATION = "crime_investigation"
    PUBLIC_SAFETY = "public_safety"
    TRAFFIC_INCIDENT = "traffic_incident"
    COURT_ORDER = "court_order"
    COMPLAINT = "complaint"
    DATA_ACCESS_REQUEST = "data_access_request"
    MAINTENANCE = "maintenance"
    AUDIT = "audit"


class GapReason(StrEnum):
    """Why a camera-second was not recorded. `unaccounted` is not one: it is the lack of a row."""

    CONNECTING = "connecting"
    UNREACHABLE = "unreachable"
    CREDENTIALS_REFUSED = "credentials_refused"
    STREAM_NOT_FOUND = "stream_not_found"
    HOST_NOT_ALLOWED = "host_not_allowed"
    CONNECTION_LOST = "connection_lost"
    SILENT = "silent"
    FROZEN = "frozen"
    AUDIO_ONLY = "audio_only"
    UNSUPPORTED_CODEC = "unsupported_codec"
    ENCRYPTED = "encrypted"
    BROKEN_STREAM = "broken_stream"
    NO_KEY_FRAME = "no_key_frame"
    TIMESTAMP_JUMP = "timestamp_jump"
    SOURCE_ENDED = "source_ended"
    RECORDER_DOWN = "recorder_down"
    RECORDER_STOPPED = "recorder_stopped"
    MOVED = "moved"
    SPOOL_FULL = "spool_full"
    DISK_LOW = "disk_low"
    OVER_CAPACITY = "over_capacity"
    SEGMENT_DAMAGED = "segment_damaged"
    MASK_NOT_BUILT = "mask_not_built"
    DISABLED = "disabled"
    MAINTENANCE = "maintenance"
    LATE_REFUSED = "late_refused"


class RecordingState(StrEnum):
    """What a camera's recorder is doing now."""

    RECORDING = "recording"
    CONNECTING = "connecting"
    RETRYING = "retrying"
    REFUSED = "refused"
    DISABLED = "disabled"
    MAINTENANCE = "maintenance"
    STOPPED = "stopped"


class ClockSource(StrEnum):
    """Where a capture time comes from."""

    RTCP_SENDER_REPORT = "rtcp_sender_report"
    RECEIPT = "receipt"
    FILE_REPLAY = "file_replay"


class Codec(StrEnum):
    H264 = "h264"
    H265 = "h265"


class Source(msgspec.Struct, frozen=True):
    """Where a camera's pictures come from.

    `url` is `rtsp://`, `rtsps://` or `file:///` below a configured folder, never with a password:
    `secret` names one (settings `ingest.secrets_dir`). `offset_s` starts a replayed file elsewhere
    than at its beginning; `speed` replays it faster than real time. `loop` repeats it.
    """

    url: str
    sub_url: str | None = None
    secret: str | None = None
    transport: Literal["tcp", "udp"] = "tcp"
    offset_s: float = 0.0
    speed: float = 1.0
    loop: bool = True


class Mask(msgspec.Struct, frozen=True):
    """A static privacy mask: polygons in normalised coordinates, and who burns them in."""

    polygons: tuple[tuple[Point, ...], ...] = ()
    applied_by: Literal["camera", "lamppost"] = "camera"


class Maintenance(msgspec.Struct, frozen=True):
    """Planned maintenance; seconds not recorded inside it are a gap with that reason."""

    start_us: int
    end_us: int
    note: str = ""


class Camera(msgspec.Struct, frozen=True, kw_only=True):
    """A camera's configuration, without secrets: the value of topic `cameras`."""

    id: str
    name: str
    source: Source
    district: str = ""
    site_kind: SiteKind = SiteKind.LAMP_POST
    latitude: float | None = None
    longitude: float | None = None
    enabled: bool = True
    sample_fps: float | None = None
    """Analysis frames a second; None: 2 from a sub stream, else key frames only."""
    mask: Mask = Mask()
    maintenance: tuple[Maintenance, ...] = ()
    purposes: tuple[Purpose, ...] = tuple(Purpose)
    version: int = 1
    created_at_us: int = 0
    deleted_at_us: int | None = None


class Fragment(msgspec.Struct, frozen=True, array_like=True):
    """One moof+mdat pair of a segment file: `size` bytes at `offset`."""

    offset: int
    size: int
    start_us: int
    end_us: int
    key: bool
    """Whether it begins with a key frame."""
    sha256: bytes
    samples: int = 0
    base_time: int = 0
    """`tfdt` in the media timescale."""


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A finished recording of about 60 s: one fragmented MP4 file, its times and hashes.

    `start_us`/`end_us` is the recorded interval, `effective_*` the part of it that counts where two
    recorders overlap (the higher epoch wins). `init_size` bytes (ftyp+moov) precede the first
    fragment. `connection_id` is one connection to the camera: `tfdt` runs on across its segments.
    """

    id: str
    camera_id: str
    start_us: int
    end_us: int
    size_bytes: int
    sha256: str
    codec: Codec
    width: int
    height: int
    timescale: int
    init_size: int
    init_sha256: str
    connection_id: str
    recorder: str
    epoch: int
    clock_source: ClockSource
    clock_uncertainty_us: int
    fragments: tuple[Fragment, ...] = ()
    clock_offset_us: int = 0
    """Camera clock minus server clock, as measured; 0 when unknown."""
    codec_string: str = ""
    """RFC 6381, such as `avc1.64001f`."""
    repaired: bool = False
    software: str = ""


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """An interval of an active camera that was not recorded, and why."""

    id: str
    camera_id: str
    start_us: int
    end_us: int
    reason: GapReason
    detail: str = ""
    recorder: str = ""
    epoch: int = 0


class HoldReason(StrEnum):
    CRIMINAL_INVESTIGATION = "criminal_investigation"
    COURT_ORDER = "court_order"
    COMPLAINT = "complaint"
    DATA_ACCESS_REQUEST = "data_access_request"
    CORONER = "coroner"
    SENDING = "sending"
    """Of system holds only: a clip is being sent."""


class HoldKind(StrEnum):
    OFFICER = "officer"
    SYSTEM = "system"
    """Placed by the program while a clip that it covers is being sent; 2 h at most."""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A predicate: cameras x [start, end). Never a list of segments.

    In force from `placed_at_us` until the first of release, lapse and `ends_at_us`.
    `lapses_at_us` is None once confirmed by a second person (not built yet).
    """

    id: str
    kind: HoldKind = HoldKind.OFFICER
    camera_ids: tuple[str, ...]
    start_us: int
    end_us: int
    case_ref: str
    reason: HoldReason
    note: str = ""
    requester_id: str
    officers: tuple[str, ...] = ()
    """User ids who may view after expiry, renew and release; the requester is always one."""
    request_sha256: str = ""
    placed_at_us: int
    lapses_at_us: int | None = None
    review_at_us: int | None = None
    ends_at_us: int | None = None
    renewed_at_us: int | None = None
    released_at_us: int | None = None
    released_by: str | None = None
    release_note: str = ""


class Role(StrEnum):
    OPERATOR = "operator"
    ANALYST = "analyst"
    INVESTIGATOR = "investigator"
    APPROVER = "approver"
    PRIVACY_OFFICER = "privacy_officer"
    AUDITOR = "auditor"
    SYSADMIN = "sysadmin"
    SERVICE = "service"
