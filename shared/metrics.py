"""Every metric, declared once with help, unit and bounded labels.

docs/ref/metrics.md is generated from this module. Camera id is a label on low-rate gauges only.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()


def _counter(name: str, help_text: str, labels: tuple[str, ...] = ()) -> Counter:
    return Counter(name, help_text, labels, registry=REGISTRY)


def _gauge(name: str, help_text: str, labels: tuple[str, ...] = ()) -> Gauge:
    return Gauge(name, help_text, labels, registry=REGISTRY)


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
RECORDED_SECONDS = _counter("lamppost_recorded_seconds", "Video seconds filed.")
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
SPOOL_ITEMS = _gauge("lamppost_spool_items", "Files waiting in the spool.")
SPOOL_BYTES = _gauge("lamppost_spool_bytes", "Bytes waiting in the spool.")
DISK_FREE_RATIO = _gauge("lamppost_disk_free_ratio", "Free share of the volume.", ("volume",))

BUS_DROPPED = _counter("lamppost_bus_dropped", "Records dropped by a topic that may.", ("topic",))
BUS_POISON = _counter("lamppost_bus_poison", "Messages set aside as unreadable.", ("topic",))
OUTBOX_ROWS = _gauge("lamppost_outbox_rows", "Events waiting in the outbox.", ("service",))

SEGMENTS_ARCHIVED = _counter("lamppost_segments_archived", "Segments stored, checked and indexed.")
ARCHIVE_SECONDS = _histogram("lamppost_archive_seconds", "Spool file seen to row committed.")
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
RETENTION_PURGED = _counter("lamppost_retention_purged_segments", "Segments purged.")
RETENTION_PURGED_BYTES = _counter("lamppost_retention_purged_bytes", "Bytes purged.")
RETENTION_HELD = _gauge("lamppost_retention_held_segments", "Segments past expiry kept by a hold.")
RETENTION_STOPPED = _gauge(
    "lamppost_retention_stopped", "1 while doubt or the breaker stops it.", ("cause",)
)
HOLDS_ACTIVE = _gauge("lamppost_holds_active", "Holds in force.")

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
