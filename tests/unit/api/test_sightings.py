"""Searching sightings over HTTP: filters, path, pages, counts, coverage, expiry, audit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from services.api import sighting_query
from services.api.models_sightings import BoxesOut, CountsOut, SightingPage
from shared import boxes, ids, retention
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import rows, tables
from shared.domain import Gap, GapReason, Hold, HoldReason, Purpose, Role
from shared.messages import Box, FrameAnalysed
from shared.sightings import Colour, Colours, Sighting, Speed, Zone, marked
from tests.support import sightings as made
from tests.support.api import NOW_US, WHY, opened
from tests.support.searching import MINUTE_US, World, ago, world

LINE = Zone(
    id="line-1",
    kind="line",
    name="Gate",
    points=((0.5, 0.0), (0.5, 1.0)),
    directions={"left_to_right": "out", "right_to_left": "in"},
)
ZONE = Zone(
    id="zone-1", kind="zone", name="Kerb", points=((0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6))
)


async def test_newest_first_with_all_facts_and_links(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.add(ago(5, "old"), ago(1, "new"), ago(3, "other", "sp-1"))
        page = await w.page()
        assert [item["id"] for item in page["items"]] == ["new", "other", "old"]
        assert page["next"] is None
        assert page["since"] == "2026-11-24T15:00:00.000+08:00"
        hit = page["items"][0]
        SightingPage.model_validate(page, extra="forbid")
        assert hit["class"] == "person"
        assert hit["start"] == "2026-11-25T14:59:00.000+08:00"
        assert (hit["dwell_s"], hit["held"], hit["ended"]) == (10.000001, False, True)
        assert hit["path"][0] == [0, 0.2, 0.5, 0.2]
        assert hit["expires_at"] == "2026-12-26T00:00:00.000+08:00"
        links = hit["links"]
        assert links["clip"]["body"] == {
            "camera": "mk-1",
            "start": "2026-11-25T14:58:55.000+08:00",
            "end": "2026-11-25T14:59:15.000001+08:00",
            **WHY,
        }
        same = await w.client.get(links["sighting"], params=WHY)
        assert same.json() == hit


async def test_each_filter_narrows(tmp_path: Path) -> None:
    red = Colours(upper=Colour.RED, lower=Colour.BLUE)
    async with world(tmp_path) as w:
        await w.add(
            ago(9, "a", colours=red, speed=Speed.WALKING, confidence=0.7),
            ago(8, "b", "sp-1", class_name="car", colours=Colours(vehicle=Colour.RED), seconds=60),
            ago(7, "c", class_name="bus", speed=Speed.FAST, confidence=0.95),
        )
        for params, wanted in (
            ({"class_": "person"}, ["a"]),
            ({"class_": ["car", "bus"]}, ["c", "b"]),
            ({"colour": "red"}, ["b", "a"]),
            ({"upper": "red"}, ["a"]),
            ({"lower": ["red", "blue"]}, ["a"]),
            ({"vehicle": "red"}, ["b"]),
            ({"speed": ["walking", "fast"]}, ["c", "a"]),
            ({"min_confidence": 0.9}, ["c", "b"]),
            ({"min_dwell_s": 30}, ["b"]),
            ({"camera": "sp-1"}, ["b"]),
            ({"camera": ["sp-1", "mk-1"], "class_": "person"}, ["a"]),
            ({"district": "mong-kok"}, ["c", "a"]),
            ({"district": ["MongKok", "sham shui po"]}, ["c", "b", "a"]),
            ({"site_kind": "government_building"}, ["b"]),
            ({"since": "2026-11-25T14:52"}, ["c", "b"]),
            ({"until": "2026-11-25T14:52"}, ["a"]),
            ({"since": "2026-11-25T14:52:30", "until": "2026-11-25T14:52:59"}, ["b"]),
        ):
            assert await w.names(**params) == wanted, params


async def test_path_within_the_time_asked(tmp_path: Path) -> None:
    """Ten seconds from left to right over the middle, which is at 14:58:05."""
    async with world(tmp_path) as w:
        await w.add(
            marked(ago(2, "right"), (LINE, ZONE)),
            marked(ago(2.001, "left", path=((0.8, 0.5), (0.2, 0.5))), (LINE, ZONE)),
        )
        for zone in (LINE, ZONE):
            await w.add_zone("mk-1", zone)
        both = ["right", "left"]
        middle = "0.4,0.4,0.6,0.4,0.6,0.6,0.4,0.6"
        early, late = {"until": "2026-11-25T14:58:02"}, {"since": "2026-11-25T14:58:09"}
        for params, wanted in (
            ({"across": "0.5,0,0.5,1"}, both),
            ({"across": "0.5,0,0.5,1", "direction": "right_to_left"}, ["right"]),
            ({"across": "0.5,1,0.5,0", "direction": "right_to_left"}, ["left"]),
            ({"across": "0.5,0.6,0.5,1"}, []),
            ({"across": "0.5,0,0.5,1", **early}, []),
            ({"polygon": middle}, both),
            ({"polygon": middle, **early}, []),
            ({"polygon": middle, **late}, []),
            ({"polygon": middle, "min_dwell_s": 3}, both),
            ({"polygon": middle, "min_dwell_s": 4}, []),
            ({"polygon": "0,0,0.1,0,0.1,0.1"}, []),
            ({"zone": "kerb"}, both),
            ({"zone": "zone-1", "min_dwell_s": 3}, both),
            ({"zone": "zone-1", "min_dwell_s": 4}, []),
            ({"zone": "kerb", **early}, []),
            ({"zone": "kerb", **late}, []),
            ({"line": "gate"}, both),
            ({"line": "gate:in"}, ["right"]),
            ({"line": "line-1:OUT"}, ["left"]),
            ({"line": "gate:left_to_right"}, ["left"]),
            ({"line": "gate:in", **early}, []),
            ({"line": "gate", **late}, []),
        ):
            assert await w.names(**params) == wanted, params
        assert (await w.get(line="gate:up")).json()["fix"] == "Name one of: in, out."
        assert (await w.get(line="door")).status_code == 404
        assert (await w.get(zone="gate")).status_code == 404, "a line is no zone"


WRONG: list[dict[str, Any]] = [
    {"polygon": "0.1,0.1,0.2"},
    {"polygon": "0,0,1,1,1,0,0,1"},
    {"polygon": "0,0,nan,1,1,1"},
    {"polygon": ",".join(["0.5"] * 400)},
    {"across": "0,0,0,0"},
    {"across": "0,0,1,1,1,0"},
    {"across": "a"},
    {"direction": "left_to_right"},
    {"class": "elephant"},
    {"colour": "mauve"},
    {"since": "2026-11-25T14:00", "until": "2026-11-25T13:00"},
    {"since": "2026-01-01T14:00", "until": "2026-11-25T13:00"},
    {"since": "half past two"},
    {"min_confidence": "nan"},
    {"cursor": "x"},
]


async def test_wrong_questions_say_what_is_wrong(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        for params in WRONG:
            reply = await w.get(**params)
            assert reply.status_code == 422, params
            assert reply.json()["fix"], params
        assert await w.api.audited("sighting.search") == []


async def test_pages_give_each_hit_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sighting_query, "CHUNK", 3)
    monkeypatch.setattr(sighting_query, "MAX_TESTED", 5)
    async with world(tmp_path) as w:
        # Several begin in one instant, and two days lie between the oldest and the newest.
        every = [ago(n // 3 * 130 + 1, f"s{n:02}", ["mk-1", "sp-1"][n % 2]) for n in range(60)]
        await w.add(*every)
        wanted = [each.id for each in sorted(every, key=lambda s: (s.start_us, s.id), reverse=True)]
        since = "2026-11-20T00:00"
        assert await w.names(since=since, limit=7) == wanted
        assert await w.names(since=since, limit=7, polygon="0,0,1,0,1,1,0,1") == wanted
        assert await w.names(since=since, limit=500) == wanted
        assert await w.names(since=since, limit=7, polygon="0,0,0.1,0,0.1,0.1") == []
        counts = (await w.get("/counts", since=since)).json()
        assert counts["total"] == 60


async def test_now_stays_through_the_pages(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.add(*(ago(n, f"s{n}") for n in range(1, 5)))
        first = await w.page(limit=2)
        w.api.clock.set_us(NOW_US + HOUR_US)
        second = await w.page(limit=2, cursor=first["next"])
        assert (second["since"], second["until"]) == (first["since"], first["until"])
        assert [item["id"] for item in second["items"]] == ["s3", "s4"]


async def test_counts_by_local_hour_over_the_end_of_summer_time(tmp_path: Path) -> None:
    async with opened(tmp_path, site={"timezone": "Europe/London"}) as api:
        await api.cameras("mk-1")
        w = World(api, await api.person(Role.ANALYST))
        # 25 October 2026: 01:00 to 02:00 happens twice.
        fold_us = NOW_US - 31 * DAY_US + 17 * HOUR_US
        api.clock.jump_wall(fold_us - NOW_US + 20 * HOUR_US)
        for n, minutes in enumerate((-90, -70, -30, -1, 0, 30, 59, 61)):
            await w.add(made.sighting(f"s{n}", "mk-1", fold_us + minutes * MINUTE_US))
        reply = (await w.get("/counts", since="2026-10-24T23:30", until="2026-10-25T04:00")).json()
        CountsOut.model_validate(reply, extra="forbid")
        hours = {hour["start"]: hour["count"] for hour in reply["hours"]}
        assert reply["total"] == sum(hours.values())
        assert list(hours) == [
            "2026-10-24T23:00:00.000+01:00",
            "2026-10-25T00:00:00.000+01:00",
            "2026-10-25T01:00:00.000+01:00",
            "2026-10-25T01:00:00.000+00:00",
            "2026-10-25T02:00:00.000+00:00",
            "2026-10-25T03:00:00.000+00:00",
        ]


async def test_counts_agree_with_the_pages(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.add(*(ago(n * 25 + 1, f"s{n}") for n in range(30)), ago(24 * 60 + 0.1, "before"))
        for params in ({}, {"polygon": "0,0,1,0,1,1,0,1"}, {"class_": "car"}):
            reply = (await w.get("/counts", **params)).json()
            assert reply["total"] == len(await w.names(**params))
            assert len(reply["hours"]) == 24
        whole = (await w.get("/counts")).json()
        assert whole["total"] == 31, "what began before the time and reaches into it counts too"
        assert whole["hours"][0]["count"] == 1


async def test_nothing_found_says_how_much_was_looked_at(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        # Of the last 20 minutes of one camera: 4 analysed half, 4 not decided, 4 a gap.
        for n in range(8):
            segment_id = await w.api.segment("mk-1", NOW_US - (120 - n) * MINUTE_US)
            if n < 4:
                async with w.api.platform.database.write() as connection:
                    await connection.execute(
                        sa.update(tables.segment)
                        .where(tables.segment.c.id == segment_id)
                        .values(
                            analysed_us=30 * SECOND_US,
                            gated_us=15 * SECOND_US,
                            dropped_us=10 * SECOND_US,
                        )
                    )
        page = await w.page(camera="mk-1", since="2026-11-25T13:00:30", until="2026-11-25T13:20:00")
        assert page["items"] == []
        coverage = page["coverage"]
        assert (coverage["start"], coverage["end"]) == (page["since"], page["until"])
        wanted = {
            "cameras": 1,
            "asked_s": 1170.0,
            "analysed_s": 105.0,
            "gated_s": 52.5,
            "dropped_s": 35.0,
            "pending_s": 0.0,
            "unknown_s": 17.5 + 240.0,
            "not_recorded_s": 720.0,
            "looked_share": 0.1346,
        }
        assert {name: coverage[name] for name in wanted} == wanted
        fresh = await w.page(camera="sp-1", since="2026-11-25T14:50")
        assert fresh["coverage"]["pending_s"] == 600.0, "rows of the last minutes are still to come"


async def test_coverage_of_all_pages_is_that_of_the_whole(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.add(*(ago(n * 7, f"s{n}") for n in range(1, 20)))
        whole = await w.page(since="2026-11-25T12:00")
        asked, cursor = 0.0, None
        while True:
            more = {"cursor": cursor} if cursor else {}
            page = await w.page(since="2026-11-25T12:00", limit=4, **more)
            asked += page["coverage"]["asked_s"]
            cursor = page["next"]
            if cursor is None:
                break
        assert asked == pytest.approx(whole["coverage"]["asked_s"])
        assert asked == 2 * 3 * 3600


async def test_a_gap_explains_the_newest_seconds(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        gap = Gap(
            id="gap-1",
            camera_id="mk-1",
            start_us=NOW_US - 10 * MINUTE_US,
            end_us=NOW_US,
            reason=GapReason.UNREACHABLE,
        )
        values = msgspec.to_builtins(gap)
        day = retention.recording_date(NOW_US, made.POLICY.zone)
        values |= {"recording_date": day, "committed_at_us": NOW_US}
        await w.api.insert(tables.gap, values)
        page = await w.page(camera="mk-1", since="2026-11-25T14:50")
        assert page["coverage"]["not_recorded_s"] == 600.0
        assert page["coverage"]["pending_s"] == 0.0


async def test_only_cameras_in_scope_that_serve_the_purpose(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.api.cameras("mk-2", purposes=(Purpose.COMPLAINT,))
        await w.add(ago(1, "a"), ago(2, "b", "sp-1"), ago(3, "c", "mk-2"))
        assert await w.names() == ["a", "b"]
        assert (await w.get(camera="mk-2")).status_code == 403
        assert (await w.get(camera="nothing")).status_code == 404
        w.client = await w.api.person(Role.ANALYST, districts=["Sham Shui Po"])
        assert await w.names() == ["b"]
        assert (await w.get(camera="mk-1")).status_code == 403
        assert (await w.get("/a")).status_code == 403
        assert (await w.get(district="mong kok")).status_code == 404
        assert (await w.page())["coverage"]["cameras"] == 1
        refused = [row for row in await w.api.audited("sighting.search") if row["result"] != "ok"]
        assert [row["camera_ids"] for row in refused] == [["mk-2"], ["mk-1"]]


async def test_purpose_and_case_are_named_and_written_down_first(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.add(ago(1, "a"))
        for params in ({}, {"purpose": "crime_investigation"}, {"case_ref": "MK-1"}):
            reply = await w.client.get("/v1/sightings", params=params)
            assert reply.status_code == 422, reply.text
        assert await w.api.audited("sighting.search") == []
        await w.page(class_="person", polygon="0,0,1,0,1,1", since="2026-11-25T14:00")
        [record] = await w.api.audited("sighting.search")
        assert record["camera_ids"] == ["mk-1", "sp-1"]
        assert record["start_us"] == NOW_US - HOUR_US
        assert (record["purpose"], record["case_ref"]) == tuple(WHY.values())
        assert record["detail"] == {
            "class": ["person"],
            "polygon": [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]],
        }
        await w.get("/a")
        await w.get("/a/thumbnail")
        await w.get("/a/boxes")
        assert len(await w.api.audited("sighting.read")) == 3


async def test_nothing_is_given_when_the_audit_log_cannot_be_written(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.add(ago(1, "a"))
        async with w.api.platform.database.write() as connection:
            await connection.execute(sa.text("DROP TABLE audit"))
        for path in ("", "/a", "/a/thumbnail", "/counts", "/export"):
            assert (await w.get(path)).status_code >= 500


async def test_expired_sightings_are_gone_but_for_a_holds_officers(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.add(ago(1, "a"), ago(2, "b"))
        later_us = NOW_US + 40 * DAY_US
        span = {"since": "2026-11-25T14:00", "until": "2026-11-25T15:00"}
        assert await w.names(**span) == ["a", "b"]
        async with w.api.platform.database.read() as connection:
            user = (
                await connection.execute(sa.select(tables.user).where(tables.user.c.name == "ada"))
            ).mappings().one()  # fmt: skip
        hold = Hold(
            id="hold-1",
            camera_ids=("mk-1",),
            start_us=NOW_US - MINUTE_US - 1,
            end_us=NOW_US,
            case_ref="MK-1",
            reason=HoldReason.COMPLAINT,
            requester_id=user["id"],
            placed_at_us=NOW_US,
        )
        await w.api.insert(tables.hold, rows.hold_row(hold))
        await w.api.insert(tables.hold_camera, {"hold_id": "hold-1", "camera_id": "mk-1"})
        w.api.clock.set_us(later_us)
        page = await w.page(**span)
        assert [(item["id"], item["held"]) for item in page["items"]] == [("a", True)]
        assert (await w.get("/counts", **span)).json()["total"] == 1
        assert (await w.get("/a")).status_code == 200
        assert (await w.get("/b")).status_code == 410
        w.client = await w.api.person(Role.ANALYST)
        assert await w.names(**span) == []
        assert (await w.get("/counts", **span)).json()["total"] == 0
        for path in ("/a", "/a/thumbnail", "/a/boxes"):
            assert (await w.get(path)).status_code == 410


async def test_a_clock_put_back_reopens_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.add(ago(1, "a"))
        span = {"since": "2026-11-25T14:00", "until": "2026-11-25T15:00"}
        w.api.clock.set_us(NOW_US + 40 * DAY_US)
        assert await w.names(**span) == []
        w.api.clock.jump_wall(-39 * DAY_US)
        assert await w.names(**span) == []
        assert (await w.get("/a")).status_code == 503


async def test_a_shortened_policy_hides_at_once(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.add(ago(5 * 24 * 60, "old"), ago(1, "new"))
        since = {"since": "2026-11-19T00:00"}
        assert await w.names(**since) == ["new", "old"]
        policy = made.POLICY._replace(version=2, retention_days=3, effective_from_us=NOW_US - 1)
        await w.api.insert(tables.policy, policy._asdict())
        assert await w.names(**since) == ["new"]
        assert (await w.get("/old")).status_code == 410


async def test_thumbnail_and_boxes(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        of = ago(10, "a", seconds=100)
        await w.add(of)
        assert (await w.get("/a/thumbnail")).status_code == 404
        await w.api.insert(
            tables.thumbnail,
            {
                "sighting_id": "a",
                "recording_date": retention.recording_date(of.start_us + 1, made.POLICY.zone),
                "captured_us": of.start_us,
                "jpeg": b"\xff\xd8x",
            },
        )
        reply = await w.get("/a/thumbnail")
        assert reply.content == b"\xff\xd8x"
        assert reply.headers["content-type"] == "image/jpeg"
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["x-lamppost-capture-time"] == "2026-11-25T14:50:00.000+08:00"
        segment_id = await w.api.segment("mk-1", of.start_us - 10 * SECOND_US)
        found = (await w.get("/a/boxes")).json()
        BoxesOut.model_validate(found, extra="forbid")
        assert found["frames"] == []
        assert [part["reason"] for part in found["missing"]] == ["pending", "not_recorded"]
        await _write_boxes(w, segment_id, of)
        found = (await w.get("/a/boxes")).json()
        BoxesOut.model_validate(found, extra="forbid")
        assert [frame["at"][14:19] for frame in found["frames"]] == ["50:02", "50:03"]
        assert found["frames"][0]["box"] == [0.1, 0.2, 0.3, 0.4]
        assert [part["reason"] for part in found["missing"]] == ["not_recorded"]


async def _write_boxes(w: World, segment_id: str, of: Sighting) -> None:
    """Two frames that show it and somebody else."""
    frames = [
        FrameAnalysed(
            camera_id="mk-1",
            capture_us=of.start_us + n * SECOND_US,
            covers_us=SECOND_US,
            epoch=1,
            sequence=n,
            width=640,
            height=480,
            model="m",
            precision="f32",
            boxes=(Box("person", 0.9, 0.1, 0.2, 0.3, 0.4, name), Box("car", 0.9, 0, 0, 1, 1, "z")),
        )
        for n, name in ((1, "b"), (2, "a"), (3, "a"))
    ]
    [row] = [r for r in await w.api.rows(tables.segment) if r["id"] == segment_id]
    start_us, end_us = row["start_us"], row["end_us"]
    data = boxes.encode(boxes.build(segment_id, "mk-1", start_us, end_us, frames))
    sha256 = hashlib.sha256(data).hexdigest()
    await w.api.platform.blobs.put(
        ids.boxes_key(row["key"]), data, sha256=sha256, size_bytes=len(data)
    )
    async with w.api.platform.database.write() as connection:
        await connection.execute(
            sa.update(tables.segment)
            .where(tables.segment.c.id == segment_id)
            .values(boxes_sha256=sha256, boxes_size_bytes=len(data), boxes_partial=False)
        )
