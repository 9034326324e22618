"""The key that requests to an S3 store are signed with, read again from its files when the store
refuses it: whoever rotates keys replaces the files, and no process has to be started for it.

A refusal may mean something else, and files that change may be read half changed: so they are read
at most every few seconds, and only a pair that differs from the one that was refused is tried.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from minio.credentials.credentials import Credentials
from minio.credentials.providers import Provider

from shared import log
from shared.clock import SECOND_US, Clock
from shared.errors import LamppostError

AGAIN_US = 3 * SECOND_US


class Pair(NamedTuple):
    """What the two files hold. Prints as nothing."""

    access: str
    secret: str

    def __repr__(self) -> str:
        return "Pair(***)"


class Keys(Provider):
    """Safe to use from any thread. `read` reads the files; LamppostError where it cannot."""

    def __init__(self, read: Callable[[], Pair], clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._pair = read()
        self._credentials = Credentials(*self._pair)
        self._looked_us = clock.monotonic_us() - AGAIN_US
        self.version = 0
        """Counts the pairs that were tried."""

    def retrieve(self) -> Credentials:
        """What the next request is signed with."""
        return self._credentials

    def renew(self, refused: int) -> bool:
        """Whether there is another pair than the one of this version, which was refused. Blocks."""
        with self._lock:
            if self.version != refused:
                return True
            now_us = self._clock.monotonic_us()
            if now_us - self._looked_us < AGAIN_US:
                return False
            self._looked_us = now_us
            try:
                fresh = self._read()
            except LamppostError:
                return False  # Perhaps half written: the next look has it.
            if fresh == self._pair:
                return False
            self._pair, self._credentials = fresh, Credentials(*fresh)
            self.version += 1
        log.get("blobs").info("another key of the object store is used")
        return True
