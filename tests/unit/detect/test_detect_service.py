"""Detection without a model: frames are read, counted, committed, and none is analysed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.detect.service import build
from shared import metrics
from shared.bus import Message
from shared.clock import SECOND_US, SimulatedClock
from shared.messages import FrameMeta
from shared.platform import Platform, open_platform
from shared.runtime import Stop
from shared.settings import Settings


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    made = await open_platform(Settings.model_validate({"state_dir": tmp_path}), SimulatedClock())
    yield made
    await made.close()


def frame(platform: Platform, age_s: float = 0, **_: object) -> Message:
    captured_us = platform.clock.now_us() - round(age_s * SECOND_US)
    meta = FrameMeta("cam", captured_us, 0, 640, 360, 1, 1)
    return Message("frames", "cam", b"jpeg", meta.headers())


def skipped(reason: str) -> float:
    name = "lamppost_frames_skipped_total"
    return metrics.REGISTRY.get_sample_value(name, {"reason": reason}) or 0


def total(name: str) -> float:
    return metrics.REGISTRY.get_sample_value(f"lamppost_{name}_total") or 0


async def test_frames_are_counted_by_why_none_was_analysed(platform: Platform) -> None:
    before = {reason: skipped(reason) for reason in ("too_old", "no_model", "unreadable")}
    received, analysed = total("frames_received"), total("frames_analysed")
    service = build(platform, Settings())
    await service.run_once(0)
    await platform.bus.publish(
        [frame(platform), frame(platform, 1.9), frame(platform, 2.1), Message("frames", "x", b"")]
    )
    assert await service.run_once(0)
    assert total("frames_received") - received == 4
    assert {reason: skipped(reason) - was for reason, was in before.items()} == {
        "too_old": 1,
        "no_model": 2,
        "unreadable": 1,
    }
    assert total("frames_analysed") == analysed
    assert not await service.run_once(0)
    await service.leave()


async def test_what_was_counted_is_committed(platform: Platform) -> None:
    settings = Settings()
    service = build(platform, settings)
    await service.run_once(0)
    await platform.bus.publish([frame(platform)])
    await service.run_once(0)
    await service.leave()
    assert not await build(platform, settings).run_once(0)


async def test_it_ends_when_told(platform: Platform) -> None:
    stop = Stop()
    running = asyncio.create_task(build(platform, Settings()).run(stop))
    await asyncio.sleep(0)
    stop.set()
    await asyncio.wait_for(running, 5)
