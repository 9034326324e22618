"""The ports a service is built from, and the only place that picks adapters."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from shared.blobs import Blobs
from shared.bus import Bus
from shared.clock import Clock, SystemClock
from shared.db import Database
from shared.errors import Kind, LamppostError
from shared.redaction import hide
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
    that never uses one, such as a recorder: its first use there is INTERNAL, and an object store is
    not looked at before its first use."""
    clock = clock or SystemClock()
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = _internal_key(settings)
    opened = _database(settings, clock) if database else NoDatabase()
    try:
        blobs = await _blobs(settings, clock, probe=database)
        try:
            bus = await _bus(settings, clock)
        except BaseException:
            await blobs.close()
            raise
    except BaseException:
        await opened.close()
        raise
    return Platform(clock=clock, bus=bus, blobs=blobs, database=opened, internal_key=key)


# Imports of adapters stand in these functions: each process loads only what it uses, and recorders
# start without the heaviest of all, a database driver.


async def _bus(settings: Settings, clock: Clock) -> Bus:
    if settings.stores.bus == "kafka":
        from shared.bus.kafka import open_bus

        return await open_bus(settings, clock)
    from shared.bus.embedded import EmbeddedBus

    return await EmbeddedBus.open(
        settings.state_dir / "bus.db",
        clock=clock,
        partitions=settings.stores.bus_partitions,
        session_timeout_s=settings.stores.session_timeout_s,
    )


async def _blobs(settings: Settings, clock: Clock, *, probe: bool) -> Blobs:
    if settings.stores.blobs == "s3":
        from shared.blobs.s3 import open_blobs

        return await open_blobs(settings, clock, probe=probe)
    from shared.blobs.files import FileBlobs

    return FileBlobs(settings.path(settings.stores.blobs_dir), clock=clock)


def _database(settings: Settings, clock: Clock) -> Database:
    if settings.stores.database == "postgresql":
        from shared.db.postgres import open_database

        return open_database(settings, clock)
    from shared.db.sqlite import SqliteDatabase

    return SqliteDatabase(settings.state_dir / "lamppost.db", clock=clock)


def _internal_key(settings: Settings) -> str:
    given = settings.stores.internal_key_file
    if given is not None:
        return read_key(settings.path(given), fix="stores.internal_key_file names the key's file.")
    return internal_key(settings.state_dir / "secrets" / "internal.key")


class NoDatabase:
    """Port `Database` of a process that has none."""

    dialect = "none"
    clock_sql: str | None = None

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        raise _none()

    def write(self, cameras: Iterable[str] = ()) -> AbstractAsyncContextManager[AsyncConnection]:
        raise _none()

    async def now_us(self, connection: AsyncConnection | None = None) -> int:
        raise _none()

    async def ensure_days(self, days: Iterable[date]) -> None:
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
    return read_key(path, fix="Remove it; a new one is made.")


def read_key(path: Path, *, fix: str) -> str:
    """A key of at least 32 characters that stands in a file; INVALID else."""
    try:
        key = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LamppostError(
            Kind.INVALID, f"Cannot read the key {path}: {error}.", fix=fix
        ) from error
    if len(key) < 32:
        raise LamppostError(Kind.INVALID, f"{path} holds no usable key.", fix=fix)
    return hide(key)
