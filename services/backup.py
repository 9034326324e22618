"""Backup and restore of the database: everything but the footage (docs/retention.md, edge case 23).

A backup is a folder: the database as it stood at one moment, the journal of tombstones, and last a
manifest with the hash of each file; without a manifest it is no backup. It leaves out what must not
outlive the footage (sightings) or come back to life (sign-ins), the bus, and all secrets.

A restored database has forgotten the purges made since. So tombstones are replayed, from the
backup, from the journal of this state folder and from the database that is replaced, into the copy
before it takes its place: nothing ever opens a database that still has a row of purged footage.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from services import replaying
from services.restore_servers import announce
from services.statelock import StateLock
from shared import audit
from shared import tombstones as stones
from shared.clock import Clock, SystemClock
from shared.db import migrate, tables
from shared.db.sqlite import SqliteDatabase
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.settings import Settings
from shared.spool import sync_dir, write_atomic
from shared.tombstones import Journal, Tombstone

DATABASE = "lamppost.db"
MANIFEST = "manifest.json"
LEFT_OUT = ("sighting", "thumbnail", "login_session", "setup_link")


class FileEntry(msgspec.Struct, frozen=True):
    """One file of a backup."""

    sha256: str
    size_bytes: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds."""

    format: int
    made_at_us: int
    revision: str
    """Of the schema."""
    files: dict[str, FileEntry]
    """By path inside the folder."""


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore did."""

    made_at_us: int
    tombstones_replayed: int
    segments_removed: int
    """Rows whose footage was purged after the backup was made."""


async def backup(platform: Platform, settings: Settings, target: Path) -> Manifest:
    """Write a backup into an empty or new folder, beside whatever runs. CONFLICT when it is not
    empty, UNSUPPORTED where the database is a server's."""
    _only_embedded(settings)
    await asyncio.to_thread(_check_empty, target)
    made_at_us = platform.clock.now_us()
    async with platform.database.write() as connection:
        entry = audit.Entry(at_us=made_at_us, actor=audit.LOCAL, action="backup.create")
        await audit.append(connection, entry)
    try:
        return await asyncio.to_thread(_write, settings.state_dir, target, made_at_us)
    except sqlite3.Error as error:
        raise LamppostError(Kind.UNAVAILABLE, f"The backup failed: {error}.") from error
    except OSError as error:
        raise LamppostError(
            Kind.UNAVAILABLE, f"The backup cannot be written: {error.strerror}.",
            fix="See that the folder's disk has room and is writable.",
        ) from error  # fmt: skip


def _only_embedded(settings: Settings) -> None:
    if settings.stores.database != "sqlite":
        raise LamppostError(
            Kind.UNSUPPORTED,
            "The database is on PostgreSQL, which has its own backups.",
            fix="Use pg_basebackup and archived WAL, and copy the folder tombstones of each "
            "retention worker's state folder beside it. Bring the database back by the same means, "
            "then: lamppost restore --tombstones FOLDER.",
        )


def _check_empty(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise LamppostError(
            Kind.CONFLICT, f"{target} is not empty.", fix="Name a new folder for each backup."
        )


def _write(state_dir: Path, target: Path, made_at_us: int) -> Manifest:
    target.mkdir(parents=True, exist_ok=True)
    revision = _copy_database(state_dir / DATABASE, target / DATABASE)
    # The journal after the database: it may tell of more purges, never of fewer.
    journal = target / stones.FOLDER
    if (state_dir / stones.FOLDER).is_dir():
        shutil.copytree(state_dir / stones.FOLDER, journal)
    files = {
        str(path.relative_to(target)): _entry(path)
        for path in sorted(target.rglob("*"))
        if path.is_file()
    }
    manifest = Manifest(format=1, made_at_us=made_at_us, revision=revision, files=files)
    write_atomic(target / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


def _copy_database(source: Path, target: Path) -> str:
    """One consistent, whole file, while others read and write; its schema's revision."""
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as live,
        closing(sqlite3.connect(target)) as copy,
    ):
        live.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")
        for table in LEFT_OUT:
            copy.execute(f"DELETE FROM {table}")
        copy.commit()
        copy.execute("VACUUM")
        if (found := copy.execute("PRAGMA integrity_check").fetchone()) != ("ok",):
            raise LamppostError(Kind.CORRUPT, f"The database is damaged: {found[0]}.")
        return str(copy.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


async def restore(
    source: Path,
    settings: Settings,
    *,
    force: bool = False,
    more_tombstones: Sequence[Path] = (),
    clock: Clock | None = None,
) -> Restored:
    """Put a backup in the place of the state folder's database.

    CONFLICT while Lamppost runs on it, or when it has a database and `force` is not given; CORRUPT
    when the backup is not whole; UNSUPPORTED when a newer Lamppost made it, or where the database
    is a server's. `more_tombstones` are journals kept elsewhere, for a machine that lost its own.
    """
    _only_embedded(settings)
    clock = clock or SystemClock()
    state = settings.state_dir
    lock = StateLock(state / "lock", f"The state folder {state}")
    lock.acquire()
    try:
        return await _restore(source, state, force, more_tombstones, clock)
    finally:
        lock.release()


async def _restore(
    source: Path, state: Path, force: bool, more_tombstones: Sequence[Path], clock: Clock
) -> Restored:
    manifest = await asyncio.to_thread(read_manifest, source)
    if (state / DATABASE).exists() and not force:
        raise LamppostError(
            Kind.CONFLICT,
            f"{state} has a database already, which a restore would replace.",
            fix="Make a backup of it, then restore with --force.",
        )
    journal = stones.journal(state)
    await asyncio.to_thread(_save_tombstones, state / DATABASE, journal)
    part = state / "restore.part"
    await asyncio.to_thread(_stage, source, part)
    folders = [source / stones.FOLDER, *more_tombstones]
    journals = [journal, *map(Journal, folders)]
    database = SqliteDatabase(part / DATABASE, clock=clock)
    try:
        await database.migrate()
        done = await replaying.replay(database, journals, clock)
        async with database.write() as connection:
            # The bus begins anew, so nothing that waited for the old one is to be told.
            await connection.execute(sa.delete(tables.outbox))
            await announce(connection, clock.now_us(), manifest.made_at_us, done.tombstones)
    finally:
        await database.close()
    await asyncio.to_thread(replaying.adopt, journal, journals)
    await asyncio.to_thread(_take_place, part, state)
    return Restored(
        made_at_us=manifest.made_at_us,
        tombstones_replayed=done.tombstones,
        segments_removed=done.segments,
    )


def read_manifest(source: Path) -> Manifest:
    """The manifest of a whole backup: each file is there with its hash."""
    fix = "Use another backup."
    try:
        manifest = msgspec.json.decode((source / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise LamppostError(
            Kind.NOT_FOUND, f"{source} is no backup: it has no manifest."
        ) from error
    except (OSError, msgspec.MsgspecError) as error:
        raise LamppostError(Kind.CORRUPT, f"The manifest cannot be read: {error}.", fix=fix) from (
            error
        )
    if DATABASE not in manifest.files:
        raise LamppostError(Kind.CORRUPT, "The backup has no database.", fix=fix)
    for name, stated in manifest.files.items():
        path = source / name
        if ".." in Path(name).parts or Path(name).is_absolute() or not path.is_file():
            raise LamppostError(Kind.CORRUPT, f"The backup lacks {name}.", fix=fix)
        if _entry(path) != stated:
            raise LamppostError(Kind.CORRUPT, f"{name} of the backup is damaged.", fix=fix)
    known = ScriptDirectory.from_config(migrate.config()).walk_revisions()
    if manifest.revision not in {script.revision for script in known}:
        raise LamppostError(
            Kind.UNSUPPORTED,
            f"A newer Lamppost made this backup (schema {manifest.revision}).",
            fix="Restore it with that version.",
        )
    return manifest


def _save_tombstones(path: Path, journal: Journal) -> None:
    """Tombstones that only the replaced database knows of go into the journal first."""
    if not path.exists():
        return
    known = {stone.id for stone in journal.read()}
    names = "id, camera_id, recording_date, segments, policy_version, due_at_us, claimed_at_us"
    try:
        with closing(sqlite3.connect(path)) as old:
            old.row_factory = sqlite3.Row
            for row in old.execute(
                f"SELECT {names}, bytes_gone_at_us, written_at_us FROM tombstone"
            ):
                if row["id"] not in known:
                    values = dict(row) | {"segments": stones.unpack_segments(row["segments"])}
                    journal.append(msgspec.convert(values, Tombstone))
    except sqlite3.Error:
        return  # a damaged database is why people restore; the journal has every purge


def _stage(source: Path, part: Path) -> None:
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    shutil.copyfile(source / DATABASE, part / DATABASE)


def _take_place(part: Path, state: Path) -> None:
    """The restored database becomes the database. A crash before the last step leaves none, which
    says so at the next start and is repaired by restoring again."""
    with closing(sqlite3.connect(part / DATABASE)) as done:
        done.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (part / DATABASE).open("rb") as file:
        os.fsync(file.fileno())
    for name in (DATABASE, "bus.db"):
        for suffix in ("", "-wal", "-shm"):
            (state / (name + suffix)).unlink(missing_ok=True)
    (part / DATABASE).replace(state / DATABASE)
    sync_dir(state)
    shutil.rmtree(part)
