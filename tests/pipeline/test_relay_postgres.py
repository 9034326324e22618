"""Webhooks on a real PostgreSQL: two relays, a queue that is cut, a replay, the sweep."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from starlette.responses import Response

from services.api import queries_relay
from services.api.relay_delivery import Delivery, sweep
from services.api.relay_intake import Intake
from shared.clock import DAY_US, SimulatedClock
from shared.db.postgres import open_database
from shared.platform import Platform
from shared.runtime import Stop
from shared.settings import Settings, load
from tests.support.api import NOW_US, platform_in
from tests.support.http_server import serve
from tests.support.relaying import Receiver, seen, subscribed
from tests.support.servers.postgres import Postgres

pytestmark = pytest.mark.servers
HOOK = "w-1"


@asynccontextmanager
async def world(folder: Path, server: Postgres) -> AsyncIterator[tuple[Platform, Settings]]:
    """A platform on PostgreSQL, with the embedded bus."""
    env = {
        **server.environment(server.fresh("relay")),
        "LAMPPOST_STATE_DIR": str(folder),
        "LAMPPOST_RELAY__WEBHOOK_HOSTS": '["127.0.0.1"]',
        "LAMPPOST_RELAY__WEBHOOK_HTTP": "true",
        "LAMPPOST_RELAY__WEBHOOK_QUEUE": "20",
    }
    settings = load(env)
    clock = SimulatedClock(NOW_US)
    embedded = await platform_in(folder, clock)
    database = open_database(settings, clock)
    platform = Platform(clock, embedded.bus, embedded.blobs, database, embedded.internal_key)
    try:
        yield platform, settings
    finally:
        await platform.close()
        await embedded.database.close()


async def deliver(*relays: Delivery) -> None:
    stop = Stop()
    await asyncio.gather(*(relay.run_once(stop) for relay in relays))
    for relay in relays:
        await relay.idle()


async def test_webhooks_on_postgresql(tmp_path: Path) -> None:
    receiver = Receiver()
    with Postgres(tmp_path / "server", durable=False) as server:
        async with serve(receiver.app()) as url, world(tmp_path, server) as (platform, settings):
            await subscribed(platform, settings, f"{url}/hook")
            relays = [
                Delivery(platform, settings, random.Random(1), name) for name in ("r-1", "r-2")
            ]
            intake = Intake(platform, settings, relays[0].wake)
            await platform.bus.publish([seen(f"s{n:02}") for n in range(15)])
            while await intake.feed.once(wait_s=0):
                pass
            await deliver(*relays)
            assert len(receiver.got) == 15, "each event once, whichever relay sent it"

            receiver.answer = lambda _: Response(status_code=500)
            await platform.bus.publish([seen(f"t{n:02}") for n in range(30)])
            while await intake.feed.once(wait_s=0):
                pass
            async with platform.database.read() as connection:
                counts = await queries_relay.counts(connection)
            assert counts == {(HOOK, "waiting"): 20, (HOOK, "dead"): 10}

            receiver.answer = lambda _: Response(status_code=200)
            async with platform.database.write() as connection:
                assert await queries_relay.replay(connection, HOOK, NOW_US, 100) == 10
            receiver.got.clear()
            await deliver(relays[0])
            await deliver(relays[1])
            assert len({event["id"] for event in receiver.events}) == 30
            assert len(receiver.got) == 30

            receiver.answer = lambda _: Response(status_code=500)
            await platform.bus.publish([seen("u")])
            while await intake.feed.once(wait_s=0):
                pass
            await deliver(*relays)
            assert await sweep(platform, settings) == 0
            platform.clock.set_us(NOW_US + 31 * DAY_US)  # type: ignore[attr-defined]
            assert await sweep(platform, settings) == 1
            await intake.feed.leave()
            for relay in relays:
                await relay.close()
