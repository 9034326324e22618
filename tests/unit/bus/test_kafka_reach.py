"""Whether brokers answer now: asked for real, once for all who ask, within a probe's time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared.bus.kafka_reach import HOLD_US, Reach
from shared.bus.kafka_wire import Wire
from shared.clock import SECOND_US, SimulatedClock
from shared.errors import Kind, LamppostError
from shared.probes import OK, Probes, asked
from tests.support.fake_broker import FakeBroker, broker
from tests.support.servers.process import free_ports


class Asking:
    """Reach on a fake broker, and time."""

    def __init__(self, fake: FakeBroker, *more: str) -> None:
        self.broker = fake
        self.clock = SimulatedClock()
        wire = Wire((*more, fake.server), "", 10.0, {"security_protocol": "PLAINTEXT"})
        self.reach = Reach(wire, self.clock, "cameras")

    async def later(self) -> str:
        """What is said once the last answer holds no more."""
        await self.clock.advance(HOLD_US / SECOND_US)
        try:
            await self.reach.ask()
        except LamppostError as error:
            assert error.kind is Kind.UNAVAILABLE and error.retryable
            return error.message
        return ""


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    async with broker() as fake:
        made = Asking(fake)
        yield made
        await made.reach.close()


async def test_a_broker_is_asked_once_a_second_over_one_connection(asking: Asking) -> None:
    for _ in range(3):
        await asking.reach.ask()
    assert asking.broker.questions == 1, "the answer holds"
    for _ in range(3):
        assert await asking.later() == ""
    assert asking.broker.questions == 4 and asking.broker.connections == 1


async def test_all_who_ask_at_once_share_one_question(asking: Asking) -> None:
    await asyncio.gather(*(asking.reach.ask() for _ in range(100)))
    assert asking.broker.questions == 1
    first, second = (asyncio.create_task(asking.later()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "", "who gives up leaves the question to the others"


async def test_a_broker_that_says_nothing_is_not_ready_within_a_probes_time(
    asking: Asking,
) -> None:
    assert await asking.later() == ""
    asking.broker.silent = True
    await asking.clock.advance(HOLD_US / SECOND_US)
    assert await asked({"bus": asking.reach.ask}) == {"bus": "unavailable"}, "before its timeout"
    assert await asked({"bus": asking.reach.ask}) == {"bus": "unavailable"}, "that holds as well"
    asking.broker.silent = False
    await asking.clock.advance(HOLD_US / SECOND_US)
    assert await asked({"bus": asking.reach.ask}) == {"bus": OK}


async def test_readiness_follows_a_broker_that_goes_and_returns(asking: Asking) -> None:
    probes = Probes()
    probes.know({}, {"bus": asking.reach.ask})
    assert (await probes.ready())[0]
    await asking.broker.stop()
    await asking.clock.advance(HOLD_US / SECOND_US)
    assert await probes.ready() == (False, {"bus": "unavailable"})
    await asking.broker.start()
    await asking.clock.advance(HOLD_US / SECOND_US)
    assert (await probes.ready())[0]


async def test_a_connection_that_ended_is_made_again(asking: Asking) -> None:
    assert await asking.later() == ""
    asking.broker.hang_up()
    assert await asking.later() == ""
    assert asking.broker.connections == 2


async def test_one_broker_of_several_is_enough() -> None:
    async with broker() as fake, broker() as mute:
        mute.silent = True
        asking = Asking(fake, f"127.0.0.1:{free_ports(1)[0]}", mute.server)
        assert await asking.later() == ""
        await asking.reach.close()


async def test_partitions_without_a_leader_cannot_be_used(asking: Asking) -> None:
    asking.broker.leader = -1
    assert "partitions of cameras have no leader" in await asking.later()
    asking.broker.leader = 1
    assert await asking.later() == ""


async def test_a_closed_one_is_closed_for_those_who_wait_too(asking: Asking) -> None:
    asking.broker.silent = True
    waiting = asyncio.create_task(asking.reach.ask())
    await asyncio.sleep(0)
    await asking.reach.close()
    await asking.reach.close()
    with pytest.raises(LamppostError) as caught:
        await waiting
    assert caught.value.kind is Kind.CLOSED
