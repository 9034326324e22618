"""How the bus contract opens buses on one store, ends them, and runs a second process.

An adapter joins by a harness of its own and a subclass of each contract class.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Protocol

from shared.bus import Bus, Consumer, Message, Record
from shared.bus.embedded import EmbeddedBus
from shared.bus.kafka import KafkaBus, open_bus
from shared.clock import Clock, SimulatedClock, SystemClock
from shared.settings import Settings, load
from tests.support.servers.kafka import Kafka
from tests.support.wait import until

PARTITIONS = 4
TIMEOUT_S = 10.0
ROOT = Path(__file__).parents[2]


class Harness(Protocol):
    """How the suite opens buses on one store, and ends them."""

    clock: SimulatedClock

    def fresh(self, path: Path) -> Harness:
        """A harness of the same adapter on another store."""
        ...

    async def close(self) -> None: ...

    async def open(self, clock: Clock | None = None) -> Bus: ...

    async def kill(self, bus: Bus) -> None:
        """End a bus as `kill -9` of its process does."""
        ...

    def process(self, session_timeout_s: float = TIMEOUT_S) -> Process: ...


class Process:
    """tests/support/bus_process.py, running."""

    def __init__(self, arguments: list[str]) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.support.bus_process", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def ask(self, **command: Any) -> dict[str, Any]:
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(json.dumps(command) + "\n")
        self._child.stdin.flush()
        answer = json.loads(self._child.stdout.readline())
        assert isinstance(answer, dict)
        return answer

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            pipe.close()


class EmbeddedHarness:
    def __init__(self, path: Path) -> None:
        self.clock = SimulatedClock()
        self.path = path
        self._buses: list[EmbeddedBus] = []
        self._processes: list[Process] = []

    def fresh(self, path: Path) -> EmbeddedHarness:
        return EmbeddedHarness(path)

    async def open(self, clock: Clock | None = None) -> Bus:
        bus = await EmbeddedBus.open(
            self.path,
            clock=clock or self.clock,
            partitions=PARTITIONS,
            session_timeout_s=TIMEOUT_S,
        )
        self._buses.append(bus)
        return bus

    async def kill(self, bus: Bus) -> None:
        assert isinstance(bus, EmbeddedBus)
        await bus.abandon()

    def process(self, session_timeout_s: float = TIMEOUT_S) -> Process:
        made = Process([str(self.path), str(PARTITIONS), str(session_timeout_s)])
        self._processes.append(made)
        return made

    async def close(self) -> None:
        for process in self._processes:
            process.kill()
        for bus in self._buses:
            await bus.close()


KAFKA_PACE = 0.3
"""A server's clock cannot be driven: simulated seconds pass as so many real ones."""
_stores = itertools.count()


class PassingClock(SimulatedClock):
    """The machine's clock in the place of a simulated one: `advance` waits, at `KAFKA_PACE`."""

    def __init__(self) -> None:
        super().__init__()
        self._system = SystemClock()
        self._offset_us = 0

    def now_us(self) -> int:
        return self._system.now_us() + self._offset_us

    def monotonic_us(self) -> int:
        return self._system.monotonic_us()

    async def sleep(self, seconds: float) -> None:
        await self._system.sleep(seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return self._system.wait(event, seconds)

    def jump_wall(self, step_us: int) -> None:
        self._offset_us += step_us

    async def advance(self, seconds: float) -> None:
        await self._system.sleep(seconds * KAFKA_PACE)


class KafkaHarness:
    """Buses on a real broker; each harness has topics and groups of its own."""

    def __init__(self, broker: Kafka, folder: Path) -> None:
        self.clock = PassingClock()
        self._broker, self._folder = broker, folder
        self._prefix = f"t{next(_stores)}-"
        self._buses: list[KafkaBus] = []
        self._processes: list[Process] = []

    def fresh(self, path: Path) -> KafkaHarness:
        return KafkaHarness(self._broker, path.parent)

    def environment(self, session_timeout_s: float = TIMEOUT_S * KAFKA_PACE) -> dict[str, str]:
        """Variables of a process on this store."""
        return {
            **self._broker.environment(),
            "LAMPPOST_STATE_DIR": str(self._folder),
            "LAMPPOST_KAFKA__TOPIC_PREFIX": self._prefix,
            "LAMPPOST_STORES__BUS_PARTITIONS": str(PARTITIONS),
            "LAMPPOST_STORES__SESSION_TIMEOUT_S": str(session_timeout_s),
        }

    def settings(self) -> Settings:
        return load(self.environment())

    async def open(self, clock: Clock | None = None) -> Bus:
        bus = await open_bus(self.settings(), clock or self.clock)
        assert isinstance(bus, KafkaBus)
        self._buses.append(bus)
        return bus

    async def kill(self, bus: Bus) -> None:
        assert isinstance(bus, KafkaBus)
        await bus.abandon()

    def process(self, session_timeout_s: float = TIMEOUT_S) -> Process:
        made = Process(["kafka", json.dumps(self.environment(session_timeout_s))])
        self._processes.append(made)
        return made

    async def close(self) -> None:
        for process in self._processes:
            process.kill()
        for bus in self._buses:
            await bus.abandon()


def status(key: str, *values: str) -> list[Message]:
    return [Message("camera-status", key, value.encode()) for value in values]


async def drain(consumer: Consumer) -> list[Record]:
    """Everything that is there now, with the rebalancing that a poll does."""
    found: list[Record] = []
    while records := await consumer.poll(timeout_s=0):
        found.extend(records)
    return found


def values(records: list[Record]) -> list[str]:
    return [record.value.decode() for record in records]


async def settled(*consumers: Consumer) -> list[Record]:
    """Poll until every partition has an owner among these; what they read meanwhile."""
    found: list[Record] = []

    async def whole() -> bool:
        for consumer in consumers:
            found.extend(await consumer.poll(timeout_s=0))
        return sum(len(c.assignment) for c in consumers) == PARTITIONS

    await until(whole, what="partitions assigned")
    return found
