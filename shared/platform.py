"""The ports a service is built from, and the only place that picks adapters."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shared.blobs import Blobs
from shared.bus import Bus
from shared.clock import Clock, SystemClock
from shared.db import Database
from shared.errors import Kind, LamppostError
from shared.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Platform:
    """What a service may use; it cannot tell which adapters stand behind."""

    clock: Clock
    bus: Bus
    blobs: Blobs
    database: Database
    internal_key: str
    """Shared by the services of one installation, for requests between them."""

    async def close(self) -> None:
        await self.bus.close()
        await self.blobs.close()
        await self.database.close()


async def open_platform(
    settings: Settings, clock: Clock | None = None, *, database: bool = True
) -> Platform:
    """Open the adapters that the settings name. Does not migrate. `database=False` is for a process
    that never uses one, such as a recorder: its first use there is INTERNAL."""
    from shared.blobs.files import FileBlobs
    from shared.bus.embedded import EmbeddedBus

    clock = clock or SystemClock()
    if settings.stores.database != "sqlite":
        raise LamppostError(
            Kind.NOT_BUILT,
            "Only the embedded database is built.",
            fix="Leave stores.database at sqlite.",
        )
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Platform(
        clock=clock,
        bus=await EmbeddedBus.open(
            settings.state_dir / "bus.db",
            clock=clock,
            partitions=settings.stores.bus_partitions,
            session_timeout_s=settings.stores.session_timeout_s,
        ),
        blobs=FileBlobs(settings.path(settings.stores.blobs_dir), clock=clock),
        database=_database(settings, clock) if database else NoDatabase(),
        internal_key=internal_key(settings.state_dir / "secrets" / "internal.key"),
    )


def _database(settings: Settings, clock: Clock) -> Database:
    # Only here: the driver is the heaviest import of all, and recorders do without.
    from shared.db.sqlite import SqliteDatabase

    return SqliteDatabase(settings.state_dir / "lamppost.db", clock=clock)


class NoDatabase:
    """Port `Database` of a process that has none."""

    dialect = "none"

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        raise _none()

    def write(self, cameras: Iterable[str] = ()) -> AbstractAsyncContextManager[AsyncConnection]:
        raise _none()

    async def now_us(self) -> int:
        raise _none()

    async def migrate(self) -> str:
        raise _none()

    async def close(self) -> None:
        """There is nothing to close."""


def _none() -> LamppostError:
    return LamppostError(Kind.INTERNAL, "This process has no database.")


def internal_key(path: Path) -> str:
    """The installation's internal key, made at the first start, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with path.open("x", encoding="ascii") as file:
            path.chmod(0o600)
            file.write(secrets.token_urlsafe(32))
    except FileExistsError:
        pass
    key = path.read_text("ascii").strip()
    if len(key) < 32:
        raise LamppostError(
            Kind.INVALID, f"{path} holds no usable key.", fix="Remove it; a new one is made."
        )
    return key
