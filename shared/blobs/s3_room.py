"""How full the store is, so that we stop before it has to.

A store that is really full may not heal (SeaweedFS does not), and none tells us beforehand, so the
operator says what may be filled (`s3.capacity_bytes`) and this counts what lies there: by one
header where the gateway has it (Ceph), else by adding up the listing. Between two counts our own
puts are added; what others put meanwhile is why a twentieth stays free.
"""

from __future__ import annotations

import threading

from shared.blobs import Usage
from shared.clock import SECOND_US, Clock
from shared.errors import Kind, LamppostError

KEPT_FREE = 0.05
COUNT_EVERY_US = 600 * SECOND_US
COUNT_AGAIN_US = 30 * SECOND_US
"""After a refusal: room may have been made."""


class Room:
    """Safe to use from any thread."""

    def __init__(self, capacity_bytes: int | None, clock: Clock) -> None:
        self.capacity_bytes = capacity_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._used_bytes: int | None = None
        self._counted_us = 0
        self._since_bytes = 0
        self._refused = False

    @property
    def due(self) -> bool:
        """Whether it is time to count."""
        if self.capacity_bytes is None:
            return False
        age_us = self._clock.monotonic_us() - self._counted_us
        patience_us = COUNT_AGAIN_US if self._refused else COUNT_EVERY_US
        return self._used_bytes is None or age_us >= patience_us

    def begin(self) -> None:
        """A count begins: what is put from now on may or may not be in it, and is added."""
        with self._lock:
            self._since_bytes = 0

    def counted(self, used_bytes: int) -> None:
        with self._lock:
            self._used_bytes = used_bytes + self._since_bytes
            self._counted_us = self._clock.monotonic_us()
            self._refused = False

    def admit(self, size_bytes: int) -> None:
        """FULL where the object would leave too little room."""
        if self.capacity_bytes is None or self._used_bytes is None:
            return
        if self._used_bytes + size_bytes > self.capacity_bytes * (1 - KEPT_FREE):
            self._refused = True
            raise LamppostError(
                Kind.FULL,
                f"The object store holds {self._used_bytes} of {self.capacity_bytes} bytes.",
                fix="Give it room and raise s3.capacity_bytes; "
                "everything waits in the spool until then.",
            )

    def stored(self, size_bytes: int) -> None:
        with self._lock:
            self._since_bytes += size_bytes
            if self._used_bytes is not None:
                self._used_bytes += size_bytes

    def usage(self) -> Usage:
        if self.capacity_bytes is None or self._used_bytes is None:
            return Usage(self.capacity_bytes, None)
        return Usage(self.capacity_bytes, max(0, self.capacity_bytes - self._used_bytes))
