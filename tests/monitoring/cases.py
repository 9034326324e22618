"""For each alert what makes it fire and what, next to it, leaves it quiet: series as promtool takes
them, one value a minute. `1x60` is 1 an hour long, `0+5x60` grows by 5 a minute.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

Series = Mapping[str, str]
LONG = 60
"""Minutes of a case; its alert is looked at before its end."""
DAY_S = 86_400


class Case(NamedTuple):
    """Both sides of one alert."""

    fires: Series
    quiet: Series
    at_minutes: int = 45


def _histogram(name: str, slow: bool, labels: str = "") -> Series:
    """Ten calls a minute, all below the first bound or all above the last but one."""
    few = "0x%d" if slow else "0+10x%d"
    comma = "," if labels else ""
    bounds = ("1", "2", "5", "30", "120", "300", "+Inf")
    return {
        f'{name}_bucket{{{labels}{comma}le="{bound}"}}': (
            "0+10x%d" if bound in ("300", "+Inf") else few
        )
        % LONG
        for bound in bounds
    }


def _both(name: str, labels: str = "") -> Case:
    return Case(_histogram(name, True, labels), _histogram(name, False, labels))


def _value(series: str, fires: float, quiet: float, minutes: int = LONG) -> Case:
    """One series that stands at a value."""
    return Case(
        {series: f"{fires:g}x{minutes}"}, {series: f"{quiet:g}x{minutes}"}, minutes * 3 // 4
    )


def _grows(series: str) -> Case:
    """A counter that must not."""
    return Case({series: f"0+1x{LONG}"}, {series: f"7x{LONG}"})


def _missing(series: str) -> Case:
    """Something that must be there; what stands in its place has no bearing."""
    return Case({"lamppost_tracks": f"1x{LONG}"}, {series: f"1x{LONG}"})


def _cameras(down: int, recording: int) -> Series:
    """As two replicas of the api tell of them, with some that are to be left alone."""
    return {
        f'lamppost_cameras{{state="{state}",instance="{api}"}}': f"{count}x{LONG}"
        for api in ("api-1", "api-2")
        for state, count in (
            ("retrying", down),
            ("recording", recording),
            ("disabled", 50),
            ("maintenance", 1),
        )
    }


def _spool(growth: int) -> Series:
    """Room for an hour at 10 MB a minute, and a backlog that grows."""
    return {
        "lamppost_spool_room_bytes": f"600000000x{LONG}",
        "lamppost_spool_bytes": f"0+{growth}x{LONG}",
        "lamppost_recorded_bytes_total": f"0+10000000x{LONG}",
    }


def _disk(step: str) -> Series:
    return {
        'lamppost_disk_free_bytes{volume="store"}': f"300000000000{step}x600",
        'lamppost_disk_free_ratio{volume="store"}': "0.3x600",
    }


def _requests(errors: int) -> Series:
    name = "lamppost_http_responses_total"
    return {
        f'{name}{{route="/v1/holds",method="GET",status="2xx"}}': f"0+100x{LONG}",
        f'{name}{{route="/v1/holds",method="GET",status="5xx"}}': f"0+{errors}x{LONG}",
        # A probe that says "not yet" is no failed request.
        f'{name}{{route="/readyz",method="GET",status="5xx"}}': f"0+100x{LONG}",
    }


def _frames(analysed: int) -> Series:
    return {
        'lamppost_frames_received_total{process="detector-001"}': f"0+60x{LONG}",
        'lamppost_frames_analysed_total{process="detector-001"}': f"0+{analysed}x{LONG}",
    }


def _looked(analysed: int, superseded: int) -> Series:
    name = "lamppost_looked_seconds_total"
    return {
        f'{name}{{outcome="analysed",process="detector-001"}}': f"0+{analysed}x{LONG}",
        f'{name}{{outcome="gated",process="recorder-001"}}': f"0+30x{LONG}",
        f'{name}{{outcome="superseded",process="detector-001"}}': f"0+{superseded}x{LONG}",
    }


def _expiry(what: str, days: int, quiet_days: int) -> Case:
    series = f'lamppost_expiry_timestamp_seconds{{what="{what}"}}'
    return _value(series, days * DAY_S, quiet_days * DAY_S, 200)


def _hole(reason: str) -> Series:
    series = "lamppost_camera_hole_since_timestamp_seconds"
    return {f'{series}{{camera="mk-1",reason="{reason}"}}': f"60x{LONG}"}


CASES: Mapping[str, Case] = {
    "LamppostCameraNotRecording": Case(_hole("unreachable"), _hole("maintenance")),
    "LamppostManyCamerasNotRecording": Case(_cameras(5, 15), _cameras(2, 15)),
    "LamppostRecordersGone": _missing("lamppost_spool_room_bytes"),
    "LamppostCameraClockWrong": _value(
        'lamppost_camera_clock_offset_seconds{camera="mk-1",process="recorder-001"}', -9, 0.4
    ),
    "LamppostUnaccountedSeconds": _value("lamppost_unaccounted_seconds", 12, 0),
    "LamppostSpoolFillsSoon": Case(_spool(10_000_000), _spool(1_000)),
    "LamppostArchiveBehind": Case(
        {"lamppost_archive_backlog_oldest_timestamp_seconds": f"60x{LONG}"},
        {"lamppost_archive_backlog_oldest_timestamp_seconds": f"0+60x{LONG}"},
    ),
    "LamppostFootageSetAside": _grows('lamppost_archive_failures_total{kind="segment_damaged"}'),
    "LamppostOrphansLeft": _value("lamppost_orphans_left", 3, 0, 600),
    "LamppostDiskLow": _value('lamppost_disk_free_ratio{volume="spool"}', 0.11, 0.2),
    "LamppostDiskFullSoon": Case(_disk("-200000000"), _disk("+0"), 540),
    "LamppostRetentionOverdue": _value("lamppost_retention_overdue_segments", 1, 0),
    "LamppostRetentionStopped": _value('lamppost_retention_stopped{cause="doubt"}', 1, 0),
    "LamppostRetentionNotRunning": Case(
        {
            "lamppost_retention_last_run_timestamp_seconds": "0+60x120",
            'lamppost_retention_last_success_timestamp_seconds{instance="a"}': "60x120",
            'lamppost_retention_last_success_timestamp_seconds{instance="b"}': "120x120",
        },
        {
            "lamppost_retention_last_run_timestamp_seconds": "0+60x120",
            'lamppost_retention_last_success_timestamp_seconds{instance="a"}': "60x120",
            'lamppost_retention_last_success_timestamp_seconds{instance="b"}': "0+60x120",
        },
        110,
    ),
    "LamppostHeldFootageMissing": _value("lamppost_holds_missing_segments", 1, 0),
    "LamppostHoldEndsSoon": _value("lamppost_holds_ending", 2, 0),
    "LamppostNothingAnalysed": Case(_frames(0), _frames(1)),
    "LamppostAnalysisDropped": Case(_looked(10, 30), _looked(30, 5)),
    "LamppostSightingsLate": _both("lamppost_sighting_age_seconds"),
    "LamppostResultsLost": _grows('lamppost_detections_dropped_total{topic="sightings"}'),
    "LamppostEventStuck": Case(
        {'lamppost_outbox_oldest_timestamp_seconds{service="archive"}': f"60x{LONG}"},
        {'lamppost_outbox_oldest_timestamp_seconds{service="archive"}': f"0x{LONG}"},
    ),
    "LamppostMessagesSetAside": _grows('lamppost_bus_poison_total{topic="sightings"}'),
    "LamppostWebhookEventsSetAside": Case(
        {'lamppost_relay_waiting{state="dead"}': f"4x{LONG}"},
        {'lamppost_relay_waiting{state="waiting"}': f"4x{LONG}"},
    ),
    "LamppostMqttDown": _value('lamppost_relay_up{way="mqtt"}', 0, 1),
    "LamppostAuditFailing": _grows("lamppost_audit_failures_total"),
    "LamppostApiGone": _missing('lamppost_cameras{state="recording"}'),
    "LamppostApiFailing": Case(_requests(10), _requests(1)),
    "LamppostApiSlow": Case(
        _histogram("lamppost_http_seconds", True, 'route="/v1/holds",method="GET"'),
        # A live picture lasts as long as somebody watches.
        _histogram("lamppost_http_seconds", True, 'route="/v1/media/{token}/live.mp4"'),
    ),
    "LamppostDatabaseSlow": _both("lamppost_database_seconds", 'operation="write"'),
    "LamppostStoreSlow": _both("lamppost_store_seconds", 'operation="put"'),
    "LamppostBusSlow": _both("lamppost_bus_seconds", 'operation="publish"'),
    "LamppostNeighbourFailing": Case(
        {'lamppost_neighbour_failures_total{neighbour="store",kind="timeout"}': f"0+5x{LONG}"},
        {'lamppost_neighbour_failures_total{neighbour="store",kind="timeout"}': f"5x{LONG}"},
    ),
    "LamppostTargetDown": _value('up{job="lamppost",instance="api-1:9100"}', 0, 1),
    "LamppostProcessMissing": _value('lamppost_process_up{process="recorder-001"}', 0, 1),
    "LamppostVersionsDiffer": Case(
        {
            'lamppost_build_info{version="0.1.0",service="api"}': "1x200",
            'lamppost_build_info{version="0.2.0",service="ingest"}': "1x200",
        },
        {
            'lamppost_build_info{version="0.2.0",service="api"}': "1x200",
            'lamppost_build_info{version="0.2.0",service="ingest"}': "1x200",
        },
        150,
    ),
    "LamppostCertificateExpires": _expiry("s3.server", 10, 30),
    "LamppostCertificateExpiresNow": _expiry("kafka.ca_file", 1, 10),
    "LamppostApiKeyExpires": _expiry("api_key", 3, 20),
}
