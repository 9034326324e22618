"""Which hosts RTSP may reach: `ingest.rtsp_hosts`, names, addresses and CIDR blocks.

The name is resolved once, every address is checked, and only a checked address is connected to,
so that a name that changes its mind in between gains nothing. docs/architecture.md, "Recording".
"""

from __future__ import annotations

import threading

from services.ingest import names
from shared import hosts
from shared.clock import SECOND_US, Clock

POLL_S = 0.25
STALE_AFTER_S = 2.0
"""Where an earlier answer is known, nobody waits longer for a new one."""


class HostRefusedError(Exception):
    """The list does not contain this host."""


class HostUnknownError(Exception):
    """The name has no address, or nobody answered in time; the text says which."""


class HostList:
    """The allow list. Empty: every host but multicast and the unspecified address."""

    def __init__(
        self,
        entries: tuple[str, ...],
        resolver: names.Resolver = names.resolve,
        book: names.Names = names.NAMES,
    ) -> None:
        self._resolver = resolver
        self._book = book
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
        """The answer, or the last one where nobody answers now."""
        earlier = self._book.known(host, self._resolver, clock.monotonic_us())
        patience_s = min(timeout_s, STALE_AFTER_S) if earlier else timeout_s
        deadline = clock.monotonic_us() + round(patience_s * SECOND_US)
        question = self._book.ask(host, self._resolver, clock.monotonic_us())
        while not clock.wait(question.done, POLL_S):
            if interrupted.is_set() or clock.monotonic_us() >= deadline:
                break
            question.ask_again(clock.monotonic_us())
        if not question.answered:
            if earlier:
                return earlier
            raise HostUnknownError("no name server answered for the host's name")
        if not question.found:
            raise HostUnknownError("the host's name has no address")
        return list(question.found)
