"""Sign-in attempts are limited by name and by address; the table itself is bounded."""

from __future__ import annotations

from collections import OrderedDict

from shared.clock import SECOND_US, Clock
from shared.errors import Kind, LamppostError

MAX_FAILURES = 10
WINDOW_US = 300 * SECOND_US
MAX_KEYS = 10_000


class LoginLimiter:
    """At most `MAX_FAILURES` failed attempts in five minutes for each key (name or address)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, list[int]] = OrderedDict()

    def check(self, *keys: str) -> None:
        """Raise LIMITED while one of the keys has used up its attempts."""
        for key in keys:
            recent = self._recent(key)
            if len(recent) >= MAX_FAILURES:
                wait_s = max(1, (recent[0] + WINDOW_US - self._clock.monotonic_us()) // SECOND_US)
                raise LamppostError(
                    Kind.LIMITED,
                    "Too many failed sign-ins.",
                    fix=f"Wait {wait_s} seconds.",
                    details={"retry_after_s": wait_s},
                )

    def failed(self, *keys: str) -> None:
        """Count a failure; the oldest key leaves when the table is full."""
        for key in keys:
            recent = self._recent(key)
            recent.append(self._clock.monotonic_us())
            self._failures[key] = recent[-MAX_FAILURES:]
            self._failures.move_to_end(key)
        while len(self._failures) > MAX_KEYS:
            self._failures.popitem(last=False)

    def succeeded(self, key: str) -> None:
        self._failures.pop(key, None)

    def _recent(self, key: str) -> list[int]:
        since = self._clock.monotonic_us() - WINDOW_US
        return [at for at in self._failures.get(key, []) if at > since]
