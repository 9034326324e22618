"""Worlds for the edge cases: `w` on both bases, `civil` on the default."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.retention_world import World, world

NOON = "2024-04-16T12:00"


@pytest.fixture(params=["civil_date", "instant"])
async def w(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with world(tmp_path, NOON, basis=request.param) as found:
        yield found


@pytest.fixture
async def civil(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, NOON) as found:
        yield found
