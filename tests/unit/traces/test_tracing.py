"""One trace from a sampled frame to the sighting indexed and the event served; off, nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
import timeit
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import httpx2
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared import tracing
from shared.errors import Kind, LamppostError
from shared.messages import Headers
from shared.settings import Tracing, validated
from tests.support import traced
from tests.support.api import NOW_US, WHY
from tests.support.http_server import serve
from tests.support.searching import world
from tests.support.traced import CAPTURED_US, by_name, sampled
from tests.support.wait import until


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Everything is traced, into memory."""
    with traced.in_memory() as exporter:
        yield exporter


async def test_one_trace_from_the_frame_to_the_index_and_the_event_served(
    tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    async with (
        world(tmp_path) as w,
        serve(w.api.app) as url,
        httpx2.AsyncClient(base_url=url, headers=w.client.headers, timeout=20) as client,
        client.stream("GET", "/v1/live/sightings", params=WHY) as answer,
    ):
        lines = answer.aiter_lines()
        assert await anext(lines) == "retry: 2000"
        async with traced.detecting(w.api.platform, tmp_path):
            await traced.ingest(w.api.platform, sampled())
        await traced.index(w.api.platform, tmp_path)
        async for line in lines:
            if line.startswith("data: "):
                break
        await until(lambda: len(by_name(spans)) == 4, what="all is traced")
    found = by_name(spans)
    assert {span.context.trace_id for span in found.values()} == {found["frame"].context.trace_id}
    above = {name: span.parent and span.parent.span_id for name, span in found.items()}
    assert above["frame"] is None
    assert above["detect"] == found["frame"].context.span_id
    assert above["index"] == above["serve"] == found["detect"].context.span_id
    assert found["frame"].start_time == CAPTURED_US * 1_000
    assert found["detect"].attributes is not None
    assert dict(found["detect"].attributes) == {
        "lamppost.camera": "mk-1",
        "lamppost.boxes": 1,
        "lamppost.sightings": 1,
    }
    for name in ("index", "serve"):
        facts = found[name].attributes or {}
        assert str(facts["lamppost.sighting"]).startswith("mk-1-")


async def test_a_frame_that_nobody_looks_at_says_so(
    tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    async with world(tmp_path) as w, traced.detecting(w.api.platform, tmp_path, frames=2):
        await traced.ingest(w.api.platform, sampled(sequence=1), sampled(sequence=2))
    passed = [
        span.attributes["lamppost.passed_over"]
        for span in spans.get_finished_spans()
        if span.attributes and "lamppost.passed_over" in span.attributes
    ]
    assert passed == ["superseded"]


async def test_off_no_header_crosses_the_bus(tmp_path: Path) -> None:
    assert not tracing.is_on()
    async with world(tmp_path) as w:
        platform = w.api.platform
        async with traced.detecting(platform, tmp_path):
            await traced.ingest(platform, sampled())
        frames = await traced.on_bus(platform, "frames")
        sightings = await traced.on_bus(platform, "sightings")
    assert len(frames) == len(sightings) == 1
    for record in (*frames, *sightings):
        assert tracing.HEADER not in dict(record.headers)


async def test_what_is_not_drawn_carries_no_header(tmp_path: Path) -> None:
    with traced.in_memory(ratio=0.0) as exporter:
        async with world(tmp_path) as w:
            async with traced.detecting(w.api.platform, tmp_path):
                await traced.ingest(w.api.platform, sampled())
            frames = await traced.on_bus(w.api.platform, "frames")
    assert tracing.HEADER not in dict(frames[0].headers)
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"nonsense",
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
        b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        b"\xff\xfe",
    ],
)
def test_a_header_that_is_none_begins_nothing(spans: InMemorySpanExporter, value: bytes) -> None:
    span = tracing.follow(((tracing.HEADER, value),), "detect", NOW_US)
    span.end(NOW_US)
    assert span.headers == ()
    assert spans.get_finished_spans() == ()


def test_somebody_elses_context_is_followed(spans: InMemorySpanExporter) -> None:
    value = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    span = tracing.follow((("x", b"y"), (tracing.HEADER, value)), "detect", NOW_US, camera="c-1")
    span.end(NOW_US + 1)
    [done] = spans.get_finished_spans()
    assert f"{done.context.trace_id:032x}" == "4bf92f3577b34da6a3ce929d0e0e4736"
    [(name, own)] = span.headers
    assert (name, own[:36]) == (tracing.HEADER, value[:36])
    assert own != value


def test_off_loads_nothing_and_on_without_the_extra_says_what_to_do() -> None:
    """In a process of its own: what a recorder and a detect worker load."""
    code = (
        "import sys\n"
        "import services.one, services.ingest.service, services.detect.service\n"
        "import services.archive.service, services.retention.service\n"
        "from shared import tracing\n"
        "from shared.settings import Tracing\n"
        "tracing.configure(Tracing(), 'ingest', 'local')\n"
        "loaded = [name for name in sys.modules if name.startswith('opentelemetry')]\n"
        "assert not loaded, loaded\n"
        "sys.modules['opentelemetry.sdk'] = None\n"
        "try:\n"
        "    tracing.configure(Tracing(endpoint='http://otel:4318'), 'ingest', 'local')\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error.kind.value, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "LamppostError not_built Tracing is switched on and OpenTelemetry"
    )
    assert "pip install -r requirements/otel.txt" in done.stdout


def test_off_costs_under_a_microsecond_a_frame() -> None:
    """Of a frame's publish, which takes a hundred of them. Ten times the usual, for a busy machine;
    the median of rounds, none of which another program may spoil."""
    headers: Headers = (("ce_id", b"x"), ("lp_camera_id", b"mk-1"))
    assert not tracing.is_on()

    def off() -> None:
        span = tracing.begin("frame", NOW_US, camera="mk-1", sequence=1)
        tracing.follow(headers, "detect", NOW_US, camera="mk-1").end(NOW_US)
        span.end(NOW_US)

    took_us = min(timeit.repeat(off, number=2_000, repeat=7)) / 2_000 * 1e6
    assert took_us < 10
    assert tracing.begin("frame", NOW_US) is tracing.NOTHING


@pytest.mark.parametrize(
    ("endpoint", "fine"),
    [
        ("http://otel:4318", True),
        ("https://otel.example.org/otlp", True),
        ("otel:4318", False),
        ("http://user:password@otel:4318", False),
    ],
)
def test_a_collector_is_an_address_without_a_password(endpoint: str, fine: bool) -> None:
    given = {"tracing": {"endpoint": endpoint}}
    if fine:
        assert validated(given).tracing.endpoint == endpoint
    else:
        with pytest.raises(LamppostError) as caught:
            validated(given)
        assert caught.value.kind is Kind.INVALID


class _Collector(BaseHTTPRequestHandler):
    """Takes what is sent."""

    got: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        self.got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return None


def test_spans_reach_a_collector_at_the_end_of_a_process() -> None:
    with HTTPServer(("127.0.0.1", 0), _Collector) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        tracing.configure(Tracing(endpoint=endpoint, sample_ratio=1.0), "ingest", "r1")
        tracing.begin("frame", NOW_US, camera="mk-argyle-01").end(NOW_US + 1)
        tracing.close(10.0)
        server.shutdown()
        thread.join()
    [(path, body)] = _Collector.got
    assert path == "/v1/traces"
    for word in (b"mk-argyle-01", b"lamppost-ingest", b"frame"):
        assert word in body


def test_a_collector_that_is_away_holds_up_nobody() -> None:
    tracing.configure(Tracing(endpoint="http://127.0.0.1:9", sample_ratio=1.0), "ingest", "r1")
    tracing.begin("frame", NOW_US, camera="c-1").end(NOW_US + 1)
    took_s = timeit.timeit(lambda: tracing.close(0.2), number=1)
    assert took_s < 3.0
    assert not tracing.is_on()
