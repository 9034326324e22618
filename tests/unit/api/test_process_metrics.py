"""What /metrics shows of recorders and detect workers: text in, text out, and who is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from services.api import process_metrics as module
from services.api.events import data_of
from services.api.process_metrics import ProcessMetrics, families_of, merged
from services.api.recorders import DETECTOR_STALE_S, RecorderDirectory
from shared import metrics
from shared.bus import Bus
from shared.clock import SimulatedClock
from shared.internal_http import InternalServer, metrics_app
from shared.messages import DetectorStatus, RecorderStatus
from tests.support.api import opened

KEY = "k" * 40
URL = "http://127.0.0.1:9"


def text_of(frames: int, *, lag_s: float = 0.1, camera: str = "a") -> str:
    """What one process says."""
    registry = CollectorRegistry()
    Counter("lamppost_frames", "Frames.", registry=registry).inc(frames)
    Gauge("lamppost_up", "Up.", ("camera",), registry=registry).labels(camera).set(1)
    Histogram("lamppost_lag", "Lag.", registry=registry, buckets=(1,)).observe(lag_s)
    Gauge("python_info", "Not ours.", registry=registry).set(1)
    return generate_latest(registry).decode()


def samples_of(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample; a metric or a series that is there twice fails."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    names = []
    for family in text_string_to_metric_families(text):
        names.append(family.name)
        for sample in family.samples:
            series = sample.name, frozenset(sample.labels.items())
            assert series not in found
            found[series] = sample.value
    assert len(names) == len(set(names))
    for word in ("HELP", "TYPE"):
        heads = [line.split(" ")[2] for line in text.split("\n") if line.startswith(f"# {word} ")]
        assert len(heads) == len(set(heads))
    return found


def series(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_each_process_has_its_own_samples_under_one_head() -> None:
    odd = 'gate "\\ }\n 1,x="y\u2028'
    own = text_of(1, camera=odd)
    answers = {"detector-001": text_of(20, camera=odd), "detector-002": text_of(300, lag_s=5)}
    text = merged(own, {name: families_of(said, name) for name, said in answers.items()})
    found = samples_of(text)
    assert found[series("lamppost_frames_total")] == 1
    assert found[series("lamppost_frames_total", process="detector-001")] == 20
    assert found[series("lamppost_frames_total", process="detector-002")] == 300
    assert found[series("lamppost_up", process="detector-001", camera=odd)] == 1
    assert found[series("lamppost_lag_bucket", process="detector-001", le="1.0")] == 1
    assert found[series("lamppost_lag_bucket", process="detector-002", le="1.0")] == 0
    assert found[series("lamppost_lag_sum", process="detector-002")] == 5
    ours = {name: value for name, value in found.items() if "process" not in dict(name[1])}
    assert ours == samples_of(own), "the api's own are as they were"
    others = {name for name, labels in found if "process" in dict(labels)}
    assert not [name for name in others if "created" in name or "python" in name]


def test_a_metric_only_one_process_has_and_one_counted_otherwise() -> None:
    registry = CollectorRegistry()
    Gauge("lamppost_new", "New.", registry=registry).set(7)
    Gauge("lamppost_lag", "Another version's.", registry=registry).set(8)
    text = merged(text_of(1), {"r-1": families_of(generate_latest(registry).decode(), "r-1")})
    found = samples_of(text)
    assert found[series("lamppost_new", process="r-1")] == 7
    assert series("lamppost_lag", process="r-1") not in found


@pytest.mark.parametrize(
    "text",
    ["<html>", "lamppost_a 1", "# TYPE lamppost_a gauge\nlamppost_b 1", "# TYPE a gauge\na one"],
)
def test_what_prometheus_would_not_take_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a sample"):
        families_of(text, "r-1")


def test_no_metric_of_ours_uses_the_label_itself() -> None:
    for name, metric in vars(metrics).items():
        if name.isupper() and hasattr(metric, "_labelnames") and name != "PROCESS_UP":
            assert module.LABEL not in metric._labelnames, name


def worker(name: str, url: str, **changes: Any) -> DetectorStatus:
    return DetectorStatus(name, 1, "m", "f32", 1, 1, 0, 0.1, url=url, **changes)


def directory_of(clock: SimulatedClock, *workers: DetectorStatus) -> RecorderDirectory:
    found = RecorderDirectory(cast(Bus, None), clock, status_interval_s=1)
    for each in workers:
        found.apply(each)
    return found


async def test_recorders_and_workers_are_known_while_they_live() -> None:
    clock = SimulatedClock()
    gone = worker("detector-002", URL, stopped=True)
    found = directory_of(clock, worker("detector-001", URL), gone, worker("local", "w"))
    found.apply(RecorderStatus("local", 1, 1, "r", (), 0, 0, 0))
    assert found.processes() == {"local": "r", "detector-001": URL, "local-detect": "w"}
    await clock.advance(DETECTOR_STALE_S)
    assert set(found.processes()) == {"detector-001", "local-detect"}, "the recorder is gone"
    await clock.advance(1)
    assert found.processes() == {}


def scraper(
    clock: SimulatedClock, answer: Callable[[httpx2.Request], Any], *workers: DetectorStatus
) -> ProcessMetrics:
    transport = httpx2.MockTransport(answer)
    return ProcessMetrics(directory_of(clock, *workers), KEY, transport)


async def test_who_does_not_answer_is_left_out_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 10_000)

    async def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.url.path == "/internal/metrics"
        match request.url.host:
            case "away":
                raise httpx2.ConnectError("refused")
            case "hangs":
                await asyncio.Event().wait()
            case "huge":
                return httpx2.Response(200, text=text_of(1) + "#" * 10_000)
            case "refuses":
                return httpx2.Response(401)
            case "talks":
                return httpx2.Response(200, text="hello")
        return httpx2.Response(200, text=text_of(5))

    clock = SimulatedClock()
    bad = ("away", "hangs", "huge", "refuses", "talks")
    workers = [worker(name, f"http://{name}") for name in ("good", *bad)]
    made = scraper(clock, answer, *workers, worker("mute", ""), worker("odd", "http://x:port"))
    found = samples_of((await made.read()).decode())
    await made.close()
    up = {dict(labels)["process"]: v for (name, labels), v in found.items() if "process_up" in name}
    assert up == {"good": 1, "mute": 0, "odd": 0} | dict.fromkeys(bad, 0)
    assert found[series("lamppost_frames_total", process="good")] == 5
    shown = {dict(labels).get("process") for (name, labels) in found if "process_up" not in name}
    assert shown == {None, "good"}


async def test_many_who_ask_at_once_cost_one_question_a_second() -> None:
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.host)
        return httpx2.Response(200, text=text_of(len(asked)))

    clock = SimulatedClock()
    made = scraper(clock, answer, worker("detector-001", URL))
    texts = await asyncio.gather(*(made.read() for _ in range(20)))
    assert len(asked) == 1 and len(set(texts)) == 1
    await clock.advance(1)
    assert await made.read() != texts[0]
    assert len(asked) == 2
    await made.close()


async def test_the_api_shows_a_workers_metrics_and_keeps_its_address(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        server = InternalServer(metrics_app(KEY), "test")
        url = await server.start()
        try:
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                async with httpx2.AsyncClient(trust_env=False) as stranger:
                    refused = await stranger.get(f"{url}/internal/metrics", headers=headers)
                assert refused.status_code == 401 and "lamppost_" not in refused.text
            status = worker("detector-001", url)
            api.context.recorders.apply(status)
            async with httpx2.AsyncClient(
                transport=httpx2.ASGITransport(api.app), base_url="http://api"
            ) as client:
                answer = await client.get("/metrics")
            found = samples_of(answer.text)
            assert found[series("lamppost_process_up", process="detector-001")] == 1
            assert series("lamppost_frames_analysed_total", process="detector-001") in found
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert "127.0.0.1" not in answer.text
            assert b"127.0.0.1" not in data_of(status, api.context)[1]
        finally:
            await server.stop()
            await api.context.metrics.close()
