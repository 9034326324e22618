"""A real Prometheus scrapes a real `lamppost run` and answers every query that we ship.

One camera records, one cannot be reached: its hole has a reason and a beginning. Once as one
program, whose api tells of everybody, and once with each service a process of its own, scraped by
itself; tests/stack/test_stack.py asks the same of a city on real servers.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from services import footage
from tests.monitoring import asking
from tests.monitoring.rules import FOLDER
from tests.stack.city import Service
from tests.support.program import program
from tests.support.servers.process import ROOT, free_ports, listens, run
from tests.support.servers.promtool import Prometheus
from tests.support.wait import until_sync

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]
HOLE = 'lamppost:camera_hole:since{camera="far",reason="unreachable"} > 0'
EITHER = (
    HOLE,
    'lamppost_disk_free_ratio{volume="store"} > 0',
    'lamppost_disk_free_ratio{volume="state"} > 0',
    "lamppost_audit_records_total > 0",
    "lamppost_retention_oldest_timestamp_seconds > 0",
    # What only recorders, or only retention, measure is told by nobody else as a zero.
    "count(lamppost_spool_room_bytes) == 1",
    "count(lamppost_retention_overdue_segments) == 1",
    "count(lamppost_unaccounted_seconds) == 1",
)
ONE_PROGRAM = ('lamppost_process_up{process="recorder-001"} == 1',)
APART = (
    "count(count by (service) (lamppost_build_info)) == 4",
    'count(up{job="lamppost"} == 1) == 4',
)
MOST_EMPTY = 0.5
"""Of all queries; without detection, webhooks and faults many have nothing to say."""


def settings_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, str], Path]:
    """Short segments, no detection, and the folder's short clip."""
    clips = folder / "clips"
    clips.mkdir()
    monkeypatch.setattr(footage, "STREET_FRAMES", 100)
    footage.draw_street(clips / "street.mp4", 300_000, lambda *_: None)
    settings = {
        "LAMPPOST_INGEST__SEGMENT_S": "5",
        "LAMPPOST_INGEST__FOOTAGE_DIRS": f'["{clips}"]',
        "LAMPPOST_INGEST__RTSP_HOSTS": '["127.0.0.1"]',
        "LAMPPOST_DETECT__WORKERS": "0",
        "LAMPPOST_RETENTION__INTERVAL_S": "5",
    }
    return settings, clips / "street.mp4"


def sources(clip: Path) -> dict[str, dict[str, object]]:
    """Nobody listens on the port of the discard service."""
    return {
        "near": {"url": clip.as_uri(), "loop": True},
        "far": {"url": "rtsp://127.0.0.1:9/street"},
    }


def judged(
    folder: Path, targets: Sequence[str], also: Sequence[str], busy: Callable[[], object] = int
) -> str:
    """Ask everything; how many queries gave data. Half a minute of one camera away wakes nobody."""
    rules = tuple(sorted(FOLDER.glob("*.yaml")))
    with Prometheus(folder / "prometheus", tuple(targets), rules) as prometheus:
        answered = asking.check(prometheus.url, also, busy=busy)
        firing = asking.ask(prometheus.url, 'ALERTS{alertstate="firing",severity="page"}')
    asked = len(list(asking.everything()))
    assert answered >= asked * (1 - MOST_EMPTY)
    assert firing == []
    return f"{answered} of {asked} queries gave data"


async def test_every_query_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    settings, clip = settings_of(tmp_path, monkeypatch)
    async with program(tmp_path, **settings) as running:
        for name, source in sources(clip).items():
            await running.post("/v1/cameras", id=name, name=name, source=source)
        await running.until_state("near", "recording")
        target = running.url.removeprefix("http://")
        figure = await asyncio.to_thread(judged, tmp_path, [target], (*EITHER, *ONE_PROGRAM))
    record_property("figure", figure)


SERVICES = ("ingest", "archive", "retention", "api")


def test_services_apart_answer_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    settings, clip = settings_of(tmp_path, monkeypatch)
    api, *ports = free_ports(1 + len(SERVICES))
    env = {
        **os.environ,
        **settings,
        "LAMPPOST_STATE_DIR": str(tmp_path / "state"),
        "LAMPPOST_API__PORT": str(api),
        "LAMPPOST_SPOOL__MIN_FREE_RATIO": "0",
        "LAMPPOST_URL": f"http://127.0.0.1:{api}",
    }

    def command(*arguments: str, given: str = "") -> str:
        return run([sys.executable, "-m", "services", *arguments], env=env, input=given, cwd=ROOT)

    command("migrate")
    started = [
        Service(
            name,
            ("run", name),
            {**env, "LAMPPOST_METRICS__PORT": str(port), "LAMPPOST_INSTANCE": f"{name}-1"},
            tmp_path / f"{name}.log",
        )
        for name, port in zip(SERVICES, ports, strict=True)
    ]
    with ExitStack() as stack:
        for service in started:
            service.start()
            stack.callback(service.stop)
        until_sync(lambda: all(map(listens, (api, *ports))), 90, "all listen", every_s=0.2)
        command("user", "add", "tester", "--all-roles", given="not a secret\n")
        key = json.loads(command("key", "create", "tester", "--json"))["key"]
        headers = {"Authorization": f"Bearer {key}"}
        with httpx2.Client(base_url=env["LAMPPOST_URL"], headers=headers, trust_env=False) as asks:
            for name, source in sources(clip).items():
                body = {"id": name, "name": name, "source": source}
                asks.post("/v1/cameras", json=body).raise_for_status()
            targets = [f"127.0.0.1:{port}" for port in ports]
            figure = judged(tmp_path, targets, (*EITHER, *APART), lambda: asks.get("/v1/cameras"))
    record_property("figure", figure)
