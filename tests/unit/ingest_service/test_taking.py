"""A recorder is ready once it has taken its cameras over, and no camera can keep it from that."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from services.ingest.assignment import PATIENCE_US
from services.ingest.taking import SETTLE_US, Taking
from shared.clock import SimulatedClock
from shared.domain import RecordingState
from shared.errors import LamppostError
from tests.support.fake_media import camera
from tests.support.ingest_world import a_world
from tests.support.wait import until


def lacks(check: Callable[[], None]) -> str:
    """What is missing, empty when nothing is."""
    try:
        check()
    except LamppostError as error:
        return error.message
    return ""


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


async def test_a_share_is_needed_and_a_moment_to_be_told_of_it(clock: SimulatedClock) -> None:
    taking = Taking(clock)
    assert "share of the cameras" in lacks(lambda: taking.check(False))
    assert "just being told" in lacks(lambda: taking.check(True))
    await clock.advance(SETTLE_US / 1e6)
    assert lacks(lambda: taking.check(True)) == ""
    assert "share of the cameras" in lacks(lambda: taking.check(False))
    assert "just being told" in lacks(lambda: taking.check(True)), "a new share, a new moment"


async def test_a_camera_is_taken_over_once_something_is_heard_of_it(clock: SimulatedClock) -> None:
    taking = Taking(clock)
    lacks(lambda: taking.check(True))
    await clock.advance(SETTLE_US / 1e6)
    for name in ("records", "broken", "silent", "given-up"):
        taking.begin(name)
    assert lacks(lambda: taking.check(True)).endswith(": 4")
    taking.heard("records", RecordingState.CONNECTING)
    assert lacks(lambda: taking.check(True)).endswith(": 4")
    taking.heard("records", RecordingState.RECORDING)
    taking.heard("broken", RecordingState.RETRYING)
    taking.end("given-up")
    assert lacks(lambda: taking.check(True)).endswith(": 1")
    await clock.advance(PATIENCE_US / 1e6)
    assert lacks(lambda: taking.check(True)) == "", "a silent camera stops no update"


async def test_a_recorder_says_so_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ingest.taking.SETTLE_US", 0)

    async def said() -> str:
        try:
            await world.service.ready()
        except LamppostError as error:
            return error.message
        return ""

    async def matches(pattern: str) -> bool:
        return re.fullmatch(pattern, await said()) is not None

    async with a_world(tmp_path) as world:
        assert "share of the cameras" in await said()
        await world.configure(camera("one"), camera("two"), camera("off", enabled=False))
        world.start()
        await until(lambda: matches(".*taken over: 2"), what="two cameras to take over")
        world.media.state("one", RecordingState.RECORDING)
        world.media.state("two", RecordingState.RETRYING)
        await until(lambda: matches(""), what="ready")
        world.stop.set()
        await until(lambda: matches("it ends.*"), what="not ready any more")
