"""Every metric, declared once with help, unit and bounded labels.

docs/ref/metrics.md is generated from this module. Camera id is a label on low-rate gauges only, at
most `CAMERA_SERIES` of them a camera. A gauge that ends in `_timestamp_seconds` is a Unix time, so
that Prometheus tells its age even where nobody sets it any more. Which question each answers stands
on the dashboards (services/dashboards.py), when somebody is told in helm/lamppost/files/rules/.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.samples import Sample

disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()
CAMERA_SERIES = 25
"""Most series that name one camera, over all processes that tell of it."""


def _counter(name: str, help_text: str, labels: tuple[str, ...] = ()) -> Counter:
    return Counter(name, help_text, labels, registry=REGISTRY)


class _Gauge(Gauge):
    """A gauge that has no value before it is set: what a process never measures it does not tell,
    so that the least room, or the oldest time, is not the zero of one that has neither."""

    _was_set = False

    def set(self, value: float) -> None:
        self._was_set = True
        super().set(value)

    def _child_samples(self) -> Iterable[Sample]:
        return super()._child_samples() if self._was_set else ()


def _gauge(name: str, help_text: str, labels: tuple[str, ...] = ()) -> Gauge:
    return _Gauge(name, help_text, labels, registry=REGISTRY)


def _histogram(
    name: str,
    help_text: str,
    labels: tuple[str, ...] = (),
    buckets: tuple[float, ...] = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30),
) -> Histogram:
    return Histogram(name, help_text, labels, registry=REGISTRY, buckets=buckets)


BUILD_INFO = _gauge("lamppost_build_info", "1, with the version that runs.", ("version", "service"))
PROCESS_UP = _gauge(
    "lamppost_process_up",
    "1 where a recorder's or detect worker's metrics are in this answer, 0 where they are missing.",
    ("process",),
)

CAMERA_UP = _gauge("lamppost_camera_recording", "1 while the camera is recorded.", ("camera",))
CAMERA_CLOCK_OFFSET = _gauge(
    "lamppost_camera_clock_offset_seconds", "Camera clock minus server clock.", ("camera",)
)
CAMERA_BITRATE = _gauge(
    "lamppost_camera_bits_per_second", "Bit rate of what is recorded.", ("camera",)
)
CAMERA_HOLE_SINCE = _gauge(
    "lamppost_camera_hole_since_timestamp_seconds",
    "Since when a camera that should be recorded is not, and why; absent while it is.",
    ("camera", "reason"),
)
CAMERA_MISSING = _gauge(
    "lamppost_camera_missing_seconds",
    "Seconds of the last 24 h without footage: the three longest reasons, other, unaccounted.",
    ("camera", "reason"),
)
CAMERAS = _gauge(
    "lamppost_cameras",
    "Cameras by what their recorder said last; unknown: no recorder has it.",
    ("state",),
)
RECORDED_SECONDS = _counter("lamppost_recorded_seconds", "Video seconds filed.")
RECORDED_BYTES = _counter("lamppost_recorded_bytes", "Bytes of video written to the spool.")
GAP_SECONDS = _counter(
    "lamppost_gap_seconds", "Camera-seconds not recorded, by reason.", ("reason",)
)
RECONNECTS = _counter("lamppost_reconnects", "Connections begun again, by reason.", ("reason",))
FRAMES_SAMPLED = _counter("lamppost_frames_sampled", "Analysis frames published.")
FRAMES_DROPPED = _counter("lamppost_frames_dropped", "Analysis frames not published.", ("reason",))
FRAMES_RECEIVED = _counter("lamppost_frames_received", "Analysis frames that reached detection.")
FRAMES_SKIPPED = _counter(
    "lamppost_frames_skipped", "Analysis frames skipped from their header, by reason.", ("reason",)
)
FRAMES_ANALYSED = _counter("lamppost_frames_analysed", "Analysis frames that a detector looked at.")
LOOKED_SECONDS = _counter(
    "lamppost_looked_seconds",
    "Camera-seconds by outcome: analysed, gated (nothing moved), else why nobody looked.",
    ("outcome",),
)
DETECT_SECONDS = _histogram("lamppost_detect_seconds", "Forward pass of one batch of frames.")
FRAME_AGE_SECONDS = _histogram(
    "lamppost_frame_age_seconds", "Capture of a frame to its boxes published."
)
TRACKS = _gauge("lamppost_tracks", "Things being followed now.")
SIGHTINGS_SENT = _counter("lamppost_sightings_sent", "Sightings begun, by class.", ("class_name",))
DETECTIONS_DROPPED = _counter(
    "lamppost_detections_dropped", "Results that could not be published, by topic.", ("topic",)
)
SIGHTINGS_INDEXED = _counter("lamppost_sightings_indexed", "Updates of sightings written.")
SIGHTING_AGE_SECONDS = _histogram(
    "lamppost_sighting_age_seconds",
    "What a search finds: last seen to row written, of each update.",
    buckets=(1, 2, 5, 10, 20, 30, 60, 120, 300, 900),
)
SIGHTINGS_CLOSED = _counter(
    "lamppost_sightings_closed", "Sightings closed because nothing more came for 60 s."
)
BOXES_WRITTEN = _counter(
    "lamppost_boxes_written", "Boxes objects written beside segments.", ("outcome",)
)
BOXES_DROPPED = _counter(
    "lamppost_boxes_dropped", "Results of detection that no boxes object took.", ("reason",)
)
LIVE_CLIENTS = _gauge("lamppost_live_clients", "Readers of live streams.")
LIVE_DROPPED = _counter("lamppost_live_dropped", "Live readers dropped because they were slow.")
SPOOL_ITEMS = _gauge("lamppost_spool_items", "Files of a recorder waiting in its spool.")
SPOOL_BYTES = _gauge("lamppost_spool_bytes", "Bytes of a recorder waiting in its spool.")
SPOOL_ROOM_BYTES = _gauge(
    "lamppost_spool_room_bytes", "Bytes that may still be written before recording stops."
)
DISK_FREE_RATIO = _gauge("lamppost_disk_free_ratio", "Free share of the volume.", ("volume",))
DISK_FREE_BYTES = _gauge(
    "lamppost_disk_free_bytes", "Free bytes: spool, state, store (what may be filled).", ("volume",)
)
DISK_BYTES = _gauge("lamppost_disk_bytes", "Size of the same.", ("volume",))

BUS_DROPPED = _counter("lamppost_bus_dropped", "Records dropped by a topic that may.", ("topic",))
BUS_POISON = _counter("lamppost_bus_poison", "Messages set aside as unreadable.", ("topic",))
OUTBOX_ROWS = _gauge("lamppost_outbox_rows", "Events waiting in the outbox.", ("service",))
OUTBOX_OLDEST = _gauge(
    "lamppost_outbox_oldest_timestamp_seconds",
    "When the oldest event that waits in the outbox was written; 0: none waits.",
    ("service",),
)
AUDIT_RECORDS = _counter("lamppost_audit_records", "Audit records written.")
AUDIT_FAILURES = _counter(
    "lamppost_audit_failures", "Requests refused because their audit record could not be written."
)
DATABASE_SECONDS = _histogram(
    "lamppost_database_seconds",
    "Transactions: read, write, and begin, the wait for one.",
    ("operation",),
)
STORE_SECONDS = _histogram("lamppost_store_seconds", "Calls of the object store.", ("operation",))
BUS_SECONDS = _histogram(
    "lamppost_bus_seconds", "Calls of the bus: publish (durable topics), commit.", ("operation",)
)
NEIGHBOUR_FAILURES = _counter(
    "lamppost_neighbour_failures",
    "Calls of database, store or bus that failed and may be tried again, by kind of error.",
    ("neighbour", "kind"),
)

SEGMENTS_ARCHIVED = _counter("lamppost_segments_archived", "Segments stored, checked and indexed.")
ARCHIVE_SECONDS = _histogram("lamppost_archive_seconds", "Spool file seen to row committed.")
FOOTAGE_AGE_SECONDS = _histogram(
    "lamppost_footage_age_seconds",
    "End of a segment to its row committed.",
    buckets=(1, 2, 5, 10, 30, 60, 120, 300, 900, 3600),
)
BACKLOG_ITEMS = _gauge("lamppost_archive_backlog_items", "Spool items that an archive has to file.")
BACKLOG_BYTES = _gauge("lamppost_archive_backlog_bytes", "Bytes of the same.")
BACKLOG_OLDEST = _gauge(
    "lamppost_archive_backlog_oldest_timestamp_seconds",
    "When the oldest of them begins; 0: none waits.",
)
ARCHIVE_FAILURES = _counter(
    "lamppost_archive_failures", "Spool items not filed, by kind.", ("kind",)
)

ORPHANS = _counter(
    "lamppost_orphans", "Objects without a row that were adopted or removed.", ("outcome",)
)
ORPHANS_LEFT = _gauge(
    "lamppost_orphans_left", "Objects without a row that can be neither, at the last walk."
)

RETENTION_OVERDUE = _gauge("lamppost_retention_overdue_segments", "Due for over 24 h, not purged.")
RETENTION_DUE = _gauge("lamppost_retention_due_segments", "Past expiry, not held, not purged yet.")
RETENTION_LAST_RUN = _gauge(
    "lamppost_retention_last_run_timestamp_seconds", "When this worker last ended a run."
)
RETENTION_LAST_SUCCESS = _gauge(
    "lamppost_retention_last_success_timestamp_seconds",
    "When this worker last ended a run that nothing stopped.",
)
RETENTION_OLDEST = _gauge(
    "lamppost_retention_oldest_timestamp_seconds", "End of the oldest footage that is there."
)
RETENTION_PURGED = _counter("lamppost_retention_purged_segments", "Segments purged.")
RETENTION_PURGED_BYTES = _counter("lamppost_retention_purged_bytes", "Bytes purged.")
RETENTION_HELD = _gauge("lamppost_retention_held_segments", "Segments past expiry kept by a hold.")
RETENTION_STOPPED = _gauge(
    "lamppost_retention_stopped", "1 while doubt or the breaker stops it.", ("cause",)
)
HOLDS_ACTIVE = _gauge("lamppost_holds_active", "Holds in force.")
HOLDS_ENDING = _gauge("lamppost_holds_ending", "Holds that end by themselves within 24 h.")
HOLDS_MISSING = _gauge(
    "lamppost_holds_missing_segments",
    "Segments under a hold in force that the store did not have when it was last asked.",
)

HTTP_SECONDS = _histogram("lamppost_http_seconds", "Request time.", ("route", "method"))
HTTP_RESPONSES = _counter(
    "lamppost_http_responses", "Responses by class.", ("route", "method", "status")
)
MEDIA_BYTES = _counter("lamppost_media_sent_bytes", "Video bytes sent.", ("kind",))
UNACCOUNTED_SECONDS = _gauge(
    "lamppost_unaccounted_seconds", "Camera-seconds without a row, last 24 h."
)

RELAY_EVENTS = _counter(
    "lamppost_relay_events",
    "Events given to other systems, by way and outcome.",
    ("way", "outcome"),
)
RELAY_WAITING = _gauge(
    "lamppost_relay_waiting", "Webhook deliveries, by state: waiting or dead.", ("state",)
)
RELAY_UP = _gauge("lamppost_relay_up", "1 while the way's broker is connected.", ("way",))

EXPIRY = _gauge(
    "lamppost_expiry_timestamp_seconds",
    "When a certificate, by the setting that names it or `NEIGHBOUR.server`, or the API key that is"
    " next (api_key) expires.",
    ("what",),
)
