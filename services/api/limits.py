"""Sign-in attempts are limited by name and by address; the table itself is bounded."""

from __future__ import annotations

from collections import OrderedDict

from shared.clock import SECOND_US, Clock
from shared.errors import Kind, LamppostError

MAX_BY_NAME = 10
MAX_BY_ADDRESS = 50
"""More, because an office may share one."""
WINDOW_US = 300 * SECOND_US
MAX_KEYS = 10_000


class LoginLimiter:
    """So many failed attempts in five minutes for a name, and for an address.

    An attempt counts from its beginning, so that a thousand at once are limited too; one that
    succeeds is taken back.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._attempts: OrderedDict[str, list[int]] = OrderedDict()

    def begin(self, name: str, address: str) -> None:
        """Count an attempt; LIMITED when the name or the address has used its own up."""
        limits = ((f"name:{name[:100]}", MAX_BY_NAME), (f"address:{address}", MAX_BY_ADDRESS))
        for key, most in limits:
            recent = self._recent(key)
            if len(recent) >= most:
                wait_s = max(1, (recent[0] + WINDOW_US - self._clock.monotonic_us()) // SECOND_US)
                raise LamppostError(
                    Kind.LIMITED,
                    "Too many failed sign-ins.",
                    fix=f"Wait {wait_s} seconds.",
                    details={"retry_after_s": wait_s},
                )
        for key, _ in limits:
            self._attempts[key] = [*self._recent(key), self._clock.monotonic_us()]
            self._attempts.move_to_end(key)
        while len(self._attempts) > MAX_KEYS:
            self._attempts.popitem(last=False)

    def succeeded(self, name: str, address: str) -> None:
        """Forget the name's attempts, and this one of the address."""
        self._attempts.pop(f"name:{name[:100]}", None)
        if recent := self._attempts.get(f"address:{address}"):
            recent.pop()

    def _recent(self, key: str) -> list[int]:
        since = self._clock.monotonic_us() - WINDOW_US
        return [at for at in self._attempts.get(key, []) if at > since]
