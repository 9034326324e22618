"""Lists of hosts that may be reached: names, addresses and CIDR blocks, for cameras and webhooks.

A list judges the address that will be connected to, never a name alone, so that a name that changes
its mind gains nothing. Who resolves names, and how long that may take, is the caller's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def plain(host: str) -> str:
    """A host's name as it is compared."""
    return host.strip("[]").rstrip(".").lower()


def address_of(text: str) -> Address | None:
    """The address that a text is; an IPv4 one inside IPv6 counts as itself."""
    try:
        address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


class Allowed:
    """One list. `networks` are its addresses and blocks; what is neither is a name."""

    def __init__(self, entries: Iterable[str]) -> None:
        self.networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self._names: set[str] = set()
        for entry in entries:
            try:
                self.networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                self._names.add(plain(entry))

    @property
    def empty(self) -> bool:
        return not self.networks and not self._names

    def names(self, host: str) -> bool:
        """Whether the host stands there by name."""
        return plain(host) in self._names

    def allows(self, text: str, named: bool) -> bool:
        """Whether an address may be connected to, by itself or because its host is `named`."""
        address = address_of(text)
        if address is None or address.is_multicast or address.is_unspecified:
            return False
        if any(address in network for network in self.networks):
            return True
        # A name alone does not open this machine: only `localhost` is meant to be here.
        here = address.is_loopback or address.is_link_local
        return named and (not here or (address.is_loopback and "localhost" in self._names))
