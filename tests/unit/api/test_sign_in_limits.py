"""How often somebody may try to sign in, whichever replica is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.api import limits
from services.api.limits import MAX_BY_ADDRESS, MAX_BY_NAME, LoginLimiter
from shared.clock import SECOND_US
from shared.db.coordination import sign_in_attempt
from shared.errors import Kind, LamppostError
from tests.support.api import Api, opened


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with opened(tmp_path) as found:
        yield found


async def refused(limiter: LoginLimiter, name: str, address: str) -> LamppostError:
    with pytest.raises(LamppostError) as caught:
        await limiter.begin(name, address)
    assert caught.value.kind is Kind.LIMITED
    return caught.value


async def tried(limiter: LoginLimiter, name: str, address: str) -> bool:
    try:
        await limiter.begin(name, address)
    except LamppostError as error:
        assert error.kind is Kind.LIMITED
        return False
    return True


async def test_replicas_count_together(api: Api) -> None:
    one, two = LoginLimiter(api.platform), LoginLimiter(api.platform)
    tries = [tried((one, two)[number % 2], "a", "1") for number in range(3 * MAX_BY_NAME)]
    assert sum(await asyncio.gather(*tries)) == MAX_BY_NAME
    error = await refused(LoginLimiter(api.platform), "a", "2")
    assert error.details["retry_after_s"] == 300


async def test_an_address_has_a_limit_of_its_own(api: Api) -> None:
    limiter = LoginLimiter(api.platform)
    for number in range(MAX_BY_ADDRESS):
        await limiter.begin(f"b{number}", "1")
    await refused(limiter, "c", "1")
    await limiter.begin("c", "2")


async def test_a_success_takes_attempts_back(api: Api) -> None:
    limiter = LoginLimiter(api.platform)
    for _ in range(2 * MAX_BY_ADDRESS):
        await limiter.begin("a", "1")
        await limiter.succeeded("a", "1")


async def test_the_limit_slides(api: Api) -> None:
    limiter = LoginLimiter(api.platform)
    for _ in range(MAX_BY_NAME):
        await limiter.begin("a", "1")
        api.clock.set_us(api.clock.now_us() + 10 * SECOND_US)
    error = await refused(limiter, "a", "1")
    api.clock.set_us(api.clock.now_us() + error.details["retry_after_s"] * SECOND_US)
    await limiter.begin("a", "1")
    await refused(limiter, "a", "1")


async def test_a_clock_that_was_ahead_locks_nobody_out(api: Api) -> None:
    limiter = LoginLimiter(api.platform)
    api.clock.jump_wall(3600 * SECOND_US)
    for _ in range(MAX_BY_NAME):
        await limiter.begin("a", "1")
    api.clock.jump_wall(-3600 * SECOND_US)
    await limiter.begin("a", "1")


async def test_the_table_is_bounded_and_names_nobody(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_KEYS", 6)
    limiter = LoginLimiter(api.platform)
    for number in range(20):
        await limiter.begin(f"typed-in-error-{number}", "10.0.0.9")
        api.clock.set_us(api.clock.now_us() + 11 * SECOND_US)
    rows = await api.rows(sign_in_attempt)
    assert len(rows) <= 8
    assert "typed" not in str(rows) and "10.0.0.9" not in str(rows)
    api.clock.set_us(api.clock.now_us() + 301 * SECOND_US)
    await limiter.begin("a", "1")
    assert len(await api.rows(sign_in_attempt)) == 2
