"""The dashboards pipeline and api: where does work wait, what is dropped, who is slow?"""

from __future__ import annotations

from services.dashboard_panels import (
    BYTES,
    COUNT,
    PER_SECOND,
    SECONDS,
    SHARE,
    Dashboard,
    age,
    lines,
    rate,
    table,
)

PIPELINE = Dashboard(
    "lamppost-pipeline",
    "Lamppost: pipeline",
    (
        (
            "From the camera to the store",
            (
                lines(
                    "Recorded, cameras' seconds a second",
                    COUNT,
                    (rate("lamppost_recorded_seconds_total", ""), "seconds"),
                ),
                lines("Written", "Bps", ("lamppost:recorded:bytes_per_second{NS}", "{{instance}}")),
                lines(
                    "Spool lasts",
                    SECONDS,
                    ("lamppost:spool_outage:seconds{NS}", "nothing filed: {{instance}}"),
                    ("lamppost:spool_left:seconds{NS}", "as it grows: {{instance}}"),
                ),
                lines(
                    "Waiting in spools",
                    BYTES,
                    ("sum by (instance) (lamppost_spool_bytes{NS})", "recorder {{instance}}"),
                    (
                        "sum by (instance) (lamppost_archive_backlog_bytes{NS})",
                        "archive {{instance}}",
                    ),
                ),
                lines(
                    "Items waiting",
                    COUNT,
                    ("sum by (instance) (lamppost_spool_items{NS})", "recorder {{instance}}"),
                    (
                        "sum by (instance) (lamppost_archive_backlog_items{NS})",
                        "archive {{instance}}",
                    ),
                ),
                lines(
                    "Oldest item waiting",
                    SECONDS,
                    (
                        age("lamppost_archive_backlog_oldest_timestamp_seconds", "instance"),
                        "{{instance}}",
                    ),
                ),
                lines(
                    "Footage: end of a segment to its row",
                    SECONDS,
                    ("lamppost:footage_age:p95{NS}", "95 %"),
                ),
                lines(
                    "Filed",
                    PER_SECOND,
                    (rate("lamppost_segments_archived_total", ""), "segments"),
                    (rate("lamppost_archive_failures_total", "kind"), "set aside: {{kind}}"),
                ),
                lines(
                    "Filing a batch",
                    SECONDS,
                    (
                        "histogram_quantile(0.95, "
                        + rate("lamppost_archive_seconds_bucket", "le")
                        + ")",
                        "95 %",
                    ),
                ),
            ),
        ),
        (
            "What is looked at",
            (
                lines("Time analysed", SHARE, ("lamppost:looked:ratio{NS}", "share")),
                lines(
                    "Camera-seconds by outcome, a second",
                    COUNT,
                    (rate("lamppost_looked_seconds_total", "outcome"), "{{outcome}}"),
                ),
                lines(
                    "Frames",
                    PER_SECOND,
                    (rate("lamppost_frames_sampled_total", ""), "sampled"),
                    (rate("lamppost_frames_received_total", ""), "received"),
                    (rate("lamppost_frames_analysed_total", ""), "analysed"),
                    (rate("lamppost_frames_skipped_total", "reason"), "skipped: {{reason}}"),
                    (rate("lamppost_frames_dropped_total", "reason"), "dropped: {{reason}}"),
                ),
                lines(
                    "Forward pass",
                    SECONDS,
                    (
                        "histogram_quantile(0.95, "
                        + rate("lamppost_detect_seconds_bucket", "le")
                        + ")",
                        "95 %",
                    ),
                ),
                lines(
                    "Age of what analysts see",
                    SECONDS,
                    ("lamppost:frame_age:p95{NS}", "boxes, 95 %"),
                    ("lamppost:sighting_age:p95{NS}", "searches, 95 %"),
                ),
                lines(
                    "Sightings",
                    PER_SECOND,
                    (rate("lamppost_sightings_sent_total", "class_name"), "{{class_name}}"),
                    (rate("lamppost_sightings_indexed_total", ""), "updates written"),
                    (rate("lamppost_sightings_closed_total", ""), "closed by silence"),
                ),
                lines("Things followed", COUNT, ("sum(lamppost_tracks{NS})", "tracks")),
                lines(
                    "Boxes",
                    PER_SECOND,
                    (rate("lamppost_boxes_written_total", "outcome"), "{{outcome}}"),
                    (rate("lamppost_boxes_dropped_total", "reason"), "dropped: {{reason}}"),
                ),
            ),
        ),
        (
            "Events",
            (
                lines(
                    "Oldest in an outbox",
                    SECONDS,
                    (
                        age("lamppost_outbox_oldest_timestamp_seconds", "service"),
                        "{{service}}",
                    ),
                ),
                lines(
                    "Outboxes",
                    COUNT,
                    ("max by (service) (lamppost_outbox_rows{NS})", "{{service}}"),
                ),
                lines(
                    "Lost or set aside",
                    PER_SECOND,
                    (rate("lamppost_bus_poison_total", "topic"), "unreadable: {{topic}}"),
                    (rate("lamppost_bus_dropped_total", "topic"), "dropped: {{topic}}"),
                    (rate("lamppost_detections_dropped_total", "topic"), "lost: {{topic}}"),
                ),
                lines(
                    "Told to other systems",
                    PER_SECOND,
                    (rate("lamppost_relay_events_total", "way, outcome"), "{{way}} {{outcome}}"),
                ),
                lines(
                    "Waiting for other systems",
                    COUNT,
                    ("max by (state) (lamppost_relay_waiting{NS})", "{{state}}"),
                    ("max by (way) (lamppost_relay_up{NS})", "{{way}} connected"),
                ),
            ),
        ),
        (
            "Who is slow",
            (
                lines("Database, 95 %", SECONDS, ("lamppost:database:p95{NS}", "{{operation}}")),
                lines("Object store, 95 %", SECONDS, ("lamppost:store:p95{NS}", "{{operation}}")),
                lines("Bus, 95 %", SECONDS, ("lamppost:bus:p95{NS}", "{{operation}}")),
                lines(
                    "Calls that failed",
                    PER_SECOND,
                    (
                        rate("lamppost_neighbour_failures_total", "neighbour, kind"),
                        "{{neighbour}} {{kind}}",
                    ),
                ),
            ),
        ),
    ),
)

API = Dashboard(
    "lamppost-api",
    "Lamppost: api",
    (
        (
            "Requests",
            (
                lines(
                    "Requests",
                    PER_SECOND,
                    (rate("lamppost_http_responses_total", "status"), "{{status}}"),
                ),
                lines("Failing", SHARE, ("lamppost:http_errors:ratio{NS}", "5xx")),
                lines("By route, 95 %", SECONDS, ("topk(10, lamppost:http:p95{NS})", "{{route}}")),
                table(
                    "Slowest routes",
                    "sort_desc("
                    + rate("lamppost_http_seconds_sum", "route, method")
                    + " / "
                    + rate("lamppost_http_seconds_count", "route, method")
                    + ")",
                    SECONDS,
                ),
                lines(
                    "5xx by route",
                    PER_SECOND,
                    (rate("lamppost_http_responses_total", "route", ',status="5xx"'), "{{route}}"),
                ),
            ),
        ),
        (
            "Video and records",
            (
                lines(
                    "Video sent",
                    "Bps",
                    (rate("lamppost_media_sent_bytes_total", "kind"), "{{kind}}"),
                ),
                lines(
                    "Live",
                    COUNT,
                    ("sum(lamppost_live_clients{NS})", "readers"),
                    (rate("lamppost_live_dropped_total", ""), "dropped a second"),
                ),
                lines(
                    "Audit records",
                    PER_SECOND,
                    (rate("lamppost_audit_records_total", ""), "written"),
                    (rate("lamppost_audit_failures_total", ""), "refused without one"),
                ),
                lines("Database, 95 %", SECONDS, ("lamppost:database:p95{NS}", "{{operation}}")),
            ),
        ),
    ),
)
