"""What one connection to a camera teaches the next one in the same process.

A recorder makes a new source for each attempt; without this a refused password would be tried
every second until the camera locks us out, and a frozen picture would be recorded for some seconds
at each attempt. docs/architecture.md, "ingest".
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple, TypeVar

from services.ingest.camera_secrets import Version

_V = TypeVar("_V")


class Refusal(NamedTuple):
    """A camera that refused a secret: left alone until then, or until the secret changes."""

    until_us: int
    version: Version | None
    detail: str


class SourceMemory:
    """What one connection teaches the next: refused secrets and pictures that stood still.

    Bounded; the oldest camera is forgotten first. Safe from any thread.
    """

    MAX = 2_048

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refusals: OrderedDict[str, Refusal] = OrderedDict()
        self._pictures: OrderedDict[str, bytes] = OrderedDict()

    def refusal(self, key: str) -> Refusal | None:
        with self._lock:
            return self._refusals.get(key)

    def refused(self, key: str, refusal: Refusal | None) -> None:
        """Remember a refusal; None forgets it."""
        with self._lock:
            _put(self._refusals, key, refusal, self.MAX)

    def picture(self, key: str) -> bytes | None:
        with self._lock:
            return self._pictures.get(key)

    def froze(self, key: str, picture: bytes | None) -> None:
        """Remember the thumbnail of a picture that stood still; None forgets it."""
        with self._lock:
            _put(self._pictures, key, picture, self.MAX)


def _put(table: OrderedDict[str, _V], key: str, value: _V | None, limit: int) -> None:
    table.pop(key, None)
    if value is not None:
        table[key] = value
        if len(table) > limit:
            table.popitem(last=False)


PROCESS_MEMORY = SourceMemory()
