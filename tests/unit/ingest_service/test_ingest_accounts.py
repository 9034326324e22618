"""What the recorder tells of frames that detection will not see: best effort, never in the way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.ingest import outgoing
from services.ingest.media import FrameSampled
from services.ingest.outgoing import Outgoing
from shared import metrics
from shared.bus import Message
from shared.clock import SECOND_US, SystemClock
from shared.domain import RecordingState
from shared.errors import Kind, LamppostError
from shared.messages import DETECTIONS, FRAMES, FrameMeta, FramesPassedOver, decode
from shared.runtime import Stop
from tests.support.fake_media import camera
from tests.support.ingest_world import a_world
from tests.support.wait import until


def account(number: int, reason: str = "gated") -> FramesPassedOver:
    return FramesPassedOver("a", number * SECOND_US, (number + 1) * SECOND_US, 2, reason)


async def test_accounts_of_the_media_path_reach_the_bus_keyed_by_camera(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        reader = await world.platform.bus.consumer([DETECTIONS.name], start="earliest")
        await world.configure(camera("a"))
        world.start()
        await world.until_state("a", RecordingState.CONNECTING)
        world.media.report(account(1), account(2, "late"))
        heard: list[tuple[str, FramesPassedOver]] = []

        async def both() -> bool:
            records = await reader.poll(timeout_s=0)
            heard.extend((record.key, decode(record.value, FramesPassedOver)) for record in records)
            return len(heard) == 2

        await until(both)
        assert heard == [("a", account(1)), ("a", account(2, "late"))]
        await reader.close()


class FakeBus:
    """A bus that may be away; remembers what it took."""

    def __init__(self) -> None:
        self.away = True
        self.taken: list[Message] = []

    async def publish(self, messages: list[Message]) -> None:
        if self.away:
            raise LamppostError(Kind.UNAVAILABLE, "away")
        self.taken += messages

    def accounts(self) -> list[FramesPassedOver]:
        own = [message for message in self.taken if message.topic == DETECTIONS.name]
        return [decode(message.value, FramesPassedOver) for message in own]


def outgoing_on(bus: FakeBus) -> Outgoing:
    return Outgoing(bus, SystemClock(), "recorder-1", lambda _camera, _dropped: None)  # type: ignore[arg-type]


async def test_accounts_wait_for_a_bus_that_is_away_and_come_in_order() -> None:
    bus, stop = FakeBus(), Stop()
    out = outgoing_on(bus)
    sending = asyncio.create_task(out.send_accounts(stop))
    for number in range(3):
        out.passed_over(account(number))
    await asyncio.sleep(0)
    bus.away = False
    await until(lambda: len(bus.taken) == 3)
    stop.set()
    await sending
    assert bus.accounts() == [account(0), account(1), account(2)]


async def test_the_oldest_accounts_go_when_too_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "MAX_ACCOUNTS", 3)
    bus = FakeBus()
    out = outgoing_on(bus)
    lost = metrics.DETECTIONS_DROPPED.labels(DETECTIONS.name)
    before = lost._value.get()
    for number in range(5):
        out.passed_over(account(number))
    bus.away = False
    await out.flush()
    assert bus.accounts() == [account(2), account(3), account(4)]
    assert lost._value.get() - before == 2


async def test_a_frame_that_the_bus_refuses_becomes_an_account() -> None:
    bus, stop = FakeBus(), Stop()
    out = outgoing_on(bus)
    sending = asyncio.create_task(out.send_frames(stop))
    meta = FrameMeta("a", 9 * SECOND_US, 0, 640, 360, 1, 1, covers_us=SECOND_US)
    out.frame(FrameSampled(meta, b"jpeg"))
    out.frame(FrameSampled(meta._replace(capture_us=10 * SECOND_US), b"x" * (FRAMES.max_bytes + 1)))

    async def told() -> bool:
        bus.away = False
        await out.flush()
        bus.away = True
        return len(bus.accounts()) == 2

    await until(told)
    stop.set()
    await sending
    found = {(run.start_us, run.end_us, run.reason) for run in bus.accounts()}
    assert found == {
        (8 * SECOND_US, 9 * SECOND_US, "late"),
        (9 * SECOND_US, 10 * SECOND_US, "too_large"),
    }
