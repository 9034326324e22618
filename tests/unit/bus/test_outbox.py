"""Events of a transaction are published after it, in order, and never lost."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from shared import metrics, outbox
from shared.bus import Bus, Message
from shared.clock import SystemClock
from shared.db import tables
from shared.errors import Kind, LamppostError
from shared.messages import SegmentArchived, decode, encode
from shared.outbox import Relay
from shared.platform import Platform, open_platform
from shared.runtime import Stop
from shared.settings import Settings
from tests.support.wait import until


class FaultyBus:
    """The embedded bus, which fails when told: before it took the messages, or after."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.fail_before: Kind | None = None
        self.fail_after: Kind | None = None

    async def publish(self, messages: Sequence[Message]) -> None:
        if self.fail_before:
            raise LamppostError(self.fail_before, "told to fail")
        await self.bus.publish(messages)
        if self.fail_after:
            raise LamppostError(self.fail_after, "told to fail")


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    made = await open_platform(Settings.model_validate({"state_dir": tmp_path}), SystemClock())
    await made.database.migrate()
    yield made
    await made.close()


def with_bus(platform: Platform, bus: object) -> Platform:
    return Platform(
        platform.clock,
        bus,  # type: ignore[arg-type]
        platform.blobs,
        platform.database,
        platform.internal_key,
    )


def archived(number: int) -> Message:
    value = SegmentArchived(f"segment-{number}", "cam", number, number + 1, 1, "0" * 64, 5)
    return outbox.event("segments", "cam", value, source="archive", at_us=number)


async def add(platform: Platform, *messages: Message, service: str = "archive") -> None:
    async with platform.database.write() as connection:
        await outbox.add(connection, service, messages, at_us=1)


async def published(platform: Platform) -> list[tuple[str, bytes]]:
    """Segment ids and `ce_id` of what is on the bus."""
    reader = await platform.bus.consumer(["segments"])
    return [
        (decode(record.value, SegmentArchived).segment_id, dict(record.headers)["ce_id"])
        for record in await reader.poll(timeout_s=0)
    ]


async def rows(platform: Platform) -> list[str]:
    async with platform.database.read() as connection:
        found = await connection.execute(sa.select(tables.outbox.c.service))
        return [row[0] for row in found]


async def test_events_go_out_in_order_and_the_rows_are_gone(platform: Platform) -> None:
    sent = [archived(n) for n in range(5)]
    await add(platform, *sent)
    relay = Relay(platform, "archive", batch=2)
    while await relay.run_once():
        pass
    assert await published(platform) == [
        (f"segment-{n}", dict(sent[n].headers)["ce_id"]) for n in range(5)
    ]
    assert await rows(platform) == []
    assert metrics.REGISTRY.get_sample_value("lamppost_outbox_rows", {"service": "archive"}) == 0
    assert oldest() == 0


def oldest() -> float | None:
    name = "lamppost_outbox_oldest_timestamp_seconds"
    return metrics.REGISTRY.get_sample_value(name, {"service": "archive"})


async def test_an_event_that_cannot_go_out_says_since_when(platform: Platform) -> None:
    async with platform.database.write() as connection:
        await outbox.add(connection, "archive", [archived(1)], at_us=7_000_000)
        await outbox.add(connection, "archive", [archived(2)], at_us=9_000_000)
    await platform.bus.close()
    with pytest.raises(LamppostError):
        await Relay(platform, "archive").run_once()
    assert oldest() == 7


async def test_events_of_one_instant_differ_in_value_and_id_alone(platform: Platform) -> None:
    values = [SegmentArchived(f"segment-{n}", "cam", n, n + 1, 1, "0" * 64, 5) for n in range(300)]
    sent = outbox.events("segments", "cam", values, source="archive", at_us=1)
    one = outbox.event("segments", "cam", values[0], source="archive", at_us=1)
    assert [message.value for message in sent] == [encode(value) for value in values]
    found = [dict(message.headers) for message in sent]
    names = [uuid.UUID(headers.pop("ce_id").decode()) for headers in found]
    assert len(set(names)) == 300
    assert {(name.version, name.variant) for name in names} == {(4, uuid.RFC_4122)}
    assert all(
        {**headers, "ce_id": dict(one.headers)["ce_id"]} == dict(one.headers) for headers in found
    )
    assert [name for name, _ in sent[0].headers] == [name for name, _ in one.headers]
    assert outbox.events("segments", "cam", [], source="archive", at_us=1) == []


async def test_an_undone_transaction_publishes_nothing(platform: Platform) -> None:
    with pytest.raises(ZeroDivisionError):
        async with platform.database.write() as connection:
            await outbox.add(connection, "archive", [archived(1)], at_us=1)
            raise ZeroDivisionError
    assert not await Relay(platform, "archive").run_once()
    assert await published(platform) == []


async def test_a_crash_before_the_rows_are_deleted_publishes_again_with_the_same_id(
    platform: Platform,
) -> None:
    bus = FaultyBus(platform.bus)
    bus.fail_after = Kind.UNAVAILABLE
    await add(platform, archived(1))
    with pytest.raises(LamppostError):
        await Relay(with_bus(platform, bus), "archive").run_once()
    assert len(await rows(platform)) == 1
    bus.fail_after = None
    await Relay(with_bus(platform, bus), "archive").run_once()
    found = await published(platform)
    assert len(found) == 2 and found[0] == found[1]
    assert await rows(platform) == []


async def test_a_bus_that_is_away_keeps_the_rows(platform: Platform) -> None:
    bus = FaultyBus(platform.bus)
    bus.fail_before = Kind.UNAVAILABLE
    await add(platform, archived(1))
    with pytest.raises(LamppostError):
        await Relay(with_bus(platform, bus), "archive").run_once()
    assert len(await rows(platform)) == 1 and await published(platform) == []


async def test_services_do_not_publish_each_others_rows(platform: Platform) -> None:
    await add(platform, archived(1), service="api")
    assert not await Relay(platform, "archive").run_once()
    assert await rows(platform) == ["api"]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (Message("nonsense", "k", b""), Kind.INVALID),
        (Message("segments", "k", bytes(300_000)), Kind.TOO_LARGE),
    ],
)
async def test_what_no_bus_would_take_fails_the_transaction(
    platform: Platform, message: Message, kind: Kind
) -> None:
    with pytest.raises(LamppostError) as caught:
        await add(platform, archived(1), message)
    assert caught.value.kind is kind
    assert await rows(platform) == []


async def test_a_row_that_the_bus_never_takes_is_set_aside_and_stops_nobody(
    platform: Platform,
) -> None:
    await add(platform, archived(1), archived(2))
    async with platform.database.write() as connection:
        first = sa.select(sa.func.min(tables.outbox.c.id)).scalar_subquery()
        await connection.execute(
            sa.update(tables.outbox).where(tables.outbox.c.id == first).values(topic="gone")
        )
    assert await Relay(platform, "archive").run_once()
    assert [name for name, _ in await published(platform)] == ["segment-2"]
    assert await rows(platform) == ["bad:archive"]
    assert not await Relay(platform, "archive").run_once()


async def test_a_running_relay_is_woken_and_publishes_the_rest_at_its_stop(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "IDLE_S", 3_600.0)
    relay, stop = Relay(platform, "archive"), Stop()
    running = asyncio.create_task(relay.run(stop))
    reader = await platform.bus.consumer(["segments"], start="earliest")
    await add(platform, archived(1))
    relay.wake()
    assert len(await reader.poll(timeout_s=10)) == 1
    await add(platform, archived(2))
    stop.set()
    await asyncio.wait_for(running, 10)
    assert len(await published(platform)) == 2


async def test_a_running_relay_outlives_an_absent_bus(platform: Platform) -> None:
    bus = FaultyBus(platform.bus)
    bus.fail_before = Kind.UNAVAILABLE
    stop = Stop()
    await add(platform, archived(1))
    running = asyncio.create_task(Relay(with_bus(platform, bus), "archive").run(stop))
    await asyncio.sleep(0)
    bus.fail_before = None

    async def done() -> bool:
        return await rows(platform) == []

    await until(done)
    stop.set()
    await asyncio.wait_for(running, 10)
