"""Cameras that come from another recorder, and cameras that go to one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.ingest.media import StateChanged
from services.ingest.peers import Peers
from shared.bus import Message
from shared.clock import SECOND_US, SimulatedClock
from shared.domain import GapReason, RecordingState
from shared.messages import RecorderStatus, StatusChanged, encode
from shared.runtime import Stop
from tests.support.fake_media import camera
from tests.support.ingest_world import World, a_world
from tests.support.wait import until

LATER = 1 << 52
"""An epoch that is newer than any of these recorders'."""


async def hear(world: World, *events: StatusChanged | RecorderStatus) -> None:
    """Something that another recorder said."""
    await world.platform.bus.publish(
        [
            Message(
                "camera-status",
                event.camera_id if isinstance(event, StatusChanged) else event.recorder,
                encode(event),
            )
            for event in events
        ]
    )


def word(
    camera_id: str,
    at_us: int,
    state: str = "recording",
    epoch: int = 1,
    accounted_us: int | None = None,
) -> StatusChanged:
    state_of = RecordingState(state)
    return StatusChanged(
        camera_id, state_of, at_us, at_us, "other", epoch, accounted_until_us=accounted_us
    )


def alive(at_us: int, *, stopped: bool = False) -> RecorderStatus:
    return RecorderStatus("other", at_us, 1, "", (), 0, 0, 0, stopped)


async def test_an_epoch_is_higher_than_any_heard_of_the_cameras(tmp_path: Path) -> None:
    clock = SimulatedClock()
    async with a_world(tmp_path, clock) as world:
        ahead = clock.now_us() + 60 * SECOND_US
        await hear(world, word("a", clock.now_us(), epoch=ahead), word("b", 1, epoch=1 << 60))
        await world.configure(camera("a"))
        await world.service.membership.run_once()
        assert world.media.epochs["a"] == ahead + 1
        await world.configure(camera("b"))
        await world.service.membership.run_once()
        assert ahead + 1 < world.media.epochs["b"] <= (1 << 53) + 1, "a wild one counts in bounds"
        assert int((world.spool.dir / "epoch").read_text()) == world.media.epochs["b"]


@pytest.mark.parametrize(
    ("quiet_s", "state", "accounted_ms", "begins_ms", "reason"),
    [
        # The word comes after the pictures that it accounts for, and those after it may be lost.
        (60, "recording", -170, -170, ""),
        (60, "retrying", -40_000, -40_000, ""),
        (60, "recording", 5_000, 0, ""),
        (60, "recording", None, -1_000, ""),
        # One that ended filed its own account, which goes beyond its word.
        (1, "stopped", -170, 0, GapReason.RECORDER_STOPPED.value),
    ],
)
async def test_the_account_begins_where_that_of_who_is_gone_ended(
    tmp_path: Path,
    quiet_s: int,
    state: str,
    accounted_ms: int | None,
    begins_ms: int,
    reason: str,
) -> None:
    clock = SimulatedClock()
    async with a_world(tmp_path, clock) as world:
        said_us = clock.now_us() - quiet_s * SECOND_US
        accounted_us = None if accounted_ms is None else said_us + accounted_ms * 1_000
        await hear(world, word("a", said_us, state, accounted_us=accounted_us))
        await world.configure(camera("a"), camera("b"))
        await world.service.membership.run_once()
        assert world.spool.accounted_until("a") == said_us + begins_ms * 1_000
        assert world.spool.stopped_because("a") == reason
        assert world.spool.accounted_until("b") is None, "nobody ever spoke of it"


async def test_a_camera_of_a_living_recorder_leaves_no_gap_behind(tmp_path: Path) -> None:
    clock = SimulatedClock()
    async with a_world(tmp_path, clock, status_interval_s=5) as world:
        await hear(world, word("a", clock.now_us() - SECOND_US))
        world.spool.set_accounted_until("old", 5, "moved")
        said_us = clock.now_us() - SECOND_US
        await hear(world, word("old", said_us, accounted_us=said_us - 40_000))
        await world.configure(camera("a"), camera("old"))
        await world.service.membership.run_once()
        assert world.spool.accounted_until("a") is None
        # Who recorded it before begins where the other is, not where it left off itself.
        assert world.spool.accounted_until("old") == said_us - 40_000
        assert world.spool.stopped_because("old") == GapReason.MOVED.value


async def test_cameras_are_kept_until_the_other_records_them(tmp_path: Path) -> None:
    clock = SimulatedClock()
    cameras = [camera("a"), camera("b"), camera("c", enabled=False)]
    async with a_world(tmp_path, clock) as one, a_world(tmp_path, clock, "recorder-2") as two:
        await one.configure(*cameras)
        await one.service.membership.run_once()
        await two.service.report()
        await two.service._out.flush()
        leaving = asyncio.create_task(one.service.membership.hand_over(30.0))
        while len(two.media.cameras) < 3:
            await two.service.membership.run_once()
        await two.say(StateChanged("a", RecordingState.RECORDING, clock.now_us()))
        await until(lambda: set(one.media.cameras) == {"b"})
        await two.say(StateChanged("b", RecordingState.RECORDING, clock.now_us()))
        await leaving
        assert one.media.cameras == {}
        removed = [call[1] for call in one.media.calls if call[0] == "remove"]
        assert sorted(removed) == ["a moved", "b moved", "c moved"]


@pytest.mark.parametrize("stopped", [None, True])
async def test_without_another_recorder_nobody_is_waited_for(
    tmp_path: Path, stopped: bool | None
) -> None:
    clock = SimulatedClock()
    async with a_world(tmp_path, clock) as world:
        if stopped:
            await hear(world, alive(clock.now_us(), stopped=True))
        await hear(world, alive(clock.now_us() - 3600 * SECOND_US))
        await world.configure(camera("a"))
        await world.service.membership.run_once()
        await world.service.membership.hand_over(30.0)
        assert set(world.media.cameras) == {"a"}, "the end files it"


class SlowPeers(Peers):
    """The bus answers later than the end would wait for one that is away."""

    async def listen(self, timeout_s: float = 0) -> None:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[None] = loop.create_future()
        loop.call_later(0.05, answered.set_result, None)
        await answered
        await super().listen(timeout_s)


@pytest.mark.parametrize("heard", [True, False])
async def test_a_bus_that_is_slow_is_waited_for_and_one_that_is_away_is_not(
    tmp_path: Path, heard: bool
) -> None:
    clock = SimulatedClock()
    async with a_world(tmp_path, clock) as world:
        membership = world.service.membership
        await hear(world, alive(clock.now_us()))
        await world.configure(camera("a"))
        if heard:
            following = asyncio.create_task(membership.run(stop := Stop()))
            await until(lambda: membership.has_a_share)
            stop.set()
            await following
        membership._peers = SlowPeers(world.platform.bus, clock, "recorder-1", status_interval_s=5)
        leaving = asyncio.create_task(membership.hand_over(30.0, hear_s=0.01))
        if not heard:
            with pytest.raises(TimeoutError):
                await leaving
            return
        await until(lambda: membership._consumer is None)
        await hear(world, word("a", clock.now_us(), epoch=LATER))
        await leaving
        assert world.media.cameras == {}


async def test_a_word_that_waited_for_the_bus_takes_no_camera(tmp_path: Path) -> None:
    """Said by who had the camera before this recorder, heard while it is handed over: only the
    new owner's own word, under an epoch that is not older, lets it go."""
    clock = SimulatedClock()
    async with a_world(tmp_path, clock) as world:
        membership = world.service.membership
        await hear(world, alive(clock.now_us()), word("a", clock.now_us(), epoch=5))
        await world.configure(camera("a"), camera("b"))
        await membership.run_once()
        mine = world.media.epochs["a"]
        leaving = asyncio.create_task(membership.hand_over(30.0))
        await until(lambda: membership._consumer is None)
        await hear(
            world,
            word("a", clock.now_us(), epoch=5),
            word("b", clock.now_us(), epoch=mine),
        )
        await until(lambda: "b" not in world.media.cameras)
        assert set(world.media.cameras) == {"a"}
        await hear(world, word("a", clock.now_us(), epoch=mine + 1))
        await leaving
        assert world.media.cameras == {}


async def test_who_hears_nobody_takes_an_epoch_of_the_moment(tmp_path: Path) -> None:
    """A recorder that waited for long before its first camera: whoever has it began later."""
    clock = SimulatedClock()
    async with a_world(tmp_path, clock) as world:
        started = world.media.epoch
        await clock.advance(60)
        await world.configure(camera("a"))
        await world.service.membership.run_once()
        assert world.media.epochs["a"] == clock.now_us() > started


async def test_patience_ends_when_nobody_takes_over(tmp_path: Path) -> None:
    clock = SimulatedClock()
    async with a_world(tmp_path, clock) as world:
        await hear(world, alive(clock.now_us()))
        await world.configure(camera("a"))
        await world.service.membership.run_once()
        leaving = asyncio.create_task(world.service.membership.hand_over(3.0))

        async def ended() -> bool:
            await clock.advance(0.5)
            return leaving.done()

        await until(ended)
        await leaving
        assert set(world.media.cameras) == {"a"}
