"""Which hosts RTSP may reach: `ingest.rtsp_hosts`, names, addresses and CIDR blocks.

The name is resolved once, every address is checked, and only a checked address is connected to,
so that a name that changes its mind in between gains nothing. docs/architecture.md, "ingest".
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable

from shared.clock import Clock

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
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
        self._names: set[str] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for entry in entries:
            try:
                self._networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                self._names.add(_plain(entry))
        self._restricted = bool(entries)

    def addresses(
        self, host: str, clock: Clock, timeout_s: float, interrupted: threading.Event
    ) -> list[str]:
        """Addresses that may be connected to, best first.

        HostRefusedError when the list forbids them all, HostUnknownError when there is none.
        """
        named = _plain(host) in self._names
        literal = _address(host)
        if self._restricted and literal is None and not named and not self._networks:
            raise HostRefusedError(host)
        found = [host] if literal else self._resolved(host, clock, timeout_s, interrupted)
        allowed = [text for text in found if self._allows(text, named)]
        if not allowed:
            raise HostRefusedError(host)
        return allowed

    def _allows(self, text: str, named: bool) -> bool:
        address = _address(text)
        if address is None or address.is_multicast or address.is_unspecified:
            return False
        if not self._restricted or any(address in network for network in self._networks):
            return True
        # A name alone does not open this machine: only `localhost` is meant to be here.
        here = address.is_loopback or address.is_link_local
        return named and (not here or "localhost" in self._names)

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


def _plain(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
