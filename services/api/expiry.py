"""When certificates and API keys expire, as gauges, asked once an hour.

Certificates: those in the files that settings name, and those that brokers, database and object
store show at a handshake, whoever signed them. A file that this process does not have is left out:
another one has it. Keys: the next one of a person's that ends. See docs/runbooks/README.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from services.api import queries_accounts
from shared import log, metrics
from shared.clock import SECOND_US
from shared.errors import LamppostError
from shared.platform import Platform
from shared.runtime import Stop
from shared.settings import Settings

EVERY_S = 3_600.0
AGAIN_S = 60.0
HANDSHAKE_S = 5.0
API_KEY = "api_key"
POSTGRES_TLS = struct.pack("!ii", 8, 80877103)
"""PostgreSQL speaks TLS once it is asked to."""


class Expiry:
    """See the module. `run_once` asks everything once."""

    def __init__(self, platform: Platform, settings: Settings) -> None:
        self._platform = platform
        self._settings = settings
        self._shown: set[str] = set()
        self._silent = False
        self._log = log.get("api.expiry")

    async def run(self, stop: Stop) -> None:
        """Every hour until the stop, sooner while somebody does not answer."""
        while not stop.is_set:
            everything = await self.run_once()
            await stop.sleep(self._platform.clock, EVERY_S if everything else AGAIN_S)

    async def run_once(self) -> bool:
        """Set what is known now; what is gone is shown no more, what cannot be asked stays. Whether
        everybody answered."""
        self._silent = False
        found = await asyncio.to_thread(lambda: dict(self._certificates()))
        try:
            async with self._platform.database.read() as connection:
                now_us = self._platform.clock.now_us()
                next_us = await queries_accounts.next_key_expiry_us(connection, now_us)
            if next_us is not None:
                found[API_KEY] = next_us / SECOND_US
        except LamppostError as error:
            self._silent = True
            self._log.warning("keys cannot be looked at", cause=str(error))
        for what in self._shown - found.keys():
            if not what.endswith(".server") and not (what == API_KEY and self._silent):
                metrics.EXPIRY.remove(what)
                self._shown.discard(what)
        for what, at_s in found.items():
            metrics.EXPIRY.labels(what).set(at_s)
            self._shown.add(what)
        return not self._silent

    def _certificates(self) -> Iterator[tuple[str, float]]:
        for what, path in self._files():
            try:
                found = x509.load_pem_x509_certificates(path.read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                self._log.warning("a certificate cannot be read", setting=what, cause=repr(error))
                continue
            yield what, min(one.not_valid_after_utc.timestamp() for one in found)
        for what, host, port in self._servers():
            try:
                shown = x509.load_der_x509_certificate(certificate_of(what, host, port))
            except (OSError, ValueError) as error:
                self._silent = True
                self._log.warning("a server shows no certificate", of=what, cause=repr(error))
                continue
            yield what, shown.not_valid_after_utc.timestamp()

    def _files(self) -> Iterator[tuple[str, Path]]:
        settings = self._settings
        named = {
            "kafka.ca_file": settings.kafka.ca_file,
            "postgres.ca_file": settings.postgres.ca_file,
            "s3.ca_file": settings.s3.ca_file,
            "ingest.rtsps_ca_file": settings.ingest.rtsps_ca_file,
            "relay.webhook_ca_file": settings.relay.webhook_ca_file,
            "relay.mqtt_ca_file": settings.relay.mqtt_ca_file,
        }
        for what, path in named.items():
            if path is not None:
                yield what, settings.path(path)

    def _servers(self) -> Iterator[tuple[str, str, int]]:
        """One of each kind: of several brokers the first, whose authority signs all."""
        settings = self._settings
        stores = settings.stores
        if stores.bus == "kafka" and settings.kafka.tls and settings.kafka.servers:
            host, _, port = settings.kafka.servers[0].rpartition(":")
            yield "kafka.server", host.strip("[]"), int(port)
        if stores.database == "postgresql" and settings.postgres.tls != "off":
            yield "postgres.server", settings.postgres.host, settings.postgres.port
        url = urlsplit(settings.s3.endpoint or "")
        if stores.blobs == "s3" and url.scheme == "https" and url.hostname:
            yield "s3.server", url.hostname, url.port or 443


def certificate_of(what: str, host: str, port: int) -> bytes:
    """What the server shows (DER), believed or not; OSError where it shows none."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # it is only looked at; nothing is sent
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(socket.create_connection((host, port), timeout=HANDSHAKE_S))
        if what == "postgres.server":
            raw.sendall(POSTGRES_TLS)
            if raw.recv(1) != b"S":
                raise OSError("the database speaks no TLS")
        wrapped = stack.enter_context(context.wrap_socket(raw, server_hostname=host))
        shown = wrapped.getpeercert(binary_form=True)
    if shown is None:
        raise OSError("no certificate was shown")
    return shown
