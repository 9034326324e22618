"""Zones that are drawn, redrawn or removed are applied to the paths of stored sightings."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from services.archive import reindex
from services.archive.reindex import Done, ZoneFollower
from services.cli import app
from shared import audit
from shared.bus import Message
from shared.clock import DAY_US, SECOND_US, SimulatedClock
from shared.db import rows, tables
from shared.domain import Camera, Source
from shared.errors import Kind, LamppostError
from shared.messages import CAMERAS, CameraChanged, encode
from shared.platform import Platform
from shared.settings import Settings
from shared.sightings import Sighting, Zone, marked
from tests.support import archiving, databases, sightings
from tests.support.archiving import START_US

LEFT = Zone(id="left", kind="zone", name="Left", points=((0.0, 0.0), (0.3, 0.0), (0.3, 1.0)))
GATE = Zone(
    id="gate",
    kind="line",
    name="Gate",
    points=((0.5, 0.0), (0.5, 1.0)),
    directions={"left_to_right": "in", "right_to_left": "out"},
)


@dataclasses.dataclass
class World:
    settings: Settings
    platform: Platform
    clock: SimulatedClock

    async def store(self, *found: Sighting, **changes: Any) -> None:
        now_us = self.clock.now_us()
        made = [sightings.row(one, now_us=now_us, **changes) for one in found]
        await databases.insert(self.platform.database, tables.sighting, *made)

    async def draw(self, *zones: Zone, camera_id: str = "cam") -> None:
        """The camera's zones are these from now on."""
        async with self.platform.database.write() as connection:
            await connection.execute(
                sa.delete(tables.zone).where(tables.zone.c.camera_id == camera_id)
            )
            for zone in zones:
                values = {
                    **msgspec.to_builtins(zone), "id": zone.id, "camera_id": camera_id,
                    "created_at_us": START_US, "updated_at_us": START_US,
                }  # fmt: skip
                await connection.execute(sa.insert(tables.zone).values(values))

    async def add_camera(self, *camera_ids: str) -> None:
        async with self.platform.database.write() as connection:
            for camera_id in camera_ids:
                camera = Camera(id=camera_id, name=camera_id, source=Source("file:///a.mp4"))
                values = rows.camera_row(camera, START_US)
                await connection.execute(sa.insert(tables.camera).values(values))

    async def found(self) -> dict[str, Sighting]:
        stored = await archiving.all_rows(self.platform, tables.sighting)
        assert all(sightings.stored(row).zones_version == row["zones_version"] for row in stored)
        return {row["id"]: sightings.stored(row) for row in stored}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened(tmp_path) as made:
        yield made


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[World]:
    settings, clock = archiving.settings_in(folder / "state"), archiving.late_clock()
    async with archiving.opened(settings, clock) as platform:
        yield World(settings, platform, clock)


def walker(number: int = 1, camera_id: str = "cam", **changes: Any) -> Sighting:
    start_us = START_US + number * SECOND_US
    return sightings.sighting(f"sighting-{number}", camera_id, start_us, **changes)


async def test_zones_and_lines_are_applied_as_detection_applies_them(world: World) -> None:
    await world.store(walker(1), walker(2, path=((0.9, 0.5), (0.6, 0.5))))
    await world.draw(LEFT, GATE)
    assert await reindex.reindex(world.platform, "cam") == Done(2, 2)
    found = await world.found()
    for one in found.values():
        assert one == marked(one, (LEFT, GATE))
    assert [line.direction for line in found["sighting-1"].lines] == ["out"]
    assert await reindex.reindex(world.platform, "cam") == Done(0, 0)


async def test_a_removed_zone_is_removed(world: World) -> None:
    await world.store(marked(walker(1), (LEFT, GATE)))
    assert await reindex.reindex(world.platform, "cam") == Done(1, 1)
    assert (await world.found())["sighting-1"] == walker(1)


async def test_only_the_camera_the_span_and_what_has_not_expired(world: World) -> None:
    await world.draw(GATE)
    await world.store(walker(1), walker(5), walker(9), walker(6, "other"))
    await world.store(walker(7), expires_at_us=world.clock.now_us())
    span = (START_US + 5 * SECOND_US, START_US + 9 * SECOND_US)
    assert await reindex.reindex(world.platform, "cam", span) == Done(1, 1)
    found = await world.found()
    assert {key for key, one in found.items() if one.zones_version} == {"sighting-5"}


async def test_many_pages_of_equal_times(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reindex, "PAGE", 3)
    await world.draw(GATE)
    same = [
        msgspec.structs.replace(walker(1 + number // 8), id=f"s-{number:02}")
        for number in range(20)
    ]
    await world.store(*same)
    steps: list[Done] = []
    done = await reindex.reindex(world.platform, "cam", step=steps.append)
    assert done == Done(20, 20)
    assert [step.looked for step in steps] == [3, 3, 3, 3, 3, 3, 2]
    assert all(one.lines for one in (await world.found()).values())


def with_write(world: World, before: Callable[[], Awaitable[None]]) -> Platform:
    """A platform on which something happens before the next write."""
    inner, once = world.platform.database, [before]

    class Database:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        @asynccontextmanager
        async def write(self, cameras: Any = ()) -> AsyncIterator[Any]:
            while once:
                await once.pop()()
            async with inner.write(cameras) as connection:
                yield connection

    return dataclasses.replace(world.platform, database=Database())  # type: ignore[arg-type]


async def test_zones_that_change_meanwhile_are_applied(world: World) -> None:
    await world.draw(LEFT)
    await world.store(walker(1), walker(2))
    platform = with_write(world, lambda: world.draw(GATE))
    assert await reindex.reindex(platform, "cam") == Done(2, 2)
    for one in (await world.found()).values():
        assert one == marked(one, (GATE,))


async def test_a_sighting_that_is_updated_meanwhile_keeps_its_update(world: World) -> None:
    longer = marked(walker(1, seconds=20.0), (GATE,))

    async def update() -> None:
        row = sightings.row(longer, now_us=world.clock.now_us() + 1)
        async with world.platform.database.write() as connection:
            await connection.execute(sa.update(tables.sighting).values(row))

    await world.draw(GATE)
    await world.store(walker(1))
    assert await reindex.reindex(with_write(world, update), "cam") == Done(1, 0)
    assert await world.found() == {"sighting-1": longer}


# What a person asks for


async def test_a_run_is_audited_before_it_begins(world: World) -> None:
    await world.add_camera("cam", "other")
    await world.draw(GATE)
    await world.store(walker(1), walker(2, "other"))
    asked = await reindex.plan(world.platform, [])
    assert (asked.cameras, asked.sightings) == (("cam", "other"), 1)

    async def look() -> None:
        (entry,) = await archiving.all_rows(world.platform, tables.audit)
        assert (entry["action"], entry["actor_id"]) == ("sighting.reindex", "local")
        assert entry["camera_ids"] == ["cam", "other"]
        assert entry["detail"] == {"sightings": 1}

    looked: list[Done] = []
    done = await reindex.carry_out(world.platform, asked, audit.LOCAL, looked.append)
    await look()
    assert done == Done(1, 1) and looked == [done]


async def test_a_camera_that_never_was_is_named(world: World) -> None:
    await world.add_camera("cam")
    with pytest.raises(LamppostError, match="no camera other") as caught:
        await reindex.plan(world.platform, ["cam", "other"])
    assert caught.value.kind is Kind.NOT_FOUND


@databases.only_sqlite
def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMPPOST_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("LAMPPOST_STORES__BUS_PARTITIONS", "1")

    async def prepare() -> None:
        async with opened(tmp_path) as world:
            await world.add_camera("cam")
            await world.draw(GATE)
            far_us = world.clock.now_us() + 20_000 * DAY_US
            await world.store(walker(1), expires_at_us=far_us)

    asyncio.run(prepare())
    assert app.run(["reindex", "--json"]) == 0
    assert capsys.readouterr().out == '{"cameras": 1, "sightings": 1, "changed": 1}\n'
    assert app.run(["reindex", "--camera", "cam", "--since", "2024-01-01T00:00"]) == 0
    assert "has the zones and lines of today" in capsys.readouterr().out
    assert app.run(["reindex", "--since", "2024-01-02T00:00", "--until", "2024-01-01T00:00"]) == 2
    assert "must lie after" in capsys.readouterr().err
    assert app.run(["reindex", "--camera", "nowhere"]) == 1
    assert "There is no camera nowhere" in capsys.readouterr().err


# By itself


async def test_the_archive_follows_what_is_drawn(world: World) -> None:
    def told(camera_id: str) -> Message:
        camera = Camera(id=camera_id, name="x", source=Source("file:///a.mp4"))
        return Message(CAMERAS.name, camera_id, encode(CameraChanged(camera)))

    async def follow() -> None:
        follower = ZoneFollower(world.platform, world.settings)
        while await follower.run_once():
            pass
        await follower.leave()

    await world.store(walker(1), walker(2, "other"))
    await world.draw(GATE)
    await world.draw(LEFT, camera_id="other")
    await world.platform.bus.publish([told("cam"), Message(CAMERAS.name, "x", b"{")])
    await follow()
    found = await world.found()
    assert [bool(found[f"sighting-{number}"].zones_version) for number in (1, 2)] == [True, False]
    await world.platform.bus.publish([told("other")])
    await world.draw(msgspec.structs.replace(LEFT, id="left-2"))
    await follow()
    found = await world.found()
    assert found["sighting-1"] == marked(found["sighting-1"], (GATE,)), "told once, done once"
    assert found["sighting-2"] == marked(found["sighting-2"], (LEFT,))
