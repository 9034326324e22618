"""One trace on a real Kafka: from the frame that a recorder sends to the sighting in the index."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared import tracing
from shared.clock import SystemClock
from shared.db import tables
from shared.platform import Platform
from tests.support import traced
from tests.support.api import Api, opened
from tests.support.bus_harness import KafkaHarness
from tests.support.servers.kafka import Kafka

pytestmark = pytest.mark.servers


@pytest.fixture
async def harness(broker: Kafka, tmp_path: Path) -> AsyncIterator[KafkaHarness]:
    harness = KafkaHarness(broker, tmp_path)
    yield harness
    await harness.close()


async def joined(api: Api, harness: KafkaHarness) -> Platform:
    """What a process of its own would have: the stores that all share, and a bus of its own."""
    return dataclasses.replace(api.platform, bus=await harness.open(SystemClock()))


@pytest.mark.timeout(300)
async def test_one_trace_from_the_frame_to_the_index(harness: KafkaHarness, tmp_path: Path) -> None:
    with traced.in_memory() as spans:
        async with opened(tmp_path) as api:
            await api.cameras("mk-1")
            recorder, detector, archive = [await joined(api, harness) for _ in range(3)]
            async with traced.detecting(detector, tmp_path):
                await traced.ingest(recorder, traced.sampled())
            await traced.index(archive, tmp_path)
            rows = await api.rows(tables.sighting)
            [frame] = await traced.on_bus(recorder, "frames")
            [sighting] = await traced.on_bus(recorder, "sightings")
        found = traced.by_name(spans)
    assert [row["camera_id"] for row in rows] == ["mk-1"]
    assert set(found) == {"frame", "detect", "index"}
    [trace_id] = {span.context.trace_id for span in found.values()}
    above = {name: span.parent and span.parent.span_id for name, span in found.items()}
    assert above["frame"] is None
    assert above["detect"] == found["frame"].context.span_id
    assert above["index"] == found["detect"].context.span_id
    assert (found["index"].attributes or {})["lamppost.sighting"] == rows[0]["id"]
    for record, by in ((frame, "frame"), (sighting, "detect")):
        [header] = [value for name, value in record.headers if name == tracing.HEADER]
        assert header.decode() == f"00-{trace_id:032x}-{found[by].context.span_id:016x}-01"


@pytest.mark.timeout(300)
async def test_what_is_not_drawn_crosses_it_without_a_header(
    harness: KafkaHarness, tmp_path: Path
) -> None:
    with traced.in_memory(ratio=0.0) as spans:
        async with opened(tmp_path) as api:
            await api.cameras("mk-1")
            platform = await joined(api, harness)
            async with traced.detecting(platform, tmp_path):
                await traced.ingest(platform, traced.sampled())
            records = [
                *await traced.on_bus(platform, "frames"),
                *await traced.on_bus(platform, "sightings"),
            ]
    assert spans.get_finished_spans() == ()
    assert [name for one in records for name, _ in one.headers if name == tracing.HEADER] == []
