"""Sends a signed request to a receiver: pinned address, no redirects, bounded in time and size."""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType
from typing import NamedTuple

import httpx2

from services.api import webhook_signing
from services.api.webhook_hosts import Resolver, Target, WebhookHosts, resolve
from shared.clock import SECOND_US
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.settings import Settings

MAX_CONNECTIONS = 8
MAX_ANSWER = 64 * 1024
MAX_RETRY_AFTER_S = 3_600
GONE = 410


class Outcome(NamedTuple):
    """How a receiver answered. `retry_after_s`: it asked to be left alone for so long."""

    delivered: bool
    status: int | None = None
    error: str = ""
    retry_after_s: int = 0


class Receiver(NamedTuple):
    """Whom to send to, and what to sign with."""

    webhook_id: str
    url: str
    secret: bytes
    """Sealed."""


class Transport:
    """What all senders of a process share: the allow list and the TLS context."""

    def __init__(
        self, platform: Platform, settings: Settings, resolver: Resolver = resolve
    ) -> None:
        self.platform = platform
        self.timeout_s = settings.relay.webhook_timeout_s
        self.hosts = WebhookHosts(settings, resolver)
        ca_file = settings.relay.webhook_ca_file
        self._ca_file = settings.path(ca_file) if ca_file else None
        self._tls: ssl.SSLContext | None = None

    def tls(self) -> ssl.SSLContext:
        """INVALID when the authority's file cannot be read."""
        if self._tls is None:
            try:
                self._tls = ssl.create_default_context(cafile=self._ca_file)
            except (OSError, ssl.SSLError) as error:
                raise LamppostError(
                    Kind.INVALID,
                    f"Cannot read {self._ca_file}: {error}.",
                    fix="Correct setting relay.webhook_ca_file.",
                ) from error
        return self._tls

    def close(self) -> None:
        self.hosts.close()


class Sender:
    """Sends to one receiver. Its connections are its own: a connection to an address was verified
    for one name, and must not carry another's requests."""

    def __init__(self, transport: Transport, receiver: Receiver) -> None:
        self._transport = transport
        self._receiver = receiver
        self._client = httpx2.AsyncClient(
            verify=transport.tls(),
            timeout=transport.timeout_s,
            follow_redirects=False,
            trust_env=False,
            limits=httpx2.Limits(max_connections=MAX_CONNECTIONS),
        )

    async def __aenter__(self) -> Sender:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def send(self, event_id: str, body: bytes) -> Outcome:
        """One attempt. Whatever goes wrong outside is an outcome; never an error."""
        receiver = self._receiver
        platform = self._transport.platform
        try:
            secret = webhook_signing.unseal(
                platform.internal_key, receiver.webhook_id, receiver.secret
            )
            target = await self._transport.hosts.target(receiver.url)
            now_s = platform.clock.now_us() // SECOND_US
            signed = webhook_signing.headers(secret, event_id, now_s, body)
            async with asyncio.timeout(self._transport.timeout_s):
                return await self._post(target, signed, body)
        except LamppostError as error:
            return Outcome(False, error=error.message[:300])
        except TimeoutError:
            return Outcome(False, error="No answer in time.")
        except (httpx2.HTTPError, httpx2.InvalidURL, ssl.SSLError, OSError) as error:
            return Outcome(False, error=f"{type(error).__name__}: {error}"[:300])

    async def _post(self, target: Target, signed: dict[str, str], body: bytes) -> Outcome:
        request = self._client.build_request(
            "POST",
            target.url,
            content=body,
            headers={
                "Host": target.host_header,
                "Content-Type": "application/cloudevents+json",
                "User-Agent": "lamppost",
                **signed,
            },
            extensions={"sni_hostname": target.host},
        )
        answer = await self._client.send(request, stream=True)
        try:
            await _read_some(answer)
        finally:
            await answer.aclose()
        status = answer.status_code
        if 200 <= status < 300:
            return Outcome(True, status)
        if 300 <= status < 400:
            return Outcome(False, status, "The receiver redirects, which is not followed.")
        return Outcome(False, status, f"The receiver answered {status}.", _retry_after(answer))


async def _read_some(answer: httpx2.Response) -> None:
    """To the end of a short answer, so that its connection can be used again."""
    size = 0
    async for piece in answer.aiter_raw():
        size += len(piece)
        if size > MAX_ANSWER:
            return


def _retry_after(answer: httpx2.Response) -> int:
    text = answer.headers.get("retry-after", "")
    return min(int(text), MAX_RETRY_AFTER_S) if text.isascii() and text.isdigit() else 0
