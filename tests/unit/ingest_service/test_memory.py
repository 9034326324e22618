"""A recorder that starts while the bus is away records what it last had."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.ingest.memory import CameraMemory
from shared.bus import Bus, Consumer
from shared.clock import DAY_US, SECOND_US, SimulatedClock
from shared.domain import Camera, RecordingState
from shared.errors import Kind, LamppostError
from shared.platform import open_platform
from tests.support.fake_media import camera
from tests.support.ingest_world import World, a_world, configure, settings_of
from tests.support.wait import until


class Away:
    """A bus that nobody reaches until `back`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.back = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def partitions(self, topic: str) -> int:
        self._check()
        return await self._bus.partitions(topic)

    async def consumer(self, *args: Any, **options: Any) -> Consumer:
        self._check()
        return await self._bus.consumer(*args, **options)

    def _check(self) -> None:
        if not self.back:
            raise LamppostError(Kind.UNAVAILABLE, "nobody listens there")


@asynccontextmanager
async def started_without_bus(
    folder: Path, *, before: tuple[Camera, ...] = (), **ingest: object
) -> AsyncIterator[tuple[World, Away]]:
    """A recorder whose bus is away since before its start."""
    settings = settings_of(folder, **ingest)
    platform = await open_platform(settings)
    await configure(platform.bus, *before)
    bus = Away(platform.bus)
    watcher = await platform.bus.consumer(["camera-status"], start="earliest")
    world = World(dataclasses.replace(platform, bus=bus), settings, watcher)  # type: ignore[arg-type]
    try:
        yield world, bus
    finally:
        await world.end()
        await platform.close()


async def lived(folder: Path, *cameras: Camera) -> None:
    """A life of the recorder with these cameras, which ends by a kill."""
    async with a_world(folder) as world:
        await world.configure(*cameras)
        await world.service.membership.run_once()
        assert set(world.media.cameras) == {camera.id for camera in cameras}


async def test_it_records_what_it_last_had_and_follows_the_group_when_it_is_back(
    tmp_path: Path,
) -> None:
    await lived(tmp_path, camera("a"), camera("b"))
    changed = camera("b", version=2)
    async with started_without_bus(tmp_path, before=(changed,)) as (world, bus):
        world.start()
        await until(lambda: set(world.media.cameras) == {"a", "b"}, what="both are recorded")
        assert world.media.cameras["b"].version == 1
        epochs = dict(world.media.epochs)
        assert all(epoch >= world.media.epoch for epoch in epochs.values()), "a life of its own"
        bus.back = True
        await until(lambda: world.media.cameras["b"].version == 2, what="the group is heard")
        assert world.media.calls.count(("add", "a")) == 1, "what is the same is not touched"
        assert world.media.epochs == epochs


async def test_what_was_deleted_meanwhile_ends_once_the_group_is_heard(tmp_path: Path) -> None:
    await lived(tmp_path, camera("a"))
    gone = camera("a", deleted_at_us=5, version=2)
    async with started_without_bus(tmp_path, before=(gone,)) as (world, bus):
        world.start()
        await until(lambda: "a" in world.media.cameras, what="it is recorded")
        bus.back = True
        await until(lambda: not world.media.cameras, what="it is let go")


async def test_what_it_handed_over_it_does_not_take_up(tmp_path: Path) -> None:
    names = [f"cam-{number}" for number in range(8)]
    async with (
        a_world(tmp_path, handover_s=0) as one,
        a_world(tmp_path, instance="recorder-2", handover_s=0) as two,
    ):
        await one.configure(*[camera(name) for name in names])
        one.start()
        await until(lambda: len(one.media.cameras) == len(names), what="all are recorded")
        two.start()

        async def shared() -> bool:
            for name in two.media.cameras:
                two.media.state(name, RecordingState.RECORDING)
            both = len(one.media.cameras) + len(two.media.cameras)
            return bool(two.media.cameras) and both == len(names)

        await until(shared, 20, what="half of them has moved")
        moved = set(two.media.cameras)
        assert moved != set(names)
        kept = CameraMemory(one.spool.dir, one.platform.clock)
        await until(
            lambda: {found.id for found in kept.recall()} == set(names) - moved,
            what="the memory follows",
        )


async def test_no_more_than_it_may_record(tmp_path: Path) -> None:
    await lived(tmp_path, camera("a"), camera("b"), camera("c"))
    async with started_without_bus(tmp_path, max_streams=2) as (world, _):
        world.start()
        await until(lambda: len(world.media.cameras) == 2, what="two are recorded")


async def test_nothing_is_recorded_where_nothing_is_remembered(tmp_path: Path) -> None:
    async with started_without_bus(tmp_path) as (world, bus):
        await world.service.membership._recall()
        assert world.media.cameras == {}
        await configure(world.platform.bus, camera("a"))
        bus.back = True
        await world.service.membership.run_once()
        assert set(world.media.cameras) == {"a"}


def test_a_memory_is_of_today_and_renewed(tmp_path: Path) -> None:
    clock = SimulatedClock()
    memory = CameraMemory(tmp_path, clock)
    memory.keep([camera("a")])
    assert not memory.is_due([camera("a")]) and memory.is_due([camera("a"), camera("b")])
    clock.jump_wall(DAY_US - SECOND_US)
    assert memory.recall() == [camera("a")]
    clock.jump_wall(SECOND_US)
    assert memory.recall() == []
    clock.jump_wall(-2 * DAY_US)
    assert memory.recall() == [], "a clock that stands before it knows no age"


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"format":2,"at_us":0,"cameras":[]}'])
def test_a_memory_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cameras").write_bytes(content)
    assert CameraMemory(tmp_path, SimulatedClock()).recall() == []


def test_a_volume_that_takes_nothing_stops_nothing(tmp_path: Path) -> None:
    memory = CameraMemory(tmp_path / "missing", SimulatedClock())
    memory.keep([camera("a")])
    assert memory.recall() == [] and not memory.is_due([camera("a")])
