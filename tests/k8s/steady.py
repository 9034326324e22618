"""A client that asks the api twenty times a second and never twice for the same answer.

Each request comes by a connection of its own, as from many people, so that the Service deals them
to whatever pods it has at that moment. Nothing is tried again: one refusal is one dropped request.
A thread keeps its client, which keeps no connection: to make a client is to read every authority's
certificate, and one for each request took the processor from the pods that were to be judged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import httpx2

from shared import civil
from shared.clock import SECOND_US, SystemClock

CLOCK = SystemClock()
RATE_HZ = 20
TOGETHER = 40
"""Two seconds' worth on their way at once; a service that is slower is too slow."""
PATIENCE_S = 10.0


def client() -> httpx2.Client:
    """Asks each time by a connection of its own, and no proxy."""
    limits = httpx2.Limits(max_keepalive_connections=0)
    return httpx2.Client(limits=limits, timeout=PATIENCE_S, trust_env=False)


@dataclass
class Steady:
    """What came of it: how many requests, the failed ones in words, and the slowest."""

    url: str
    headers: dict[str, str]
    make: Callable[[], httpx2.Client] = client
    asked: int = 0
    failed: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def __post_init__(self) -> None:
        self._kept = threading.local()
        self._clients: list[httpx2.Client] = []
        self._count = threading.Lock()

    def ask(self) -> None:
        """One request, on the thread's own client."""
        began_us = CLOCK.now_us()
        try:
            answer = self._client().get(self.url, headers=self.headers)
            wrong = "" if answer.status_code == 200 else f"{answer.status_code} {answer.text[:200]}"
        except httpx2.HTTPError as error:
            wrong = f"{type(error).__name__}: {error}"
        with self._count:
            self.asked += 1
            self.slowest_s = max(self.slowest_s, (CLOCK.now_us() - began_us) / SECOND_US)
            if wrong:
                self.failed.append(f"{civil.rfc3339(began_us)} {wrong}")

    def _client(self) -> httpx2.Client:
        if not hasattr(self._kept, "client"):
            self._kept.client = self.make()
            with self._count:
                self._clients.append(self._kept.client)
        kept: httpx2.Client = self._kept.client
        return kept

    def close(self) -> None:
        """After the last answer."""
        for one in self._clients:
            one.close()


@contextmanager
def steady(
    url: str, headers: dict[str, str], make: Callable[[], httpx2.Client] = client
) -> Iterator[Steady]:
    """Asks until the end of the block, and waits for the last answers."""
    found = Steady(url, headers, make)
    ended = threading.Event()
    with closing(found), ThreadPoolExecutor(TOGETHER, "steady") as pool:

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
