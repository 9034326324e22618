"""A client that asks the api twenty times a second and never twice for the same answer.

Each request comes by a connection of its own, as from many people, so that the Service deals them
to whatever pods it has at that moment. Nothing is tried again: one refusal is one dropped request.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2

from shared import civil
from shared.clock import SECOND_US, SystemClock

CLOCK = SystemClock()
RATE_HZ = 20
TOGETHER = 40
"""Two seconds' worth on their way at once; a service that is slower is too slow."""
PATIENCE_S = 10.0


@dataclass
class Steady:
    """What came of it: how many requests, the failed ones in words, and the slowest."""

    url: str
    headers: dict[str, str]
    asked: int = 0
    failed: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def ask(self) -> None:
        """One request on a connection of its own."""
        began_us = CLOCK.now_us()
        try:
            answer = httpx2.get(self.url, headers=self.headers, timeout=PATIENCE_S, trust_env=False)
            wrong = "" if answer.status_code == 200 else f"{answer.status_code} {answer.text[:200]}"
        except httpx2.HTTPError as error:
            wrong = f"{type(error).__name__}: {error}"
        self.asked += 1
        self.slowest_s = max(self.slowest_s, (CLOCK.now_us() - began_us) / SECOND_US)
        if wrong:
            self.failed.append(f"{civil.rfc3339(began_us)} {wrong}")


@contextmanager
def steady(url: str, headers: dict[str, str]) -> Iterator[Steady]:
    """Asks until the end of the block, and waits for the last answers."""
    found = Steady(url, headers)
    ended = threading.Event()
    with ThreadPoolExecutor(TOGETHER, "steady") as pool:

        def run() -> None:
            while not CLOCK.wait(ended, 1 / RATE_HZ):
                pool.submit(found.ask)

        thread = threading.Thread(target=run, name="steady", daemon=True)
        thread.start()
        try:
            yield found
        finally:
            ended.set()
            thread.join(10)
