"""Which probes a service that runs alone answers, and what each of them asks.

The composition root knows which service needs which neighbour. docs/guide/kubernetes.md, "Probes",
tells people the same.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING

from shared.messages import CAMERAS
from shared.platform import Platform
from shared.probes import Check, Checks, Missing, Probes
from shared.runtime import Service
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.internal_http import InternalServer

STORELESS = ("ingest", "detect")
"""Services that need the bus alone (services/one.py, `CHILDREN`)."""


async def listen(settings: Settings, probes: Probes) -> InternalServer | None:
    """Who answers probes and Prometheus, where `metrics.port` is set."""
    if not settings.metrics.port:
        return None
    monitor = await asyncio.to_thread(importlib.import_module, "shared.monitor")
    server: InternalServer = await monitor.start(settings.metrics, probes)
    return server


def know(probes: Probes, name: str, platform: Platform, service: Service) -> None:
    """Tell the probes what this service needs to begin and to work."""

    async def topics() -> None:
        # No broker is asked for a number: only a reader sees whether the topics are there.
        await (await platform.bus.consumer([CAMERAS.name], start="earliest")).close()

    # A recorder begins without its bus, with what it recorded last, and must not be killed for it.
    starting: dict[str, Check] = {} if name == "ingest" else {"bus": topics}
    working: dict[str, Check] = {"bus": platform.bus.reach}
    own: Check | None = getattr(service, "ready", None)
    if own is not None:
        working["service"] = own
    told: Checks = {}
    if name == "ingest":
        # It says itself whether it hears its group. A broker that is slow to answer a probe is no
        # reason to hold up the hand-over of cameras.
        told = {"bus": working.pop("bus")}
    if name not in STORELESS:
        starting["schema"] = lambda: schema(platform)
        stores: Checks = {"database": platform.database.now_us, "blobs": platform.blobs.time_us}
        if name == "api":
            # Without bus or object store it still answers what the rows say: to take every replica
            # out of service for them would leave people with nothing.
            told = {"bus": working.pop("bus"), "blobs": stores["blobs"]}
            stores = {"database": stores["database"]}
        working |= stores
    probes.know(starting, working, told)


async def schema(platform: Platform) -> None:
    """The database is as new as this release, or newer (docs/architecture.md, "Database")."""
    from shared.db import revisions

    async with platform.database.read() as connection:
        behind = await connection.run_sync(revisions.behind)
    if behind is not None:
        raise Missing(f"the schema is {behind or 'not there'}: `lamppost migrate` has not run")
