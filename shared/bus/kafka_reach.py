"""Whether the brokers answer now: what a probe of readiness asks.

The question is for metadata, over a connection of its own that is kept, so that nothing else waits
for a broker that hangs. Where that connection is gone or says nothing, every broker of the settings
is asked at once and the first that answers is kept: one that hangs cannot hide the others. An
answer holds for `HOLD_US`, and whoever asks meanwhile shares it, so that a flood of probes is none
for the brokers.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.protocol.metadata import MetadataRequest

from shared.bus.kafka_wire import AWAY, Wire, away, host_and_port, words
from shared.clock import SECOND_US, Clock
from shared.errors import Kind, LamppostError

HOLD_US = SECOND_US
"""An answer, or that there was none, holds for so long."""
KEPT_S = 0.5
"""Longest wait for the connection that answered last."""
REACH_S = 1.5
"""Longest wait for all; shorter than a probe's (shared/probes.py)."""
FAILS = (*AWAY, EOFError)
NO_LEADER = -1


class Reach:
    """Belongs to one event loop."""

    def __init__(self, wire: Wire, clock: Clock, topic: str) -> None:
        self._wire, self._clock, self._topic = wire, clock, topic
        self._connection: AIOKafkaConnection | None = None
        self._asking: asyncio.Task[str] | None = None
        self._why = ""
        self._why_us = clock.monotonic_us() - HOLD_US
        self._closed = False

    async def ask(self) -> None:
        """UNAVAILABLE when no broker answers, or when a partition of the topic has no leader."""
        why = self._why
        if self._asking is not None or self._clock.monotonic_us() - self._why_us >= HOLD_US:
            why = await self._shared()
        if why:
            raise away(why)

    async def close(self) -> None:
        """Let go of the brokers. May be called twice."""
        self._closed = True
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
        self._hang_up()

    async def _shared(self) -> str:
        """One question for all who ask meanwhile; who gives up leaves it to the others."""
        if self._closed:
            raise LamppostError(Kind.CLOSED, "The bus is closed.")
        asking = self._asking = self._asking or asyncio.create_task(self._look())
        await asyncio.wait({asking})
        if asking.cancelled():
            raise LamppostError(Kind.CLOSED, "The bus is closed.")
        return asking.result()

    async def _look(self) -> str:
        """Why the brokers are away, remembered; empty when they answer."""
        try:
            async with asyncio.timeout(REACH_S):
                self._why = await self._answer()
        except TimeoutError:
            self._why = "no broker answers in time"
        finally:
            self._asking = None
        self._why_us = self._clock.monotonic_us()
        return self._why

    async def _answer(self) -> str:
        if self._connection is not None:
            try:
                async with asyncio.timeout(KEPT_S):
                    return self._judged(await self._question(self._connection))
            except FAILS:
                self._hang_up()
        return await self._first()

    async def _first(self) -> str:
        """Ask all brokers; keep the one that answers first."""
        asking = {asyncio.create_task(self._at(server)) for server in self._wire.servers}
        why = ""
        try:
            for done in asyncio.as_completed(asking):
                try:
                    connection, answer = await done
                except FAILS as error:
                    why = words(error)
                    continue
                self._connection = connection
                return self._judged(answer)
        finally:
            for task in asking:
                task.cancel()
            for found in await asyncio.gather(*asking, return_exceptions=True):
                if not isinstance(found, BaseException) and found[0] is not self._connection:
                    found[0].close()
        return why

    async def _at(self, server: str) -> tuple[AIOKafkaConnection, Any]:
        """A new connection, and what its broker says."""
        connection = await create_conn(
            *host_and_port(server),
            client_id="lamppost-probe",
            request_timeout_ms=round(REACH_S * 1000),
            **self._wire.security,
        )
        try:
            return connection, await self._question(connection)
        except BaseException:
            connection.close()
            raise

    async def _question(self, connection: AIOKafkaConnection) -> Any:
        topic = self._wire.topic(self._topic)
        return await connection.send(MetadataRequest([topic], allow_auto_topic_creation=False))

    def _judged(self, answer: Any) -> str:
        """What is wrong with the topic; its partitions are the last of each topic's fields."""
        partitions = [part for topic in answer.topics for part in topic[-1]]
        without = sum(leader == NO_LEADER for _, _, leader, *_ in partitions)
        if without or not partitions:
            name = self._wire.topic(self._topic)
            return f"{without or 'all'} partitions of {name} have no leader"
        return ""

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
