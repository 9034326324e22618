"""One installation on a simulated clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.clock import SimulatedClock
from shared.platform import Platform
from tests.support.archiving import opened, settings_in


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
async def platform(tmp_path: Path, clock: SimulatedClock) -> AsyncIterator[Platform]:
    async with opened(settings_in(tmp_path), clock) as made:
        yield made
