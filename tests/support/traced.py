"""The traced way of a frame: a recorder that sends it, a worker that looks, an archive that indexes
it, each on a platform of its own or on one that they share; and the spans of it all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.archive.index import SightingIndexer
from services.detect.service import build
from services.ingest.media import FrameSampled
from services.ingest.outgoing import Outgoing
from shared import tracing
from shared.bus import Record
from shared.clock import SECOND_US
from shared.messages import FrameMeta
from shared.platform import Platform
from shared.runtime import Stop
from shared.settings import Settings
from shared.tracing_otel import OtelTracer
from tests.support.api import NOW_US
from tests.support.detection import Fakes, jpeg
from tests.support.wait import until

CAPTURED_US = NOW_US - SECOND_US // 2
WITHIN_S = 60.0


@contextmanager
def in_memory(ratio: float = 1.0) -> Iterator[InMemorySpanExporter]:
    """That share of all frames is traced, into memory."""
    exporter = InMemorySpanExporter()
    tracing.install(OtelTracer(SimpleSpanProcessor(exporter), ratio, "test", "test-1"))
    try:
        yield exporter
    finally:
        tracing.close()


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def sampled(camera_id: str = "mk-1", sequence: int = 1) -> FrameSampled:
    return FrameSampled(
        FrameMeta(camera_id, CAPTURED_US, 0, 64, 48, 1, sequence, SECOND_US), jpeg()
    )


async def ingest(platform: Platform, *events: FrameSampled) -> None:
    """Send frames as a recorder does."""
    done: list[str] = []
    outgoing = Outgoing(
        platform.bus, platform.clock, "r1", lambda camera_id, _: done.append(camera_id)
    )
    stop = Stop()
    task = asyncio.create_task(outgoing.send_frames(stop))
    for event in events:
        outgoing.frame(event)
    await until(lambda: len(done) == len(events), WITHIN_S, "the frames are sent")
    stop.set()
    await task


@asynccontextmanager
async def detecting(platform: Platform, folder: Path, frames: int = 1) -> AsyncIterator[None]:
    """A detect worker that reads from here on, and looks and tells when the block ends."""
    settings = Settings.model_validate({"state_dir": folder, "instance": "d1"})
    service = build(platform, settings, Fakes().parts)

    async def joined() -> bool:
        await service.read_once(0)
        return bool(service._assigned)

    async def looked() -> bool:
        await service.read_once(0)
        while await service.worker.run_once():
            pass
        status = service.status()
        return status.analysed + status.skipped >= frames

    await until(joined, WITHIN_S, "the worker has partitions")
    try:
        yield
        await until(looked, WITHIN_S, "the worker has looked")
        await service.settle()
    finally:
        await service.worker.close(1.0)
        await service.leave()


async def index(platform: Platform, folder: Path) -> None:
    """What is told of is in the table, once something is."""
    indexer = SightingIndexer(platform, Settings.model_validate({"state_dir": folder}))
    indexer.wait_s = 0.0
    try:
        await until(indexer.run_once, WITHIN_S, "something is indexed")
        while await indexer.run_once():
            pass
    finally:
        await indexer.leave()


async def on_bus(platform: Platform, topic: str, count: int = 1) -> list[Record]:
    """What a topic has, once it has so many."""
    reader = await platform.bus.consumer([topic], start="earliest")
    found: list[Record] = []

    async def enough() -> bool:
        found.extend(await reader.poll(timeout_s=0))
        return len(found) >= count

    try:
        await until(enough, WITHIN_S, f"{count} of {topic}")
    finally:
        await reader.close()
    return found
