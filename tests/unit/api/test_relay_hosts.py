"""Where webhooks may go, how they are signed, and that a secret is sealed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.api import webhook_signing
from services.api.webhook_hosts import WebhookHosts
from services.api.webhook_sender import Outcome, Receiver, Sender, Transport
from shared.clock import SimulatedClock
from shared.errors import Kind, LamppostError
from shared.settings import Settings
from tests.support.api import platform_in
from tests.support.servers import certificates, process

NAMES = {
    "events.example.org": ["203.0.113.7"],
    "inside.example.org": ["10.1.2.3"],
    "liar.example.org": ["127.0.0.1"],
    "metadata.example.org": ["169.254.169.254"],
    "mixed.example.org": ["127.0.0.1", "203.0.113.9"],
    "localhost": ["127.0.0.1"],
    "multicast.example.org": ["224.0.0.1"],
}


def resolver(host: str) -> list[str]:
    if host not in NAMES:
        raise OSError("no such name")
    return NAMES[host]


def hosts(*allowed: str, http: bool = False) -> WebhookHosts:
    relay = {"webhook_hosts": allowed, "webhook_http": http}
    return WebhookHosts(Settings.model_validate({"relay": relay}), resolver)


async def kind_of(found: WebhookHosts, url: str) -> Kind | str:
    try:
        return (await found.target(url)).address
    except LamppostError as error:
        return error.kind
    finally:
        found.close()


@pytest.mark.parametrize(
    ("allowed", "url", "wanted"),
    [
        ((), "https://events.example.org/x", Kind.FORBIDDEN),
        (("events.example.org",), "https://events.example.org/x", "203.0.113.7"),
        (("Events.Example.org.",), "https://EVENTS.example.org./x", "203.0.113.7"),
        (("events.example.org",), "https://other.example.org/x", Kind.FORBIDDEN),
        (("events.example.org",), "https://203.0.113.7/x", Kind.FORBIDDEN),
        (("203.0.113.0/24",), "https://events.example.org/x", "203.0.113.7"),
        (("203.0.113.0/24",), "https://203.0.113.200/", "203.0.113.200"),
        (("203.0.113.0/24",), "https://inside.example.org/x", Kind.FORBIDDEN),
        (("inside.example.org",), "https://inside.example.org/x", "10.1.2.3"),
        (("liar.example.org",), "https://liar.example.org/x", Kind.FORBIDDEN),
        (("metadata.example.org",), "https://metadata.example.org/", Kind.FORBIDDEN),
        (("metadata.example.org", "localhost"), "https://metadata.example.org/", Kind.FORBIDDEN),
        (("multicast.example.org",), "https://multicast.example.org/", Kind.FORBIDDEN),
        (("mixed.example.org",), "https://mixed.example.org/", "203.0.113.9"),
        (("localhost",), "https://localhost:8443/", "127.0.0.1"),
        (("203.0.113.0/24",), "https://[::ffff:127.0.0.1]/", Kind.FORBIDDEN),
        (("203.0.113.0/24",), "https://2130706433/", Kind.UNAVAILABLE),
        (("0.0.0.0/0",), "https://0.0.0.0/", Kind.FORBIDDEN),
        (("10.0.0.0/8",), "https://nowhere.example.org/", Kind.UNAVAILABLE),
        (("events.example.org",), "http://events.example.org/x", Kind.INVALID),
        (("events.example.org",), "file:///etc/passwd", Kind.INVALID),
        (("events.example.org",), "https://u:p@events.example.org/x", Kind.INVALID),
        (("events.example.org",), "https://events.example.org/#x", Kind.INVALID),
        (("events.example.org",), "https://events.example.org:99999/", Kind.INVALID),
        (("events.example.org",), "https:///x", Kind.INVALID),
        (("events.example.org",), "https://events.example.org/a b", Kind.INVALID),
        (("events.example.org",), "https://events.example.org/a\r\nHost: x", Kind.INVALID),
        (("events.example.org",), "https://[::1/", Kind.INVALID),
    ],
)
async def test_only_what_the_operator_allows(
    allowed: tuple[str, ...], url: str, wanted: Kind | str
) -> None:
    assert await kind_of(hosts(*allowed), url) == wanted


async def test_a_target_names_the_host_and_connects_to_the_number() -> None:
    found = hosts("events.example.org", http=True)
    target = await found.target("http://events.example.org:8080/a?b=c")
    assert (target.url, target.host_header) == (
        "http://203.0.113.7:8080/a?b=c",
        "events.example.org:8080",
    )
    plain = await found.target("https://events.example.org")
    assert (plain.url, plain.host_header) == ("https://203.0.113.7:443/", "events.example.org")
    found.close()


async def test_a_refusal_says_what_to_do() -> None:
    found = hosts()
    with pytest.raises(LamppostError, match=r"relay\.webhook_hosts"):
        await found.target("https://events.example.org/")
    found.close()


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The known answer that the specification's libraries are tested with."""
    found = webhook_signing.headers(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert found["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_is_sealed_for_its_webhook_and_key() -> None:
    secret = webhook_signing.new_secret()
    sealed = webhook_signing.seal("k" * 40, "w-1", secret)
    assert secret.encode() not in sealed
    assert webhook_signing.unseal("k" * 40, "w-1", sealed) == secret
    for key, webhook_id, value in (
        ("x" * 40, "w-1", sealed),
        ("k" * 40, "w-2", sealed),
        ("k" * 40, "w-1", sealed[:-1]),
        ("k" * 40, "w-1", b""),
    ):
        with pytest.raises(LamppostError) as caught:
            webhook_signing.unseal(key, webhook_id, value)
        assert caught.value.kind is Kind.CORRUPT


@asynccontextmanager
async def tls_receiver(files: certificates.Certificates) -> AsyncIterator[tuple[int, list[str]]]:
    """A port with a certificate for localhost, and the heads of the requests that came."""
    heads: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], heads
    finally:
        server.close()
        await server.wait_closed()


async def send(tmp_path: Path, ca: Path, host: str, port: int) -> Outcome:
    """One request to this machine under the name of `host`."""
    relay = {"webhook_hosts": ["127.0.0.0/8"], "webhook_ca_file": str(ca)}
    settings = Settings.model_validate({"state_dir": tmp_path, "relay": relay})
    platform = await platform_in(tmp_path, SimulatedClock())
    transport = Transport(platform, settings, lambda _: ["127.0.0.1"])
    secret = webhook_signing.seal(platform.internal_key, "w", webhook_signing.new_secret())
    try:
        async with Sender(transport, Receiver("w", f"https://{host}:{port}/hook", secret)) as made:
            return await made.send("e-1", b"{}")
    finally:
        transport.close()
        await platform.close()


async def test_a_certificate_is_checked_for_the_name(tmp_path: Path) -> None:
    signed = certificates.make(tmp_path / "certificates")
    stranger = certificates.make(tmp_path / "stranger")
    async with tls_receiver(signed) as (port, heads):
        assert (await send(tmp_path, signed.ca, "localhost", port)).delivered
        assert heads[0].startswith("POST /hook HTTP/1.1")
        assert f"host: localhost:{port}" in heads[0].lower()
        for ca, host in ((stranger.ca, "localhost"), (signed.ca, "events.example.org")):
            refused = await send(tmp_path, ca, host, port)
            assert not refused.delivered and "certificate" in refused.error.lower()
        assert len(heads) == 1


async def test_a_receiver_that_hangs_or_is_not_there_is_an_outcome(tmp_path: Path) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    relay = {"webhook_hosts": ["127.0.0.1"], "webhook_http": True, "webhook_timeout_s": 0.2}
    settings = Settings.model_validate({"state_dir": tmp_path, "relay": relay})
    platform = await platform_in(tmp_path, SimulatedClock())
    transport = Transport(platform, settings)
    secret = webhook_signing.seal(platform.internal_key, "w", webhook_signing.new_secret())
    found = []
    for number in (port, process.free_ports(1)[0]):
        receiver = Receiver("w", f"http://127.0.0.1:{number}/", secret)
        async with Sender(transport, receiver) as made:
            found.append(await made.send("e-1", b"{}"))
    assert [outcome.delivered for outcome in found] == [False, False]
    assert found[0].error == "No answer in time." or "Timeout" in found[0].error
    assert all(outcome.error for outcome in found)
    transport.close()
    server.close()
    await platform.close()
