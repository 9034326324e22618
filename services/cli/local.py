"""What the commands on this machine share: the opened state folder, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from shared import log
from shared.errors import Kind, LamppostError
from shared.platform import Platform, open_platform
from shared.settings import Log, Settings, load

T = TypeVar("T")


@asynccontextmanager
async def opened(settings: Settings, *, new: bool = False) -> AsyncIterator[Platform]:
    """The platform of an existing state folder, or of servers; UNAVAILABLE when nothing was ever
    run there, unless it may be `new`."""
    embedded = settings.stores.database == "sqlite"
    if embedded and not new and not (settings.state_dir / "lamppost.db").exists():
        raise LamppostError(
            Kind.UNAVAILABLE,
            f"There is no Lamppost in {settings.state_dir}.",
            fix="Start it once (lamppost run), or name its folder with --state-dir.",
        )
    platform = await open_platform(settings)
    try:
        await platform.database.migrate()
        yield platform
    finally:
        await platform.close()


def with_platform(work: Callable[[Platform, Settings], Awaitable[T]], *, new: bool = False) -> T:
    """Run `work` on the opened state folder of the settings."""
    settings = load()
    log.configure(Log(level="warning", format=settings.log.format))

    async def run() -> T:
        async with opened(settings, new=new) as platform:
            return await work(platform, settings)

    return asyncio.run(run())
