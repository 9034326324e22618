"""Who holds a connection asks the database's clock on it. Were that to need another one, as many
requests at once as the pool has connections would all wait for each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.api.footage import Watch
from shared.platform import Platform
from tests.support.archiving import late_clock, opened, settings_in

POOL = 4
"""Connections that a test's PostgreSQL has (tests/support/databases.py)."""


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    async with opened(settings_in(tmp_path), late_clock()) as made:
        yield made


async def test_all_who_hold_a_connection_can_judge_the_time(platform: Platform) -> None:
    watch = Watch(platform.clock, platform.database, 1.0)
    inside = asyncio.Barrier(POOL)

    async def judge() -> bool:
        async with platform.database.read() as connection:
            await inside.wait()
            return bool(await watch.judge(None, connection))

    async with asyncio.timeout(20):
        assert await asyncio.gather(*(judge() for _ in range(POOL))) == [False] * POOL
