"""A client's first connection, whatever ends the attempt: none is left open to a broker."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataResponse_v0

from shared.bus.kafka_wire import Wire
from tests.support.fake_broker import FakeBroker, broker
from tests.support.servers.process import free_ports
from tests.support.wait import until


class Mute(FakeBroker):
    """It greets, and takes questions that it never answers."""

    def _answer(self, data):  # type: ignore[no-untyped-def]
        answer = super()._answer(data)
        self.silent = self.questions > 0
        return answer


def client_of(*servers: str, timeout_s: float = 10.0) -> AIOKafkaClient:
    wire = Wire(servers, "", timeout_s, {"security_protocol": "PLAINTEXT"})
    return wire.follow(AIOKafkaClient(**wire.client_arguments("test")))


async def test_an_attempt_that_is_cancelled_hangs_up() -> None:
    """As at the close of a bus that was opened just now. aiokafka's own leaves the connection to
    the collector, which tells of it in whatever runs then."""
    fake = Mute()
    await fake.start()
    client = client_of(fake.server)
    asking = asyncio.create_task(client.bootstrap())
    await until(lambda: fake.questions == 1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await until(lambda: not fake._writers, 10, "the broker sees the end of it")
    await client.close()
    await fake.stop()


async def test_one_that_says_nothing_is_passed_over_and_hung_up_on() -> None:
    fake = Mute()
    await fake.start()
    (nobodys,) = free_ports(1)
    async with broker() as other:
        client = client_of(f"127.0.0.1:{nobodys}", fake.server, other.server, timeout_s=0.2)
        await client.bootstrap()
        assert [node.port for node in client.cluster.brokers()] == [other.port]
        await until(lambda: not fake._writers, 10, "the broker sees the end of it")
        await client.close()
    await fake.stop()


class Newborn(FakeBroker):
    """It does not know of any broker yet."""

    def _metadata(self) -> MetadataResponse_v0:
        return MetadataResponse_v0([], [])


async def test_one_that_knows_of_no_broker_is_no_answer() -> None:
    fake = Newborn()
    await fake.start()
    async with broker() as other:
        client = client_of(fake.server, other.server)
        await client.bootstrap()
        assert [node.port for node in client.cluster.brokers()] == [other.port]
        await client.close()
    await fake.stop()


async def test_where_nobody_answers_it_says_so() -> None:
    (nobodys,) = free_ports(1)
    client = client_of(f"127.0.0.1:{nobodys}")
    with pytest.raises(KafkaConnectionError):
        await client.bootstrap()
    await client.close()
