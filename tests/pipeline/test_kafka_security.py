"""The Kafka bus over TLS with names and passwords, and what is said when a connection fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from shared.bus import Bus, Consumer, Message
from shared.bus.kafka import open_bus
from shared.bus.kafka_wire import cause, wire_of
from shared.clock import SystemClock
from shared.errors import Kind, LamppostError
from shared.settings import load
from tests.support.bus_harness import drain, values
from tests.support.servers import certificates
from tests.support.servers.kafka import Kafka
from tests.support.servers.process import free_ports
from tests.support.wait import until

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """TLS, names and passwords."""
    with Kafka(tmp_path_factory.mktemp("secured"), tls=True, sasl=True) as made:
        yield made


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """Names and passwords without TLS."""
    with Kafka(tmp_path_factory.mktemp("signed"), sasl=True) as made:
        yield made


async def why(environment: Mapping[str, str], **changes: str) -> str:
    """Why the brokers of these settings cannot be used."""
    settings = load({**environment, **changes})
    return await cause(wire_of(settings))


async def taken(bus: Bus) -> bool:
    """Publish one message; whether the brokers took it. A busy machine is slow to begin."""
    try:
        await bus.publish([Message("sightings", "a", b"1", (("ce_id", b"1"),))])
    except LamppostError as error:
        assert error.retryable, error
        return False
    return True


async def arrived(reader: Consumer) -> bool:
    """Whether the message comes. Leaders of topics that were just made may still move."""
    try:
        return values(await drain(reader)) == ["1"]
    except LamppostError as error:
        assert error.retryable, error
        return False


@pytest.mark.parametrize("sasl", ["SCRAM-SHA-512", "PLAIN"])
async def test_events_go_through_tls_with_a_password(secured: Kafka, sasl: str) -> None:
    environment = {
        **secured.environment(),
        "LAMPPOST_KAFKA__SASL": sasl,
        "LAMPPOST_KAFKA__TOPIC_PREFIX": f"{sasl}-",
    }
    bus = await open_bus(load(environment), SystemClock())
    try:
        await until(lambda: taken(bus), 60, "the message is taken")
        reader = await bus.consumer(["sightings"], group="g", member="one")
        await until(lambda: arrived(reader), 60, "the message arrives")
    finally:
        await bus.close()
    assert await why(environment) == ""


async def test_a_wrong_password_is_named(secured: Kafka, tmp_path: Path) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("not-the-password")
    changed = {**secured.environment(), "LAMPPOST_KAFKA__PASSWORD_FILE": str(wrong)}
    assert "the name or the password is wrong" in await why(changed)
    bus = await open_bus(load(changed), SystemClock())
    try:
        with pytest.raises(LamppostError, match="the password is wrong") as caught:
            await bus.publish([Message("sightings", "a", b"1")])
        assert caught.value.kind is Kind.UNAVAILABLE
        assert "not-the-password" not in str(caught.value)
    finally:
        await bus.close()


def content(path: str | Path) -> bytes:
    return Path(path).read_bytes()


@pytest.mark.parametrize("what", ["password_file", "ca_file"])
async def test_a_corrected_file_is_taken_up_without_a_start(
    secured: Kafka, tmp_path: Path, what: str
) -> None:
    variable = f"LAMPPOST_KAFKA__{what.upper()}"
    file, right = tmp_path / what, content(secured.environment()[variable])
    stranger = content(certificates.make(tmp_path / "stranger").ca)
    file.write_bytes(b"not-the-password" if what == "password_file" else stranger)
    prefix = {"LAMPPOST_KAFKA__TOPIC_PREFIX": f"{what.replace('_', '-')}-"}
    bus = await open_bus(
        load({**secured.environment(), **prefix, variable: str(file)}), SystemClock()
    )
    try:
        assert not await taken(bus)
        file.write_bytes(right)
        await until(lambda: taken(bus), 60, "the message is taken")
    finally:
        await bus.close()


async def test_a_certificate_of_a_stranger_is_named(secured: Kafka, tmp_path: Path) -> None:
    other = certificates.make(tmp_path / "other")
    found = await why(secured.environment(), LAMPPOST_KAFKA__CA_FILE=str(other.ca))
    assert "its certificate is not trusted" in found


async def test_plaintext_to_a_tls_port_is_named(secured: Kafka) -> None:
    without = {"LAMPPOST_KAFKA__TLS": "false"}
    assert "it speaks TLS; set kafka.tls" in await why(secured.environment(), **without)


async def test_tls_to_a_plaintext_port_is_named(broker: Kafka, secured: Kafka) -> None:
    assert secured.identity is not None
    changed = {
        "LAMPPOST_KAFKA__TLS": "true",
        "LAMPPOST_KAFKA__CA_FILE": str(secured.identity.ca),
    }
    assert "it does not speak TLS" in await why(broker.environment(), **changed)


async def test_a_missing_sign_in_is_named(signed: Kafka) -> None:
    found = await why(signed.environment(), LAMPPOST_KAFKA__SASL="none")
    assert "it wants a name and password" in found


async def test_a_mechanism_that_is_not_offered_is_named(signed: Kafka) -> None:
    found = await why(signed.environment(), LAMPPOST_KAFKA__SASL="SCRAM-SHA-256")
    assert "it does not take SCRAM-SHA-256" in found


async def test_nobody_there_is_named(broker: Kafka) -> None:
    port = free_ports(1)[0]
    found = await why(broker.environment(), LAMPPOST_KAFKA__SERVERS=f'["127.0.0.1:{port}"]')
    assert found == f"127.0.0.1:{port}: nobody listens there"


async def test_one_broker_of_several_is_enough(broker: Kafka) -> None:
    servers = f'["127.0.0.1:{free_ports(1)[0]}", "{broker.servers[0]}"]'
    assert await why(broker.environment(), LAMPPOST_KAFKA__SERVERS=servers) == ""
