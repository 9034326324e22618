"""A process of its own on a bus, for the tests that need two (or one to kill).

Arguments: the path, partitions and session time-out of an embedded bus, or `kafka` and the settings
of one on Kafka as a JSON object of variables. Reads JSON commands from standard input, one a line,
and answers each with a JSON line: `{"do": "publish", "topic", "key", "values": [...]}`,
`{"do": "storm", "key"}` (publishes batches of 50 without end; the first answer says that it began),
`{"do": "poll", "topic", "group", "member"}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from shared import log
from shared.bus import Bus, Consumer, Message
from shared.clock import SystemClock
from shared.settings import Log, load

STORM_BATCH = 50


def say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


async def storm(bus: Bus, key: str) -> None:
    number = 0
    while True:
        await bus.publish(
            [
                Message("sightings", key, json.dumps([number, at]).encode())
                for at in range(STORM_BATCH)
            ]
        )
        number += 1
        if number == 3:
            say({"begun": True})


async def opened(arguments: list[str]) -> Bus:
    if arguments[0] == "kafka":
        from shared.bus.kafka import open_bus

        return await open_bus(load(json.loads(arguments[1])), SystemClock())
    from shared.bus.embedded import EmbeddedBus

    path, partitions, session_timeout_s = arguments
    return await EmbeddedBus.open(
        Path(path),
        clock=SystemClock(),
        partitions=int(partitions),
        session_timeout_s=float(session_timeout_s),
    )


async def main(arguments: list[str]) -> None:
    log.configure(Log(level="error"))
    bus = await opened(arguments)
    consumer: Consumer | None = None
    while line := await asyncio.to_thread(sys.stdin.readline):
        command: dict[str, Any] = json.loads(line)
        if command["do"] == "publish":
            await bus.publish(
                [Message(command["topic"], command["key"], v.encode()) for v in command["values"]]
            )
            say({"done": True})
        elif command["do"] == "storm":
            await storm(bus, command["key"])
        elif command["do"] == "poll":
            if consumer is None:
                consumer = await bus.consumer(
                    [command["topic"]], group=command["group"], member=command["member"]
                )
            found = await consumer.poll(timeout_s=0.2)
            say(
                {
                    "values": [record.value.decode() for record in found],
                    "assignment": sorted(consumer.assignment),
                }
            )
    await bus.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
