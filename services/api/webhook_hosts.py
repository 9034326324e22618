"""Where webhooks may go: `relay.webhook_hosts`, names, addresses and CIDR blocks; none by default.

Who may add a webhook must not make the server reach what its operator did not allow. A name is
resolved at each delivery, every address is checked, and only a checked address is connected to, so
that a name that changes its mind in between gains nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from shared import hosts
from shared.errors import Kind, LamppostError
from shared.settings import Settings

Resolver = Callable[[str], list[str]]
RESOLVE_S = 5.0
FIX = "Let the operator add the host to setting relay.webhook_hosts."


class Target(NamedTuple):
    """A checked address to connect to, and what the request must say."""

    address: str
    host: str
    port: int
    scheme: str
    path: str

    @property
    def url(self) -> str:
        """The receiver's address by number."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"http": 80, "https": 443}[self.scheme]
        return host if self.port == usual else f"{host}:{self.port}"


def resolve(host: str) -> list[str]:
    """Addresses of a name."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(rest[0]) for *_, rest in found))


class WebhookHosts:
    """The allow list of one process."""

    def __init__(self, settings: Settings, resolver: Resolver = resolve) -> None:
        self._resolver = resolver
        self._http = settings.relay.webhook_http
        self._list = hosts.Allowed(settings.relay.webhook_hosts)
        # A name server that hangs must not take the threads that others need.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="webhook.resolve")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def target(self, url: str) -> Target:
        """Where to connect for this address. INVALID for what is no usable address, FORBIDDEN for
        a host that is not allowed, UNAVAILABLE when the name has no address now."""
        parts, port = self._parsed(url)
        host = hosts.plain(parts.hostname or "")
        if self._list.empty:
            raise LamppostError(
                Kind.FORBIDDEN, "No host is allowed to receive webhooks here.", fix=FIX
            )
        named = self._list.names(host)
        literal = hosts.address_of(host)
        if literal is None and not named and not self._list.networks:
            raise LamppostError(Kind.FORBIDDEN, f"Webhooks may not reach {host}.", fix=FIX)
        found = [host] if literal is not None else await self._resolved(host)
        allowed = [text for text in found if self._list.allows(text, named)]
        if not allowed:
            raise LamppostError(Kind.FORBIDDEN, f"Webhooks may not reach {host}.", fix=FIX)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return Target(allowed[0], host, port, parts.scheme, path)

    def _parsed(self, url: str) -> tuple[SplitResult, int]:
        try:
            parts = urlsplit(url)
            port = parts.port
            ascii_only = url.isascii() and url.isprintable() and " " not in url
        except ValueError as error:
            raise LamppostError(Kind.INVALID, f"The address is not usable: {error}.") from error
        schemes = ("https", "http") if self._http else ("https",)
        if parts.scheme not in schemes:
            raise LamppostError(
                Kind.INVALID,
                f"A webhook's address begins with {' or '.join(f'{s}://' for s in schemes)}.",
                fix="Plain HTTP needs setting relay.webhook_http.",
            )
        if not parts.hostname or not ascii_only or parts.fragment or port == 0:
            raise LamppostError(
                Kind.INVALID, "The address is not usable.", fix="Write https://host/path."
            )
        if parts.username is not None or parts.password is not None:
            raise LamppostError(
                Kind.INVALID,
                "An address must not hold a name or password.",
                fix="Let the receiver check the signature.",
            )
        return parts, port or {"http": 80, "https": 443}[parts.scheme]

    async def _resolved(self, host: str) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(RESOLVE_S):
                found = await loop.run_in_executor(self._threads, self._resolver, host)
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            raise LamppostError(Kind.UNAVAILABLE, f"{host} has no address now.") from error
        return found
