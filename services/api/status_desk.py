"""What the status keeps between two questions, because to find it out costs more than a look.

How retention stands (a pass over what is past its expiry) and the dead letters (a read of their
topic) are asked again after a while, by one question for all that come meanwhile; the accountant
leaves here what it found of each camera (services/api/accounting.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from shared import standing
from shared.bus import letters
from shared.clock import SECOND_US, Clock
from shared.errors import LamppostError
from shared.ledger import Kind, Ledger
from shared.platform import Platform
from shared.standing import Standing

T = TypeVar("T")
STANDING_S = 15.0
LETTERS_S = 60.0
LETTERS_TIMEOUT_S = 2.0


class Lost(NamedTuple):
    """Unaccounted time of a camera's 24 hours before `at_us`, which began at `since_us`."""

    us: int
    since_us: int
    at_us: int

    @classmethod
    def of(cls, found: Ledger, at_us: int) -> Lost:
        """Of a camera's ledger, in stretches of a second or more: less is rounding."""
        lost = [
            entry
            for entry in found.entries
            if entry.kind is Kind.UNACCOUNTED and entry.end_us - entry.start_us >= SECOND_US
        ]
        first_us = lost[0].start_us if lost else at_us
        return cls(sum(entry.end_us - entry.start_us for entry in lost), first_us, at_us)


class Kept(Generic[T]):
    """A value that is asked for again once it is older than `fresh_s`."""

    def __init__(self, clock: Clock, fresh_s: float, ask: Callable[[], Awaitable[T]]) -> None:
        self._clock, self._fresh_us, self._ask = clock, round(fresh_s * SECOND_US), ask
        self._asking = asyncio.Lock()
        self._found: tuple[int, T] | None = None

    async def read(self) -> T:
        async with self._asking:
            now_us = self._clock.monotonic_us()
            if self._found is None or now_us - self._found[0] >= self._fresh_us:
                self._found = now_us, await self._ask()
            return self._found[1]


class StatusDesk:
    """One for each api process."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.standing: Kept[Standing] = Kept(
            platform.clock, STANDING_S, lambda: standing.read(platform)
        )
        self.letters: Kept[int | None] = Kept(platform.clock, LETTERS_S, self._letters)
        self.lost: dict[str, Lost] = {}
        """By camera, of all that were looked at."""

    async def _letters(self) -> int | None:
        """Messages set aside and not sent again; None when the bus does not say in time."""
        try:
            async with asyncio.timeout(LETTERS_TIMEOUT_S):
                found = await letters.read(self._platform.bus)
        except (LamppostError, TimeoutError):
            return None
        return sum(not letter.replayed for letter in found)
