"""After PostgreSQL was restored by its own means: what the database forgot of purges is told it
again, before any service opens it (edge case 23 of docs/retention.md, docs/guide/scale.md).

`pg_basebackup` and WAL bring the database back as it stood once. Purges made since stand in the
journals of the retention workers, and this replays them. Holds placed since are lost, and nobody
can know them but people: so deletion stays stopped, by the breaker, until a person has placed them
again and clears it. Sign-ins end, since one that was ended may have come back to life; what waits
in outboxes stays, because whoever reads it bears a message that comes twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services import replaying
from services.api import camera_store
from services.retention import queries
from services.statelock import StateLock
from shared import audit, civil, ids, tombstones
from shared.clock import Clock, SystemClock
from shared.db import Database, rows, tables
from shared.db.sqlite import SqliteDatabase
from shared.errors import Kind, LamppostError
from shared.settings import Settings
from shared.standing import RESTORED
from shared.tombstones import Journal

COMMAND = "lamppost restore --tombstones FOLDER"


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What the replay did."""

    last_known_us: int
    """The newest moment that the restored database knew of; holds placed later are lost."""
    tombstones_replayed: int
    segments_removed: int
    sightings_removed: int


async def restore_servers(
    settings: Settings,
    folders: Sequence[Path],
    *,
    force: bool = False,
    clock: Clock | None = None,
) -> Replay:
    """Replay the journals in these folders, and this state folder's, into the database of the
    settings, which PostgreSQL's own means have brought back.

    Where the database is a file it is the same for one that was put back by hand.

    NOT_FOUND when a folder has no journal or there is no database, INVALID when there is no journal
    at all; CONFLICT while services run on it, and for a server's database `force` is not given.
    """
    journals = await asyncio.to_thread(_journals, settings, folders)
    clock = clock or SystemClock()
    if settings.stores.database == "sqlite":
        return await _replay_into_file(settings, journals, clock)
    from shared.db.postgres import open_database

    database = open_database(settings, clock)
    try:
        if not force:
            await _refuse_beside_services(database)
        await database.migrate()
        return await replay_into(database, settings, journals, clock)
    finally:
        await database.close()


async def _replay_into_file(
    settings: Settings, journals: Sequence[Journal], clock: Clock
) -> Replay:
    path = settings.state_dir / "lamppost.db"
    if not path.exists():
        raise LamppostError(
            Kind.NOT_FOUND,
            f"There is no database in {settings.state_dir}.",
            fix="Name a backup: lamppost restore FOLDER.",
        )
    lock = StateLock(settings.state_dir / "lock", f"The state folder {settings.state_dir}")
    lock.acquire()
    database = SqliteDatabase(path, clock=clock)
    try:
        await database.migrate()
        return await replay_into(database, settings, journals, clock)
    finally:
        await database.close()
        lock.release()


async def replay_into(
    database: Database, settings: Settings, journals: Sequence[Journal], clock: Clock
) -> Replay:
    """The work itself, on an open and migrated database. It may be done again."""
    async with database.write() as connection:
        last_known_us = await _last_known_us(connection)
        await _stop_deletion(connection, last_known_us, clock.now_us())
    # From here to the end of the replay no api shows anything that was recorded.
    done = await replaying.replay(database, journals, clock)
    await asyncio.to_thread(replaying.adopt, tombstones.journal(settings.state_dir), journals)
    async with database.write() as connection:
        for table in (tables.session, tables.setup_link):
            await connection.execute(sa.delete(table))
        await queries.told(connection, _cause(last_known_us))
        await announce(connection, clock.now_us(), last_known_us, done.tombstones)
    return Replay(
        last_known_us=last_known_us,
        tombstones_replayed=done.tombstones,
        segments_removed=done.segments,
        sightings_removed=done.sightings,
    )


async def announce(connection: AsyncConnection, now_us: int, as_of_us: int, replayed: int) -> None:
    """Audit the restore, and tell recorders and detectors of the cameras and their zones as they
    are now: they may have heard of later ones."""
    await audit.append(
        connection,
        audit.Entry(
            at_us=now_us,
            actor=audit.LOCAL,
            action="backup.restore",
            reason=f"Backup of {civil.rfc3339(as_of_us)}",
            detail={"tombstones_replayed": replayed},
        ),
    )
    found = (await connection.execute(sa.select(tables.camera))).mappings().all()
    for row in found:
        await camera_store.tell(connection, rows.camera_of(row), now_us)


def _journals(settings: Settings, folders: Sequence[Path]) -> list[Journal]:
    """Those that were named, and this state folder's own where it has one."""
    for folder in folders:
        if not any(folder.glob("*.jsonl")):
            raise LamppostError(
                Kind.NOT_FOUND,
                f"{folder} holds no journal of tombstones.",
                fix="Name the folder `tombstones` of a retention worker's state folder, or its "
                "copy.",
            )
    own = tombstones.journal(settings.state_dir)
    found = [Journal(folder) for folder in folders]
    if any(own.folder.glob("*.jsonl")):
        found.append(own)
    if not found:
        raise LamppostError(
            Kind.INVALID,
            "There is no journal of tombstones to replay.",
            fix=f"Name that of each retention worker: {COMMAND}. Purges that no journal tells of "
            "would come back as rows without footage.",
        )
    return found


async def _refuse_beside_services(database: Database) -> None:
    """Asked as the first thing, while this process has the one connection that asks."""
    query = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'lamppost' AND pid <> pg_backend_pid()"
    )
    async with database.read() as connection:
        count = (await connection.execute(query)).scalar_one()
    if count:
        raise LamppostError(
            Kind.CONFLICT,
            f"Services are connected to the database, by {count} connections.",
            fix="Stop them all (behind PgBouncer, RECONNECT closes what it keeps open), then "
            "replay; with --force it is done beside them.",
        )


async def _last_known_us(connection: AsyncConnection) -> int:
    """The newest time at which anything was written."""
    written = (
        tables.audit.c.at_us,
        tables.segment.c.committed_at_us,
        tables.retention_run.c.at_us,
        tables.tombstone.c.written_at_us,
    )
    found = [await connection.scalar(sa.select(sa.func.max(column))) for column in written]
    return max(value or 0 for value in found)


def _cause(last_known_us: int) -> str:
    return (
        f"The database was restored. It knows nothing after {civil.rfc3339(last_known_us)}: place "
        "again the holds that were placed since, before this is cleared."
    )


async def _stop_deletion(connection: AsyncConnection, last_known_us: int, now_us: int) -> None:
    """Open the breaker, before anything else: a worker that starts too soon deletes nothing."""
    if await queries.open_breaker(connection) is not None:
        return
    cause = _cause(last_known_us)
    await queries.insert_breaker(connection, ids.new_id(), cause, {}, now_us, kind=RESTORED)
    await audit.append(
        connection,
        audit.Entry(
            at_us=now_us,
            actor=audit.LOCAL,
            action="breaker.open",
            resource="retention",
            reason=cause,
            result="stopped",
        ),
    )
