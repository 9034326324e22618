"""How connections to Kafka are made, and why one failed.

aiokafka says "Unable to bootstrap" whatever is wrong: `cause` finds out by trying, so that the log
names a wrong password, an untrusted certificate, a port that speaks otherwise, or nobody there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

from aiokafka import AIOKafkaConsumer, TopicPartition, errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import CloseReason, create_conn
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from shared.bus import Partition
from shared.errors import Kind, LamppostError
from shared.redaction import hide
from shared.settings import Kafka, Settings

EARLIEST, LATEST = -2, -1
PROBE_S = 3.0
"""Longest look at one broker when a connection failed."""
RENEWED = frozenset(("ssl_context", "sasl_plain_password"))
"""What may change while a process runs, of aiokafka's arguments."""
AWAY = (errors.KafkaError, OSError, TimeoutError)
"""What a library call raises while a broker cannot be reached, or refuses."""


@dataclass(frozen=True, slots=True, eq=False)
class Wire:
    """What every client of one installation's brokers is made with."""

    servers: tuple[str, ...]
    prefix: str
    request_timeout_s: float
    security: dict[str, Any]
    """Keyword arguments of aiokafka; holds the password. `renew` changes them."""
    clients: WeakSet[AIOKafkaClient] = field(default_factory=WeakSet)
    """Those that `renew` reaches."""

    def follow(self, client: AIOKafkaClient) -> AIOKafkaClient:
        """The client, which from now on connects by what `renew` says, and leaves no connection
        open where its first attempt is cancelled."""
        self.clients.add(client)
        client.bootstrap = partial(_bootstrap, client)
        return client

    def renew(self, security: Mapping[str, Any]) -> None:
        """Other passwords and authorities, for connections that are made from here on."""
        self.security.update(security)
        for client in self.clients:
            for name in RENEWED & security.keys():
                # Where aiokafka reads it at each connection; its constructor says no more of it.
                assert hasattr(client, f"_{name}"), name
                setattr(client, f"_{name}", security[name])

    def client_arguments(self, client_id: str) -> dict[str, Any]:
        """Keyword arguments of any aiokafka client."""
        return {
            "bootstrap_servers": list(self.servers),
            "client_id": client_id,
            "request_timeout_ms": round(self.request_timeout_s * 1000),
            "metadata_max_age_ms": 60_000,
            **self.security,
        }

    def topic(self, name: str) -> str:
        """A topic's name at the brokers."""
        return self.prefix + name

    def own(self, name: str) -> str:
        """A topic's name here."""
        return name.removeprefix(self.prefix)


def wire_of(settings: Settings) -> Wire:
    """The settings, read and checked; INVALID where a file is missing or wrong. Blocks shortly."""
    # The cause of each failure is told by this package, once: not again by the library.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    kafka = settings.kafka
    if not kafka.servers:
        raise LamppostError(
            Kind.INVALID,
            "stores.bus is kafka, and kafka.servers names no broker.",
            fix="Set LAMPPOST_KAFKA__SERVERS='[\"host:9092\"]'.",
        )
    for server in kafka.servers:
        host_and_port(server)
    protocol = ("SASL_" if kafka.sasl != "none" else "") + ("SSL" if kafka.tls else "PLAINTEXT")
    security: dict[str, Any] = {"security_protocol": protocol}
    if kafka.tls:
        security["ssl_context"] = _tls(settings.path(kafka.ca_file) if kafka.ca_file else None)
    if kafka.sasl != "none":
        security |= {
            "sasl_mechanism": kafka.sasl,
            "sasl_plain_username": kafka.username,
            "sasl_plain_password": _password(settings, kafka),
        }
    return Wire(kafka.servers, kafka.topic_prefix, kafka.request_timeout_s, security)


def host_and_port(server: str) -> tuple[str, int]:
    """The parts of `host:port`; INVALID for anything else."""
    host, _, port = server.rpartition(":")
    if not host or not port.isascii() or not port.isdigit():
        raise LamppostError(
            Kind.INVALID, f"kafka.servers: {server!r} is not of the form host:port."
        )
    return host.strip("[]"), int(port)


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise LamppostError(
            Kind.INVALID,
            f"kafka.ca_file {ca_file} holds no certificate: {error}.",
            fix="It must be the PEM file of the authority that signs the brokers.",
        ) from error


def _password(settings: Settings, kafka: Kafka) -> str:
    if not kafka.username or kafka.password_file is None:
        raise LamppostError(
            Kind.INVALID, "kafka.sasl needs kafka.username and kafka.password_file."
        )
    path = settings.path(kafka.password_file)
    try:
        return hide(path.read_text("utf-8").strip("\r\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise LamppostError(
            Kind.INVALID, f"Cannot read the password of the bus, {path}: {error}."
        ) from error


def words(error: BaseException) -> str:
    """What the library raised, in a few words."""
    detail = str(error).strip().removesuffix(".")
    return f"{type(error).__name__}: {detail}" if detail else type(error).__name__


def away(error: BaseException | str) -> LamppostError:
    """UNAVAILABLE, for what the library raised."""
    text = error if isinstance(error, str) else words(error)
    return LamppostError(Kind.UNAVAILABLE, f"The Kafka bus cannot be used now: {text}.")


async def list_offsets(
    client: AIOKafkaClient, wire: Wire, places: Mapping[Partition, int]
) -> dict[Partition, int]:
    """The first or next offset of each partition, as `places` asks (`EARLIEST`, `LATEST`).

    Raises what is in `AWAY`; a leader that is unknown makes the client look for it.
    """
    by_leader: dict[int, dict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    for (topic, partition), which in places.items():
        name = wire.topic(topic)
        await client._wait_on_metadata(name)
        leader = client.cluster.leader_for_partition(TopicPartition(name, partition))
        if leader is None or leader == -1:
            client.force_metadata_update()
            raise errors.LeaderNotAvailableError(f"{name}-{partition}")
        by_leader[leader][name].append((partition, which))
    found: dict[Partition, int] = {}
    for leader, topics in by_leader.items():
        answer = await client.send(leader, OffsetRequest(-1, 0, list(topics.items())))
        for name, parts in answer.topics:
            for partition, code, _, offset in parts:
                if code:
                    client.force_metadata_update()
                    raise errors.for_code(code)(f"{name}-{partition}")
                found[wire.own(name), partition] = offset
    return found


CANCELS, CANCEL_S = 50, 0.1
"""How often aiokafka's tasks are asked to end, and how long each time."""


async def _bootstrap(client: AIOKafkaClient) -> None:
    """Learn of the brokers from the first that answers, and go on learning; KafkaConnectionError
    when none does. Instead of aiokafka's own, which hangs up only on what it expects: cancelled
    while it waits for an answer, it leaves the connection to the collector."""
    for host, port, _ in client.hosts:
        try:
            connection = await create_conn(
                host,
                port,
                client_id=client._client_id,
                request_timeout_ms=client._request_timeout_ms,
                max_idle_ms=client._connections_max_idle_ms,
                security_protocol=client._security_protocol,
                ssl_context=client._ssl_context,
                sasl_mechanism=client._sasl_mechanism,
                sasl_plain_username=client._sasl_plain_username,
                sasl_plain_password=client._sasl_plain_password,
            )
            try:
                client.cluster.update_metadata(await connection.send(MetadataRequest([])))
            finally:
                connection.close()
        except AWAY:
            continue  # `cause` finds out why, where none of them answers.
        if not client.cluster.brokers():
            continue  # It has just started, and knows of nobody yet, not of itself either.
        if client._sync_task is None:
            client._sync_task = asyncio.create_task(client._md_synchronizer())
        return
    raise errors.KafkaConnectionError(f"Unable to bootstrap from {client.hosts}")


async def end_fetching(fetch: AIOKafkaConsumer) -> None:
    """Stop it. aiokafka awaits requests that it has just cancelled, and their CancelledError would
    look like a cancellation of ours; and its fetching task may take its own for a request's and go
    on. So all of them are ended here before, and asked as often as it takes."""
    fetcher = fetch._fetcher
    if fetcher is not None:
        for _ in range(CANCELS):
            going = {
                task for task in (fetcher._fetch_task, *fetcher._pending_tasks) if not task.done()
            }
            if not going:
                break
            for task in going:
                task.cancel()
            await asyncio.wait(going, timeout=CANCEL_S)
        fetcher._pending_tasks.clear()
    with contextlib.suppress(*AWAY):
        await fetch.stop()


def hang_up(client: AIOKafkaClient, node: int, group: ConnectionGroup) -> None:
    """Close a connection that does not answer, so that the next request makes another."""
    connection = client._conns.get((node, group))
    if connection is not None:
        connection.close(reason=CloseReason.CONNECTION_TIMEOUT)


async def cause(wire: Wire) -> str:
    """Why the brokers cannot be used, by trying each; empty when one of them can."""
    found = []
    for server in wire.servers:
        why = await _cause_at(wire, *host_and_port(server))
        if not why:
            return ""
        found.append(f"{server}: {why}")
    return "; ".join(found)


async def _cause_at(wire: Wire, host: str, port: int) -> str:
    try:
        async with asyncio.timeout(PROBE_S):
            await _talk(wire.security, host, port)
    except ssl.SSLCertVerificationError as error:
        reason = error.verify_message or error.reason
        return f"its certificate is not trusted ({reason}); see kafka.ca_file"
    except errors.SaslAuthenticationFailed:
        return "the name or the password is wrong; see kafka.username and kafka.password_file"
    except (errors.UnsupportedSaslMechanismError, errors.IllegalSaslStateError):
        return f"it does not take {wire.security.get('sasl_mechanism')}; see kafka.sasl"
    except ConnectionRefusedError:
        return "nobody listens there"
    except TimeoutError:
        return "it does not answer"
    except (errors.KafkaError, OSError, EOFError) as error:
        detail = str(error) or type(error).__name__
        return await _silent(wire, host, port, f"the connection failed ({detail})")
    return ""


async def _talk(security: Mapping[str, Any], host: str, port: int) -> None:
    connection = await create_conn(host, port, request_timeout_ms=round(PROBE_S * 1000), **security)
    try:
        await connection.send(MetadataRequest([]))
    finally:
        connection.close()


async def _silent(wire: Wire, host: str, port: int, otherwise: str) -> str:
    """What a peer that hangs up or says nothing speaks instead."""
    encrypted = "ssl_context" in wire.security
    if encrypted:
        if await _works({"security_protocol": "PLAINTEXT"}, host, port):
            return "it does not speak TLS; unset kafka.tls, or name its TLS port"
        return otherwise
    if await _speaks_tls(host, port):
        return "it speaks TLS; set kafka.tls, or name its other port"
    if "sasl_mechanism" not in wire.security and await _wants_sign_in(host, port):
        return "it wants a name and password; set kafka.sasl"
    return otherwise


async def _works(security: Mapping[str, Any], host: str, port: int) -> bool:
    """Whether a greeting is answered, signed in or not."""
    try:
        async with asyncio.timeout(PROBE_S):
            connection = await create_conn(host, port, request_timeout_ms=2000, **security)
    except (errors.KafkaError, OSError, EOFError, TimeoutError):
        return False
    connection.close()
    return True


async def _wants_sign_in(host: str, port: int) -> bool:
    """It greets, and hangs up at the first real request."""
    return await _works({"security_protocol": "PLAINTEXT"}, host, port)


async def _speaks_tls(host: str, port: int) -> bool:
    anybody = ssl.create_default_context()
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE  # Only whether TLS is spoken: nothing is sent.
    try:
        async with asyncio.timeout(PROBE_S):
            _, writer = await asyncio.open_connection(host, port, ssl=anybody)
    except (OSError, EOFError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            await writer.wait_closed()
    return True
