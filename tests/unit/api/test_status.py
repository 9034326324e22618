"""The status: holes of today with their reasons, what waits, what needs a person, and who may know.

At 15:00 in Hong Kong on 25 November 2026; cameras were added at that moment unless a test says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from shared import civil
from shared.bus import Message
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import tables
from shared.db.coordination import spool_waiting
from shared.db.rows import camera_row
from shared.domain import Camera, GapReason, RecordingState, Role, Source
from shared.messages import (
    DEAD_LETTERS,
    DetectorStatus,
    RecorderStatus,
    SpoolWaiting,
    StatusChanged,
)
from shared.presence import SILENT_US, Presence
from shared.version import version
from tests.support.api import HONG_KONG, NOW_US, Api, opened

MINUTE_US = 60 * SECOND_US


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with opened(tmp_path) as made:
        yield made


def local(text: str) -> int:
    return civil.parse_instant(f"2026-11-25T{text}", HONG_KONG)


def says(api: Api, camera_id: str, state: RecordingState, **values: Any) -> None:
    """A recorder's word, now."""
    values = {"since_us": NOW_US - HOUR_US, "recorder": "r1", "epoch": 1, **values}
    api.context.recorders.apply(
        StatusChanged(camera_id=camera_id, state=state, at_us=NOW_US, **values)
    )


async def gap(api: Api, camera_id: str, start: str, end: str, reason: GapReason) -> None:
    await api.insert(
        tables.gap,
        {
            "id": f"{camera_id}-{start}",
            "camera_id": camera_id,
            "start_us": local(start),
            "end_us": local(end),
            "recording_date": civil.local_date(local(end), HONG_KONG),
            "reason": reason.value,
            "committed_at_us": local(end),
        },
    )


async def added(api: Api, *camera_ids: str, days: int = 3) -> None:
    """Cameras that have been there for days, without any row of that time."""
    for name in camera_ids:
        camera = Camera(
            id=name,
            name=name,
            district="Mong Kok",
            source=Source(url="rtsp://10.0.0.1/main"),
            created_at_us=NOW_US - days * DAY_US,
        )
        await api.insert(tables.camera, camera_row(camera, NOW_US))


async def status(api: Api, *roles: Role, **scope: Any) -> dict[str, Any]:
    person = await api.person(*(roles or (Role.OPERATOR,)), **scope)
    answer = await person.get("/v1/status")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def names(found: dict[str, Any]) -> list[str]:
    return [concern["name"] for concern in found["concerns"]]


async def test_without_cameras_all_is_well(api: Api) -> None:
    found = await status(api)
    # The disk of the machine that tests run on may be full; nothing else is wrong.
    assert set(names(found)) <= {"room"}
    assert found["well"] is (found["concerns"] == [])
    assert found["cameras"]["total"] == 0
    assert found["analysts"]["newest_segment"] is None
    assert found["room"]["disk_total_bytes"] > 0


async def test_holes_are_named_with_reason_and_time_and_the_worst_comes_first(api: Api) -> None:
    await added(api, "a-1", "b-1", "c-1", "d-1")
    await gap(api, "a-1", "09:00:00", "09:10:00", GapReason.SILENT)
    await gap(api, "a-1", "11:00:00", "11:01:00", GapReason.FROZEN)
    await gap(api, "b-1", "08:00:00", "12:00:00", GapReason.MAINTENANCE)
    await gap(api, "c-1", "10:00:00", "10:00:30", GapReason.CONNECTION_LOST)
    for camera in ("a-1", "b-1"):
        says(api, camera, RecordingState.RECORDING)
    says(
        api,
        "c-1",
        RecordingState.RETRYING,
        reason=GapReason.CREDENTIALS_REFUSED,
        since_us=local("14:30:00"),
    )
    says(api, "d-1", RecordingState.RECORDING)
    found = (await status(api))["cameras"]
    assert [
        (item["camera_id"], item["seconds"], item["count"], item["reason"], item["until"] is None)
        for item in found["holes"]
    ] == [
        ("c-1", 1_830.0, 2, "credentials_refused", True),
        ("a-1", 660.0, 2, "silent", False),
        ("b-1", 14_400.0, 1, "maintenance", False),
    ]
    assert found["holes"][1]["since"] == "2026-11-25T09:00:00.000+08:00"
    assert found["holes"][1]["until"] == "2026-11-25T11:01:00.000+08:00"
    assert [item["camera_id"] for item in found["away"]] == ["c-1"]
    assert found["recording"] == 3


async def test_what_another_recorder_or_a_spool_has_is_no_hole(api: Api) -> None:
    await added(api, "a-1", "b-1")
    await gap(api, "a-1", "09:00:00", "09:03:00", GapReason.MOVED)
    await api.segment("a-1", local("08:59:30"))
    await api.segment("a-1", local("09:00:30"))
    await gap(api, "b-1", "09:00:00", "09:03:00", GapReason.RECORDER_DOWN)
    waiting = {"camera_id": "b-1", "recorder": "r9", "at_us": NOW_US}
    span = {"start_us": local("08:59:00"), "end_us": local("09:02:50")}
    await api.insert(spool_waiting, {**waiting, **span})
    for camera in ("a-1", "b-1"):
        says(api, camera, RecordingState.RECORDING)
    holes = (await status(api))["cameras"]["holes"]
    assert [(item["camera_id"], item["seconds"]) for item in holes] == [
        ("a-1", 90.0),
        ("b-1", 10.0),
    ]


async def test_yesterdays_gap_is_not_todays_and_one_over_midnight_counts_from_midnight(
    api: Api,
) -> None:
    await added(api, "a-1")
    says(api, "a-1", RecordingState.RECORDING)
    midnight = local("00:00:00")
    for number, (start, end) in enumerate(
        (
            (midnight - HOUR_US, midnight - 30 * MINUTE_US),
            (midnight - MINUTE_US, midnight + MINUTE_US),
        )
    ):
        await api.insert(
            tables.gap,
            {
                "id": f"g{number}", "camera_id": "a-1", "start_us": start, "end_us": end,
                "recording_date": civil.local_date(end, HONG_KONG), "reason": "silent",
                "committed_at_us": end,
            },
        )  # fmt: skip
    [hole] = (await status(api))["cameras"]["holes"]
    assert (hole["seconds"], hole["since"]) == (60.0, "2026-11-25T00:00:00.000+08:00")


async def test_a_camera_that_nobody_speaks_of_is_away_since_its_last_word(api: Api) -> None:
    await added(api, "a-1", "b-1")
    says(api, "a-1", RecordingState.RECORDING)
    await api.clock.advance(120)
    found = await status(api)
    away = {item["camera_id"]: item for item in found["cameras"]["away"]}
    assert away["a-1"]["since"] == "2026-11-25T15:00:00.000+08:00"
    assert (away["a-1"]["state"], away["a-1"]["reason"]) == ("unknown", "recorder_down")
    assert away["b-1"]["since"] is None
    assert "camera_not_recording" in names(found)
    assert found["cameras"]["recording"] == 0


async def test_a_camera_that_connects_again_needs_nobody_for_a_minute(api: Api) -> None:
    await added(api, "a-1")
    says(api, "a-1", RecordingState.CONNECTING, since_us=NOW_US - 30 * SECOND_US)
    assert "camera_not_recording" not in names(await status(api))
    says(api, "a-1", RecordingState.CONNECTING, since_us=NOW_US - 61 * SECOND_US)
    assert "camera_not_recording" in names(await status(api))


async def test_disabled_cameras_and_maintenance_need_nobody(api: Api) -> None:
    await added(api, "a-1")
    await api.cameras("b-1", enabled=False)
    says(api, "a-1", RecordingState.MAINTENANCE, reason=GapReason.MAINTENANCE)
    found = await status(api)
    assert found["cameras"]["away"] == []
    assert (found["cameras"]["total"], found["cameras"]["enabled"]) == (2, 1)


async def test_unaccounted_seconds_are_found_by_the_question_itself(api: Api) -> None:
    await added(api, "a-1")
    says(api, "a-1", RecordingState.RECORDING)
    found = await status(api)
    [lost] = found["cameras"]["unaccounted"]
    assert lost["camera_id"] == "a-1"
    # The whole day but what may still be on its way: two segments and half a minute.
    assert lost["seconds"] == 86_400 - 150
    assert found["cameras"]["unaccounted_cameras_checked"] == 1
    assert "unaccounted_seconds" in names(found)


async def test_what_waits_in_spools_and_how_long_they_last(api: Api) -> None:
    await added(api, "a-1", "b-1")
    says(api, "a-1", RecordingState.RECORDING, bitrate_bps=8e6)
    span = SpoolWaiting("a-1", NOW_US - HOUR_US, NOW_US)
    api.context.recorders.apply(
        RecorderStatus("r1", NOW_US, 1, "", ("a-1",), 60, 10**9, 36 * 10**8, False, (span,))
    )
    row = {"camera_id": "b-1", "recorder": "r2", "at_us": NOW_US - HOUR_US}
    await api.insert(
        spool_waiting, {**row, "start_us": NOW_US - HOUR_US, "end_us": NOW_US - MINUTE_US}
    )
    found = await status(api)
    gone, heard = found["spools"]
    assert (gone["recorder"], gone["heard"], gone["waiting_s"]) == ("r2", False, 3_540.0)
    assert (heard["recorder"], heard["items"], heard["oldest_s"]) == ("r1", 60, 3_600.0)
    assert heard["lasts_s"] == 3_600.0
    assert gone["said_s"] == 3_600.0
    assert {"spool_unheard", "spool_old"} <= set(names(found))


async def test_a_recorder_that_is_started_again_is_not_missed_yet(api: Api) -> None:
    await added(api, "a-1")
    row = {"camera_id": "a-1", "recorder": "r2", "at_us": NOW_US - 100 * SECOND_US}
    await api.insert(spool_waiting, {**row, "start_us": NOW_US - HOUR_US, "end_us": NOW_US})
    found = await status(api)
    assert found["spools"][0]["heard"] is False
    assert "spool_unheard" not in names(found)


async def test_deletion_that_is_stopped_or_late_and_holds_that_end(api: Api) -> None:
    await added(api, "a-1", days=60)
    say = {"worker": "w", "at_us": NOW_US, "purged": 0, "stopped": "doubt", "detail": "two clocks."}
    await api.insert(tables.retention_run, say)
    await api.segment("a-1", NOW_US - 40 * DAY_US)
    found = await status(api)
    deletion = found["deletion"]
    assert (deletion["stopped"], deletion["overdue_segments"]) == ("doubt", 1)
    assert {"deletion_stopped", "deletion_overdue"} <= set(names(found))
    [stopped] = [item for item in found["concerns"] if item["name"] == "deletion_stopped"]
    assert stopped["what"] == "Deletion is stopped (doubt): two clocks."


async def test_events_that_are_stuck(api: Api) -> None:
    row = {"topic": "segments", "key": "a-1", "value": b"", "headers": b""}
    late = {"created_at_us": NOW_US - HOUR_US}
    await api.insert(tables.outbox, {**row, **late, "service": "archive"})
    await api.insert(tables.outbox, {**row, **late, "service": "bad:archive"})
    dead = (("lp_dead_topic", b"segments"), ("lp_dead_id", b"segments-0-1"))
    await api.platform.bus.publish([Message(DEAD_LETTERS.name, "a-1", b"?", dead)])
    found = await status(api)
    events = found["events"]
    assert (events["outbox_waiting"], events["outbox_age_s"]) == (1, 3_600.0)
    assert (events["outbox_set_aside"], events["dead_letters"]) == (1, 1)
    assert {"outbox_stuck", "outbox_set_aside", "dead_letters"} <= set(names(found))


async def test_how_old_what_analysts_see_is_and_what_was_dropped(api: Api) -> None:
    await added(api, "a-1")
    says(api, "a-1", RecordingState.RECORDING)
    await api.segment("a-1", NOW_US - 30 * MINUTE_US)
    async with api.platform.database.write() as connection:
        await connection.execute(
            sa.update(tables.segment).values(
                analysed_us=30 * SECOND_US, gated_us=15 * SECOND_US, dropped_us=15 * SECOND_US
            )
        )
    api.context.recorders.apply(
        DetectorStatus("d1", NOW_US, "coco", "f32", 1, 10, 0, 0.4, version="0.1.0")
    )
    found = await status(api)
    seen = found["analysts"]
    assert seen["segment_age_s"] == 29 * 60
    assert (seen["hour_looked_share"], seen["hour_dropped_share"]) == (0.75, 0.25)
    assert (seen["detectors"], seen["detector_lag_s"]) == (1, 0.4)
    assert {"frames_dropped", "nothing_filed"} <= set(names(found))
    assert {
        "name": "d1",
        "service": "detect",
        "version": "0.1.0",
        "started": None,
        "detail": "coco (f32)",
    } in found["processes"]


async def test_every_process_says_its_release_and_two_of_them_are_told(api: Api) -> None:
    ours = version()
    told = [("archive-index", "index-1"), ("retention", "r-1"), ("api", "local")]
    for service, name in told:
        await Presence(api.platform, service, name).run_once()
    api.context.recorders.apply(RecorderStatus("rec", NOW_US, 1, "", (), 0, 0, 0, version=ours))
    found = await status(api)
    assert [(item["service"], item["name"], item["version"]) for item in found["processes"]] == [
        ("api", "local", ours),
        ("archive-index", "index-1", ours),
        ("ingest", "rec", ours),
        ("retention", "r-1", ours),
    ], "the api that answers is not there twice"
    assert found["processes"][1]["started"] == "2026-11-25T15:00:00.000+08:00"
    assert "releases_differ" not in names(found)
    await Presence(api.platform, "archive-index", "index-2", release="9.9.9").run_once()
    found = await status(api)
    [concern] = [item for item in found["concerns"] if item["name"] == "releases_differ"]
    assert concern["what"] == (
        f"Releases run side by side: {ours} (4), 9.9.9 (1). Of 9.9.9: archive-index index-2."
    )
    await api.clock.advance(SILENT_US / SECOND_US)
    found = await status(api)
    assert [item["service"] for item in found["processes"] if item["service"] != "ingest"] == [
        "api"
    ], "the silent are not there, and the api that answers is"


async def test_a_camera_with_a_wrong_clock(api: Api) -> None:
    await added(api, "a-1", "b-1")
    says(api, "a-1", RecordingState.RECORDING, clock_offset_us=-3 * SECOND_US)
    says(api, "b-1", RecordingState.RECORDING, clock_offset_us=SECOND_US)
    found = await status(api)
    clock = found["clock"]
    assert (clock["camera_id"], clock["camera_offset_s"], clock["cameras_wrong"]) == (
        "a-1",
        -3.0,
        1,
    )
    assert "camera_clock" in names(found)


async def test_who_is_limited_hears_of_his_cameras_alone(api: Api) -> None:
    await added(api, "a-1", "b-1")
    await api.cameras("z-1", district="Elsewhere")
    for camera in ("a-1", "b-1", "z-1"):
        says(api, camera, RecordingState.RETRYING, reason=GapReason.SILENT)
    api.context.recorders.apply(RecorderStatus("r1", NOW_US, 1, "", ("z-1",), 0, 0, 0))
    found = await status(api, Role.OPERATOR, districts=["Elsewhere"])
    assert found["cameras"]["total"] == 1
    assert {item["camera_id"] for item in found["cameras"]["away"]} == {"z-1"}
    assert found["processes"] == []
    assert found["spools"] == []


async def test_a_look_leaves_no_audit_record(api: Api) -> None:
    await added(api, "a-1")
    await status(api, Role.SYSADMIN)
    assert await api.audited("status.read") == []
