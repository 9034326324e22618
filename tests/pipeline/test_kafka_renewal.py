"""A password and an authority of a real broker that are rotated under processes that run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.bus import Bus, Consumer, Record
from shared.bus.kafka import open_bus
from shared.clock import SystemClock
from shared.errors import LamppostError
from shared.settings import load
from tests.support.bus_harness import drain
from tests.support.bus_rounds import KEYS, back, by_key, publish_all, read_until
from tests.support.servers import certificates
from tests.support.servers.kafka import Kafka
from tests.support.wait import until

pytestmark = pytest.mark.servers
ROUNDS = 150


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Kafka]:
    with Kafka(tmp_path / "kafka", tls=True, sasl=True) as broker:
        yield broker


async def test_a_rotated_password_and_authority_cost_no_start_and_no_message(
    broker: Kafka, tmp_path: Path
) -> None:
    files = {name: tmp_path / name for name in ("password_file", "ca_file")}
    environment = broker.environment()
    for name, file in files.items():
        variable = f"LAMPPOST_KAFKA__{name.upper()}"
        file.write_bytes(_content(environment[variable]))
        environment[variable] = str(file)
    bus = await open_bus(load(environment), SystemClock())
    reader = await _reads(bus)
    member = await _reads(bus, group="g", member="one")
    publishing = asyncio.create_task(publish_all(bus, ROUNDS, 0.05))
    reading = asyncio.create_task(read_until(member, ROUNDS, 120))
    await until(lambda: publishing.done() or member.positions, 30, "both have begun")
    # The password alone, then the authority: each with connections that all break.
    await asyncio.to_thread(broker.change_password, "another-password")
    broker.kill()
    await back(broker)
    files["password_file"].write_text("another-password")
    await _is_reached(bus)
    broker.kill()
    broker.identity = certificates.make(tmp_path / "other")
    await back(broker)
    files["ca_file"].write_bytes(broker.identity.ca.read_bytes())
    await _is_reached(bus)
    await publishing
    await reading
    found: list[Record] = []

    async def whole() -> bool:
        try:
            found.extend(await drain(reader))
        except LamppostError as error:
            assert error.retryable, error
        return len(found) >= ROUNDS * len(KEYS)

    await until(whole, 60, "the log is read")
    assert by_key(found) == {key: list(range(ROUNDS)) for key in KEYS}, "each once, in order"
    await bus.close()


async def _reads(bus: Bus, **group: str) -> Consumer:
    """A reader. Leaders of topics that were just made may still move."""
    found: list[Consumer] = []

    async def made() -> bool:
        try:
            found.append(await bus.consumer(["sightings"], **group))  # type: ignore[arg-type]
        except LamppostError as error:
            assert error.retryable, error
        return bool(found)

    await until(made, 60, "a reader")
    return found[0]


async def _is_reached(bus: Bus) -> None:
    async def reached() -> bool:
        try:
            await bus.reach()
        except LamppostError as error:
            assert error.retryable, error
            return False
        return True

    await until(reached, 60, "the bus is reached", every_s=0.2)


def _content(path: str) -> bytes:
    return Path(path).read_bytes()
