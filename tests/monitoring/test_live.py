"""A real Prometheus scrapes a real `lamppost run` and answers every query that we ship.

One camera records, one cannot be reached: its hole has a reason and a beginning. The services apart
are asked the same by tests/stack/test_stack.py.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services import footage
from tests.monitoring import asking
from tests.monitoring.rules import FOLDER
from tests.support.program import program
from tests.support.servers.promtool import Prometheus

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]
HOLE = 'lamppost:camera_hole:since{camera="far",reason="unreachable"} > 0'
ONE_MACHINE = (
    HOLE,
    'lamppost_disk_free_ratio{volume="store"} > 0',
    'lamppost_disk_free_ratio{volume="state"} > 0',
    'lamppost_process_up{process="recorder-001"} == 1',
    "lamppost_audit_records_total > 0",
    "lamppost_retention_oldest_timestamp_seconds > 0",
)
MOST_EMPTY = 0.5
"""Of all queries; without detection, webhooks and faults many have nothing to say."""


async def test_every_query_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: object
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    monkeypatch.setattr(footage, "STREET_FRAMES", 100)
    footage.draw_street(clips / "street.mp4", 300_000, lambda *_: None)
    async with program(
        tmp_path,
        LAMPPOST_INGEST__SEGMENT_S="5",
        LAMPPOST_INGEST__FOOTAGE_DIRS=f'["{clips}"]',
        LAMPPOST_INGEST__RTSP_HOSTS='["127.0.0.1"]',
        LAMPPOST_DETECT__WORKERS="0",
        LAMPPOST_RETENTION__INTERVAL_S="5",
    ) as running:
        near = {"url": (clips / "street.mp4").as_uri(), "loop": True}
        await running.post("/v1/cameras", id="near", name="near", source=near)
        # Nobody listens on the port of the discard service.
        far = {"url": "rtsp://127.0.0.1:9/street"}
        await running.post("/v1/cameras", id="far", name="far", source=far)
        await running.until_state("near", "recording")
        target = running.url.removeprefix("http://")
        rules = tuple(sorted(FOLDER.glob("*.yaml")))
        with Prometheus(tmp_path / "prometheus", (target,), rules) as prometheus:
            answered = await asyncio.to_thread(asking.check, prometheus.url, ONE_MACHINE)
            firing = await asyncio.to_thread(
                asking.ask, prometheus.url, 'ALERTS{alertstate="firing",severity="page"}'
            )
    asked = len(list(asking.everything()))
    record_property("figure", f"{answered} of {asked} queries gave data")  # type: ignore[operator]
    assert answered >= asked * (1 - MOST_EMPTY)
    assert firing == [], "half a minute of one camera away wakes nobody"
