"""A crash of the archive between any two steps is repaired by running again (invariants 1, 2, 9).

The ports are wrapped so that the process "dies" at the n-th step boundary: from there on every
step fails, until a new archive is built. One test enumerates every boundary, one draws schedules of
several crashes, one kills a real process.
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

from services.archive.service import ArchiveService, build
from services.archive.spooler import SpoolArchiver
from shared import outbox
from shared.clock import DAY_US, SECOND_US, SystemClock
from shared.db import tables
from shared.domain import GapReason
from shared.platform import Platform
from shared.settings import Settings
from shared.spool import Filed, SpoolReader
from tests.support import archiving
from tests.support.archiving import MINUTE_US, START_US
from tests.support.wait import until


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


class WrappedDatabase:
    """A boundary before a write, before its commit, and after it."""

    def __init__(self, inner: Any, steps: Steps) -> None:
        self._inner, self._steps = inner, steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @asynccontextmanager
    async def write(self, cameras: Any = ()) -> AsyncIterator[Any]:
        self._steps.boundary()
        async with self._inner.write(cameras) as connection:
            yield connection
            self._steps.boundary()
        self._steps.boundary()


class WrappedReader(SpoolReader):
    """A boundary before, between and after the deletes of an item."""

    def __init__(self, root: Path, steps: Steps) -> None:
        super().__init__(root)
        self._steps = steps

    def remove(self, item: Filed) -> None:
        self._steps.boundary()
        if item.video is not None:
            item.video.unlink(missing_ok=True)
        self._steps.boundary()
        super().remove(item)
        self._steps.boundary()


@dataclasses.dataclass
class Scene:
    """A state folder that outlives its archives."""

    settings: Settings
    platform: Platform

    def archive(self, steps: Steps) -> ArchiveService:
        platform = dataclasses.replace(
            self.platform,
            blobs=Wrapped(self.platform.blobs, steps, "put", "set_tags"),  # type: ignore[arg-type]
            bus=Wrapped(self.platform.bus, steps, "publish"),  # type: ignore[arg-type]
            database=WrappedDatabase(self.platform.database, steps),  # type: ignore[arg-type]
        )
        service = build(platform, self.settings, "spool")
        service.relay = outbox.Relay(platform, "archive", batch=2)
        reader = WrappedReader(self.settings.path(self.settings.spool.dir), steps)
        service.spool = SpoolArchiver(platform, self.settings, service.relay, reader)
        return service

    async def live(self, last: int | None) -> int:
        """One life of an archive, to its end or its death; the steps it took."""
        steps = Steps(last)
        service = self.archive(steps)
        try:
            await service.spool.tidy()
            while await service.spool.run_once():
                pass
            while await service.relay.run_once():
                pass
        except Killed:
            pass
        return steps.count

    def fill(self) -> None:
        """Everything an archive meets: good, damaged and late segments, and gaps."""
        for number in range(3):
            archiving.file_segment(
                self.settings, archiving.segment(START_US - number * MINUTE_US, f"cam{number % 2}")
            )
        archiving.file_segment(self.settings, archiving.segment(camera_id="bent"), b"damaged")
        archiving.file_segment(self.settings, archiving.segment(START_US - 40 * DAY_US, "late"))
        archiving.file_gap(self.settings, archiving.gap())

    async def verify(self) -> None:
        """Exactly one row, one object, one event for each; the spool is empty; nothing is lost."""
        assert archiving.spool_files(self.settings) == []
        segments = await archiving.all_rows(self.platform, tables.segment)
        assert len(segments) == 3
        assert sorted(row["key"] for row in segments) == await archiving.all_keys(self.platform)
        for row in segments:
            assert await self.platform.blobs.verify(row["key"]) == row["sha256"]
        fragments = await archiving.all_rows(self.platform, tables.segment_fragments)
        assert {row["segment_id"] for row in fragments} == {row["id"] for row in segments}
        ledger = await archiving.all_rows(self.platform, tables.ledger_day)
        assert sum(day["segments"] for day in ledger) == 3
        gaps = await archiving.all_rows(self.platform, tables.gap)
        assert sorted(row["reason"] for row in gaps) == sorted(
            [GapReason.SILENT, GapReason.SEGMENT_DAMAGED, GapReason.LATE_REFUSED]
        )
        assert len(await self._once("segments")) == 3
        assert len(await self._once("camera-status")) == 3
        aside = {path.name.split("-")[1] for path in archiving.aside_files(self.settings)}
        assert aside == {"bent", "late"}
        unfinished = self.settings.path(self.settings.stores.blobs_dir) / ".unfinished"
        assert list(unfinished.iterdir()) == []

    async def _once(self, topic: str) -> set[bytes]:
        """Events as a reader keeps them that remembers what it has seen."""
        records = await archiving.events(self.platform, topic)
        return {dict(record.headers)["ce_id"] for record in records}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty state folder, to be copied."""
    state = tmp_path_factory.mktemp("template") / "state"

    async def make() -> None:
        async with archiving.opened(archiving.settings_in(state), archiving.late_clock()):
            pass

    asyncio.run(make())
    return state


@asynccontextmanager
async def scene(template: Path, target: Path) -> AsyncIterator[Scene]:
    shutil.copytree(template, target)
    made = archiving.settings_in(target)
    async with archiving.opened(made, archiving.late_clock()) as platform:
        found = Scene(made, platform)
        found.fill()
        yield found
    shutil.rmtree(target)


async def test_every_boundary_can_be_the_last(template: Path, tmp_path: Path) -> None:
    async with scene(template, tmp_path / "whole") as found:
        boundaries = await found.live(None)
        await found.verify()
    assert boundaries > 20
    for last in range(boundaries):
        async with scene(template, tmp_path / f"{last}") as found:
            assert await found.live(last) == last
            await found.live(None)
            await found.verify()


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(deaths=st.lists(st.integers(0, 30), min_size=2, max_size=6))
def test_any_schedule_of_crashes_is_repaired(
    template: Path, tmp_path_factory: pytest.TempPathFactory, deaths: list[int]
) -> None:
    async def run() -> None:
        target = tmp_path_factory.mktemp("schedule") / "state"
        async with scene(template, target) as found:
            for last in deaths:
                await found.live(last)
            await found.live(None)
            await found.verify()

    asyncio.run(run())


PROCESS = """
import asyncio, sys
from pathlib import Path
from services.archive.service import build
from shared.clock import SystemClock
from shared.runtime import Stop
from tests.support import archiving

async def main():
    settings = archiving.settings_in(Path(sys.argv[1]), archive={"scan_interval_s": 0.01})
    async with archiving.opened(settings, SystemClock()) as platform:
        await build(platform, settings, "spool").run(Stop())

asyncio.run(main())
"""


async def test_a_killed_process_loses_and_doubles_nothing(template: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    shutil.copytree(template, state)
    made = archiving.settings_in(state)
    clock = SystemClock()
    start_us = clock.now_us() - 2 * 3_600 * SECOND_US
    rounds, each = 2, 30
    async with archiving.opened(made, clock) as platform:

        async def stored() -> int:
            return len(await archiving.all_keys(platform))

        for turn in range(rounds):
            before = await stored()
            for number in range(each):
                at = start_us + (turn * each + number) * 10 * SECOND_US
                archiving.file_segment(made, archiving.segment(at, end_us=at + 10 * SECOND_US))
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PROCESS, str(state), cwd=Path(__file__).parents[2]
            )
            try:
                await until(_over(stored, before + 3 * turn), timeout_s=30)
            finally:
                process.kill()
                await process.wait()
        service = build(platform, made, "spool")
        await service.spool.tidy()
        await archiving.drain(service)
        rows = await archiving.all_rows(platform, tables.segment)
        assert len(rows) == rounds * each
        assert sorted(row["key"] for row in rows) == await archiving.all_keys(platform)
        assert archiving.spool_files(made) == archiving.aside_files(made) == []
        records = await archiving.events(platform, "segments")
        assert len({dict(record.headers)["ce_id"] for record in records}) == rounds * each


def _over(stored: Callable[[], Any], count: int) -> Callable[[], Any]:
    async def over() -> bool:
        return await stored() > count

    return over
