"""A crash of `archive --index` between any two steps is repaired by running again (invariants 1, 2
and 9): sightings, their pictures, boxes objects and rows are what one undisturbed life leaves.

The ports are wrapped so that the process "dies" at the n-th step boundary: from there on every step
fails, until a new life begins. One test enumerates every boundary, one draws schedules of several
crashes and repeated deliveries, one kills a real process.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.archive.service import build
from shared import boxes, ids
from shared.bus import Message
from shared.clock import SECOND_US, SimulatedClock, SystemClock
from shared.db import tables
from shared.messages import SIGHTINGS, SightingUpdated, encode
from shared.platform import Platform
from shared.settings import Settings
from tests.support import archiving, seen, sightings
from tests.support.archiving import MINUTE_US, START_US
from tests.support.wait import until

JPEG = b"\xff\xd8\xff a picture"
CAMERAS = ("cam", "other")
SEGMENTS = 2


class Killed(BaseException):
    """The process is no more."""


class Steps:
    """Counts step boundaries and dies at the chosen one, for good."""

    def __init__(self, last: int | None = None) -> None:
        self.count = 0
        self._last = last

    def boundary(self) -> None:
        if self._last is not None and self.count >= self._last:
            raise Killed
        self.count += 1


class Wrapped:
    """A port with a boundary before and after each of the named calls."""

    def __init__(self, inner: Any, steps: Steps, *names: str) -> None:
        self._inner, self._steps, self._names = inner, steps, names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._around(found) if name in self._names else found

    def _around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def around(*args: Any, **kwargs: Any) -> Any:
            self._steps.boundary()
            result = await call(*args, **kwargs)
            self._steps.boundary()
            return result

        return around


class WrappedDatabase(Wrapped):
    """A boundary before a write, before its commit, and after it."""

    @asynccontextmanager
    async def write(self, cameras: Any = ()) -> AsyncIterator[Any]:
        self._steps.boundary()
        async with self._inner.write(cameras) as connection:
            yield connection
            self._steps.boundary()
        self._steps.boundary()


class WrappedBus(Wrapped):
    """Consumers with a boundary around each commit; a death silences them without a word."""

    def __init__(self, inner: Any, steps: Steps) -> None:
        super().__init__(inner, steps)
        self._made: list[Any] = []

    async def consumer(self, *args: Any, **kwargs: Any) -> Any:
        made = await self._inner.consumer(*args, **kwargs)
        self._made.append(made)
        return Wrapped(made, self._steps, "commit")

    async def drop(self) -> None:
        for made in self._made:
            await made.drop()


def messages(start_us: int) -> list[Message]:
    """Two minutes of two cameras: a walker each, updated and ended, and a frame a second."""
    found: list[Message] = []
    for camera_id in CAMERAS:
        for seconds in (1, 2, 3):
            one = sightings.sighting(f"{camera_id}-1", camera_id, start_us, seconds)
            picture = JPEG if seconds == 2 else None
            event = SightingUpdated(one, seconds == 3, start_us + seconds, picture)
            found.append(Message(SIGHTINGS.name, camera_id, encode(event)))
        end_us = start_us + SEGMENTS * MINUTE_US
        found += seen.frames(start_us, end_us - 20 * SECOND_US, camera_id)
        found.append(
            seen.passed(end_us - 20 * SECOND_US, end_us - 10 * SECOND_US, "gated", camera_id)
        )
        found.append(
            seen.passed(end_us + 25 * SECOND_US, end_us + 30 * SECOND_US, "gated", camera_id)
        )
    return found


@dataclasses.dataclass
class Scene:
    """A state folder that outlives its archives."""

    settings: Settings
    platform: Platform
    clock: SimulatedClock

    async def fill(self) -> None:
        service = build(self.platform, self.settings, "spool")
        for camera_id in CAMERAS:
            for number in range(SEGMENTS):
                made = archiving.segment(START_US + number * MINUTE_US, camera_id)
                archiving.file_segment(self.settings, made)
        await archiving.drain(service)
        held = archiving.hold(START_US, START_US + 1, self.clock.now_us())
        await archiving.place(self.platform, held)
        await self.platform.bus.publish(messages(START_US))

    async def live(self, last: int | None) -> int:
        """One life of the index, to its end or its death; the steps it took."""
        steps = Steps(last)
        bus = WrappedBus(self.platform.bus, steps)
        platform = dataclasses.replace(
            self.platform,
            blobs=Wrapped(self.platform.blobs, steps, "put", "delete", "set_tags"),  # type: ignore[arg-type]
            bus=bus,  # type: ignore[arg-type]
            database=WrappedDatabase(self.platform.database, steps),  # type: ignore[arg-type]
        )
        service = build(platform, self.settings, "index")
        service.index.wait_s = 0.0
        await self.clock.advance(6)
        try:
            while await service.index.run_once():
                pass
            while await service.boxes.run_once():
                pass
        except Killed:
            pass
        await bus.drop()
        return steps.count

    async def state(self) -> dict[str, Any]:
        """Everything that a life leaves, but for when it did so."""
        rows = await archiving.all_rows(self.platform, tables.sighting)
        segments = await archiving.all_rows(self.platform, tables.segment)
        keys = await archiving.all_keys(self.platform)
        stats = [await self.platform.blobs.stat(key) for key in keys if key.endswith(".boxes")]
        return {
            "sightings": {row["id"]: row | {"committed_at_us": 0} for row in rows},
            "thumbnails": await archiving.all_rows(self.platform, tables.thumbnail),
            "segments": {row["id"]: row for row in segments},
            "objects": {one.key: (one.sha256, dict(one.tags)) for one in stats if one is not None},
        }


def is_sound(state: dict[str, Any]) -> None:
    """One row and picture a walker, one object a segment, named by its row, held where it is."""
    assert sorted(state["sightings"]) == ["cam-1", "other-1"]
    assert all(row["ended"] for row in state["sightings"].values())
    assert len(state["thumbnails"]) == 2
    named = {ids.boxes_key(row["key"]): row["boxes_sha256"] for row in state["segments"].values()}
    assert {key: sha256 for key, (sha256, _) in state["objects"].items()} == named
    assert len(named) == len(CAMERAS) * SEGMENTS
    tags = sorted(tags["lamppost"] for _, tags in state["objects"].values())
    assert tags == ["held", "standard", "standard", "standard"]
    for row in state["segments"].values():
        assert row["boxes_partial"] is False
        assert row["analysed_us"] + row["gated_us"] >= MINUTE_US - 10 * SECOND_US


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filled state folder that no index has seen, to be copied."""
    state = tmp_path_factory.mktemp("template") / "state"

    async def make() -> None:
        made, clock = archiving.settings_in(state), archiving.late_clock(3 * MINUTE_US)
        async with archiving.opened(made, clock) as platform:
            await Scene(made, platform, clock).fill()

    asyncio.run(make())
    return state


@asynccontextmanager
async def scene(template: Path, target: Path) -> AsyncIterator[Scene]:
    shutil.copytree(template, target)
    made, clock = archiving.settings_in(target), archiving.late_clock(3 * MINUTE_US)
    async with archiving.opened(made, clock) as platform:
        yield Scene(made, platform, clock)
    shutil.rmtree(target)


async def test_every_boundary_can_be_the_last(template: Path, tmp_path: Path) -> None:
    async with scene(template, tmp_path / "whole") as found:
        boundaries = await found.live(None)
        expected = await found.state()
        is_sound(expected)
    assert boundaries > 20
    for last in range(boundaries):
        async with scene(template, tmp_path / f"{last}") as found:
            assert await found.live(last) == last
            await found.live(None)
            assert await found.state() == expected, f"dead at boundary {last}"


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    deaths=st.lists(st.integers(0, 28), min_size=2, max_size=6),
    again=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_any_schedule_of_crashes_and_repeated_messages_is_repaired(
    template: Path,
    tmp_path_factory: pytest.TempPathFactory,
    deaths: list[int],
    again: list[bool],
) -> None:
    async def run() -> None:
        target = tmp_path_factory.mktemp("schedule") / "state"
        async with scene(template, target) as found:
            for last, repeated in zip(deaths, again, strict=False):
                await found.live(last)
                if repeated:
                    await found.platform.bus.publish(messages(START_US))
            await found.live(None)
            await found.platform.bus.publish(messages(START_US))
            await found.live(None)
            is_sound(await found.state())

    asyncio.run(run())


PROCESS = """
import asyncio, sys
from pathlib import Path
from services.archive.service import build
from shared.clock import SystemClock
from shared.runtime import Stop
from tests.support import archiving

async def main():
    settings = archiving.settings_in(Path(sys.argv[1]))
    async with archiving.opened(settings, SystemClock()) as platform:
        await build(platform, settings, "index").run(Stop())

asyncio.run(main())
"""


async def test_a_killed_process_loses_and_doubles_nothing(tmp_path: Path) -> None:
    made, clock = archiving.settings_in(tmp_path / "state"), SystemClock()
    count = 16
    start_us = (clock.now_us() // MINUTE_US - 2 * count) * MINUTE_US
    async with archiving.opened(made, clock) as platform:
        service = build(platform, made, "spool")
        for number in range(count):
            archiving.file_segment(made, archiving.segment(start_us + number * MINUTE_US))
        await archiving.drain(service)
        end_us = start_us + count * MINUTE_US
        walkers = [
            sightings.updated(
                sightings.sighting(f"s-{number}", start_us=start_us + number * SECOND_US),
                thumbnail=JPEG,
            )
            for number in range(300)
        ]
        frames = list(seen.frames(start_us, end_us + 30 * SECOND_US))
        await platform.bus.publish([*walkers, *frames])

        async def written() -> int:
            rows = await archiving.all_rows(platform, tables.segment)
            return sum(row["boxes_sha256"] is not None for row in rows)

        for more in (3, 0):
            wanted = min(await written() + more, count) if more else count
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PROCESS, str(made.state_dir), cwd=Path(__file__).parents[2]
            )
            try:
                await until(_reached(written, wanted), timeout_s=60)
            finally:
                process.kill()
                await process.wait()
        rows = await archiving.all_rows(platform, tables.segment)
        for row in rows:
            key = ids.boxes_key(row["key"])
            assert await platform.blobs.verify(key) == row["boxes_sha256"]
            found = boxes.decode(await platform.blobs.read(key))
            assert boxes.seen(found).analysed_us == row["analysed_us"] == MINUTE_US
        keys = await archiving.all_keys(platform)
        assert sum(key.endswith(".boxes") for key in keys) == count
        assert len(await archiving.all_rows(platform, tables.sighting)) == 300
        assert len(await archiving.all_rows(platform, tables.thumbnail)) == 300


def _reached(count: Callable[[], Any], wanted: int) -> Callable[[], Any]:
    async def reached() -> bool:
        return await count() >= wanted

    return reached
