"""Which hosts RTSP may reach: `ingest.rtsp_hosts`, names, addresses and CIDR blocks.

The name is resolved once, every address is checked, and only a checked address is connected to,
so that a name that changes its mind in between gains nothing. docs/architecture.md, "ingest".
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from shared import hosts
from shared.clock import Clock

Resolver = Callable[[str], list[str]]
POLL_S = 0.25


class HostRefusedError(Exception):
    """The list does not contain this host."""


class HostUnknownError(Exception):
    """The name has no address, or nobody answered in time."""


def resolve(host: str) -> list[str]:
    """Addresses of a name, IPv4 first: many cameras listen on nothing else."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    rows = sorted({(family != socket.AF_INET, str(rest[0])) for family, _, _, _, rest in found})
    return [address for _, address in rows]


class HostList:
    """The allow list. Empty: every host but multicast and the unspecified address."""

    def __init__(self, entries: tuple[str, ...], resolver: Resolver = resolve) -> None:
        self._resolver = resolver
        self._list = hosts.Allowed(entries)
        self._restricted = bool(entries)

    def addresses(
        self, host: str, clock: Clock, timeout_s: float, interrupted: threading.Event
    ) -> list[str]:
        """Addresses that may be connected to, best first.

        HostRefusedError when the list forbids them all, HostUnknownError when there is none.
        """
        named = self._list.names(host)
        literal = hosts.address_of(host)
        if self._restricted and literal is None and not named and not self._list.networks:
            raise HostRefusedError(host)
        found = [host] if literal else self._resolved(host, clock, timeout_s, interrupted)
        allowed = [text for text in found if self._allows(text, named)]
        if not allowed:
            raise HostRefusedError(host)
        return allowed

    def _allows(self, text: str, named: bool) -> bool:
        if self._restricted:
            return self._list.allows(text, named)
        address = hosts.address_of(text)
        return address is not None and not (address.is_multicast or address.is_unspecified)

    def _resolved(
        self, host: str, clock: Clock, timeout_s: float, interrupted: threading.Event
    ) -> list[str]:
        """getaddrinfo cannot be interrupted, so it runs aside and is left behind when late."""
        lookup = LOOKUPS.of(host, self._resolver)
        deadline = clock.monotonic_us() + round(timeout_s * 1_000_000)
        while not clock.wait(lookup.done, POLL_S):
            if interrupted.is_set() or clock.monotonic_us() >= deadline:
                break
        if not lookup.done.is_set() or not lookup.found:
            raise HostUnknownError(host)
        return list(lookup.found)


class _Lookup:
    """One question to the name server."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.found: list[str] = []


class Lookups:
    """The questions that are out: one a name, however often a name server that hangs is asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._out: dict[tuple[str, Resolver], _Lookup] = {}

    def of(self, host: str, resolver: Resolver) -> _Lookup:
        """The running question for this name, or a new one on a thread of its own."""
        with self._lock:
            lookup = self._out.get((host, resolver))
            if lookup is None:
                lookup = self._out[(host, resolver)] = _Lookup()
                threading.Thread(
                    target=self._ask, args=(host, resolver, lookup), name="resolve", daemon=True
                ).start()
        return lookup

    def _ask(self, host: str, resolver: Resolver, lookup: _Lookup) -> None:
        try:
            lookup.found = resolver(host)
        except (OSError, UnicodeError):
            lookup.found = []
        finally:
            with self._lock:
                self._out.pop((host, resolver), None)
            lookup.done.set()


LOOKUPS = Lookups()
