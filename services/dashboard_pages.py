"""The dashboards city, camera and retention: is everything recorded, kept, deleted as promised?"""

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
    stat,
    table,
)

CITY = Dashboard(
    "lamppost-city",
    "Lamppost: city",
    (
        (
            "Now",
            (
                stat("Cameras recorded", 'sum(lamppost:cameras{NS,state="recording"})'),
                stat("Cameras not recorded", "sum(lamppost:cameras_down{NS})", bad=1),
                stat("Unaccounted, 24 h", "max(lamppost_unaccounted_seconds{NS})", SECONDS, 1),
                stat("Overdue segments", "max(lamppost_retention_overdue_segments{NS})", bad=1),
                stat("Recording survives", "min(lamppost:spool_outage:seconds{NS})", SECONDS),
                stat("Searches are behind", "max(lamppost:sighting_age:p95{NS})", SECONDS, 120),
                stat("Time analysed", "min(lamppost:looked:ratio{NS})", SHARE),
                stat("Alerts", 'count(ALERTS{NS,alertstate="firing"}) or vector(0)', bad=1),
            ),
        ),
        (
            "Holes",
            (
                table(
                    "Not recorded: since when, why",
                    "sort_desc(time() - lamppost:camera_hole:since{NS})",
                    SECONDS,
                    "Seconds since the camera was last recorded.",
                ),
                table(
                    "Missing in the last 24 h",
                    "topk(30, max by (camera, reason) (lamppost_camera_missing_seconds{NS}))",
                    SECONDS,
                ),
                lines(
                    "Cameras by state",
                    COUNT,
                    ("max by (state) (lamppost_cameras{NS})", "{{state}}"),
                ),
                lines(
                    "Camera-seconds lost, a second",
                    COUNT,
                    (rate("lamppost_gap_seconds_total", "reason"), "{{reason}}"),
                ),
                lines(
                    "Connections begun again",
                    PER_SECOND,
                    (rate("lamppost_reconnects_total", "reason"), "{{reason}}"),
                ),
            ),
        ),
        (
            "What runs",
            (
                table(
                    "Versions", "count by (version, service, instance) (lamppost_build_info{NS})"
                ),
                lines(
                    "Scraped",
                    COUNT,
                    ('min by (instance) (up{NS,job="lamppost"})', "{{instance}}"),
                    ("min by (process) (lamppost_process_up{NS})", "{{process}}"),
                ),
                table(
                    "Expires in",
                    "sort(min by (what) (lamppost_expiry_timestamp_seconds{NS}) - time())",
                    SECONDS,
                    "Certificates by the setting that names them, and the next API key.",
                ),
            ),
        ),
    ),
)

CAMERA = Dashboard(
    "lamppost-camera",
    "Lamppost: camera",
    (
        (
            "Recording",
            (
                lines(
                    "Recorded",
                    COUNT,
                    ("max by (camera) (lamppost_camera_recording{NS,CAMERA})", "{{camera}}"),
                ),
                table(
                    "Hole: since when, why",
                    "time() - lamppost:camera_hole:since{NS,CAMERA}",
                    SECONDS,
                ),
                lines(
                    "Missing in the last 24 h",
                    SECONDS,
                    (
                        "max by (camera, reason) (lamppost_camera_missing_seconds{NS,CAMERA})",
                        "{{camera}} {{reason}}",
                    ),
                ),
                lines(
                    "Camera clock minus server clock",
                    SECONDS,
                    (
                        "max by (camera) (lamppost_camera_clock_offset_seconds{NS,CAMERA})",
                        "{{camera}}",
                    ),
                ),
                lines(
                    "Bit rate",
                    "bps",
                    ("max by (camera) (lamppost_camera_bits_per_second{NS,CAMERA})", "{{camera}}"),
                ),
            ),
        ),
    ),
    by_camera=True,
)

RETENTION = Dashboard(
    "lamppost-retention",
    "Lamppost: retention",
    (
        (
            "Deleted on time",
            (
                stat("Overdue segments", "max(lamppost_retention_overdue_segments{NS})", bad=1),
                stat("Due segments", "max(lamppost_retention_due_segments{NS})"),
                stat(
                    "Last good run",
                    age("lamppost_retention_last_success_timestamp_seconds"),
                    SECONDS,
                    3600,
                ),
                stat("Last run", age("lamppost_retention_last_run_timestamp_seconds"), SECONDS),
                stat("Oldest footage", age("lamppost_retention_oldest_timestamp_seconds"), SECONDS),
                lines(
                    "Stopped",
                    COUNT,
                    ("max by (cause) (lamppost_retention_stopped{NS})", "{{cause}}"),
                ),
                lines(
                    "Purged segments",
                    PER_SECOND,
                    (rate("lamppost_retention_purged_segments_total", ""), "segments"),
                ),
                lines(
                    "Purged bytes",
                    "Bps",
                    (rate("lamppost_retention_purged_bytes_total", ""), "bytes"),
                ),
                lines(
                    "Objects without a row",
                    COUNT,
                    ("max(lamppost_orphans_left{NS})", "left"),
                    ("sum by (outcome) (increase(lamppost_orphans_total{NS}[1h]))", "{{outcome}}"),
                ),
            ),
        ),
        (
            "Holds",
            (
                stat("Holds in force", "max(lamppost_holds_active{NS})"),
                stat("End within a day", "max(lamppost_holds_ending{NS})", bad=1),
                stat(
                    "Held and not in the store", "max(lamppost_holds_missing_segments{NS})", bad=1
                ),
                stat("Kept past expiry", "max(lamppost_retention_held_segments{NS})"),
            ),
        ),
        (
            "Room",
            (
                lines(
                    "Free",
                    SHARE,
                    (
                        "min by (volume, instance) (lamppost_disk_free_ratio{NS})",
                        "{{volume}} {{instance}}",
                    ),
                ),
                table(
                    "Full in, at the rate of the last six hours",
                    "min by (volume, instance) (lamppost_disk_free_bytes{NS})"
                    " / (max by (volume, instance) (-deriv(lamppost_disk_free_bytes{NS}[6h])) > 0)",
                    SECONDS,
                ),
                lines(
                    "Size and free",
                    BYTES,
                    ("max by (volume) (lamppost_disk_bytes{NS})", "{{volume}}"),
                    ("min by (volume) (lamppost_disk_free_bytes{NS})", "{{volume}} free"),
                    ("lamppost:spool_room:bytes{NS}", "may still be recorded {{instance}}"),
                ),
            ),
        ),
    ),
)
