"""The service as it runs: it works until the stop, and no error ends it."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

from services.archive.service import build
from shared.clock import HOUR_US, SystemClock
from shared.db import tables
from shared.runtime import Stop
from tests.support import archiving
from tests.support.archiving import all_rows, file_segment, segment
from tests.support.wait import until


class Flaky:
    """A port whose named call fails in a way that nobody foresaw, the first times."""

    def __init__(self, inner: Any, name: str, times: int) -> None:
        self._inner, self._name, self.left = inner, name, times

    def __getattr__(self, name: str) -> Any:
        if name == self._name and self.left > 0:
            self.left -= 1
            raise RuntimeError("a bug")
        return getattr(self._inner, name)


async def test_it_works_through_unforeseen_errors_until_the_stop(tmp_path: Path) -> None:
    settings = archiving.settings_in(tmp_path / "state", archive={"scan_interval_s": 0.01})
    clock = SystemClock()
    async with archiving.opened(settings, clock) as whole:
        bus, blobs = Flaky(whole.bus, "publish", 1), Flaky(whole.blobs, "put", 1)
        platform = dataclasses.replace(whole, bus=bus, blobs=blobs)  # type: ignore[arg-type]
        stop = Stop()
        running = asyncio.create_task(build(platform, settings).run(stop))
        file_segment(settings, segment(clock.now_us() - HOUR_US))

        async def published() -> bool:
            return len(await archiving.events(whole, "segments")) == 1

        await until(published, timeout_s=60)
        assert (bus.left, blobs.left) == (0, 0)
        assert len(await all_rows(whole, tables.segment)) == 1
        assert archiving.spool_files(settings) == []
        stop.set()
        await asyncio.wait_for(running, 30)
