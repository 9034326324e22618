"""A hold whose row commits while the purge has already planned (docs/retention.md, "The race")."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from services.api import holds
from shared.clock import SECOND_US
from tests.support.retention_world import world


async def race(tmp_path: Path, tick: int, plan: int, blind: bool) -> tuple[bool, bool]:
    """One order of three things against a hold's (begin, commit): the expiry passes at `tick`, the
    purge starts at `plan` (0 before the hold, 1 between, 2 after). Whether the hold said preserved,
    and whether the bytes are there."""
    async with world(tmp_path, "2024-04-16T12:05", basis="instant") as w:
        segment = await w.file("cam-1", "2024-04-16T12:00")
        [row] = await w.rows()
        service = w.service()
        w.to(row["expires_at_us"] - SECOND_US)
        await service.run_once()
        if blind:
            executor = service._executor

            async def trust_the_plan(_c: Any, _camera: str, rows: Any, _now: int) -> list[Any]:
                return list(rows)

            executor._due = trust_the_plan  # type: ignore[method-assign]
        reached, go_on = asyncio.Event(), asyncio.Event()
        runs: list[asyncio.Task[Any]] = []

        async def point(number: int) -> None:
            if tick == number:
                w.clock.set_us(w.clock.now_us() + SECOND_US)
            if plan == number:
                runs.append(asyncio.create_task(service.run_once()))
                planned = asyncio.Event()
                right = service._plan

                async def seen(after: Any) -> Any:
                    made = await right(after)
                    planned.set()
                    return made

                service._plan = seen  # type: ignore[method-assign]
                await asyncio.wait_for(planned.wait(), 10)

        original = holds.holds_queries.insert

        async def paused(connection: Any, hold: Any) -> None:
            await original(connection, hold)
            reached.set()
            await go_on.wait()

        holds.holds_queries.insert = paused
        try:
            await point(0)
            placing = asyncio.create_task(w.hold("2024-04-16T12:00", "2024-04-16T12:01"))
            waiting = asyncio.create_task(reached.wait())
            await asyncio.wait({placing, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            await point(1)
            go_on.set()
            result = (await asyncio.gather(placing, return_exceptions=True))[0]
            await point(2)
            await asyncio.gather(*runs)
        finally:
            holds.holds_queries.insert = original
        said = not isinstance(result, BaseException) and bool(result.preserved)
        return said, segment in await w.live() and len(await w.objects()) == 1


ORDERS = [(tick, plan) for tick in range(3) for plan in range(3)]


@pytest.mark.parametrize(("tick", "plan"), ORDERS)
async def test_what_a_hold_called_preserved_is_there(tmp_path: Path, tick: int, plan: int) -> None:
    said, there = await race(tmp_path, tick, plan, blind=False)
    assert there or not said


async def test_an_executor_that_trusts_its_plan_loses_evidence(tmp_path: Path) -> None:
    """The re-check inside the lock is what saves the case above: without it the test fails."""
    lost = []
    for tick, plan in ORDERS:
        folder = tmp_path / f"{tick}{plan}"
        folder.mkdir()
        said, there = await race(folder, tick, plan, blind=True)
        if said and not there:
            lost.append((tick, plan))
    assert lost == [(1, 1)]
