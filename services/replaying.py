"""Tombstones taken into a restored database, so that nothing of purged footage is in it (edge case
23 of docs/retention.md).

A database restored from a backup has forgotten the purges made since; the journals have not. Each
tombstone it lacks gets its row, and what it tells of goes: segments, fragment tables, sightings
with their pictures, and the claim. One transaction a batch, under the locks of its cameras, so that
it may be ended and begun again at any moment: what is known is passed over.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.retention.executor import purge_sightings
from shared.clock import Clock
from shared.db import Database, tables
from shared.tombstones import Journal, Tombstone, row_of

CHUNK = 500
BATCH = 20
"""Tombstones in memory at a time; each tells of up to 500 segments."""


class Replayed(NamedTuple):
    """What the journals told that the database did not know."""

    tombstones: int = 0
    segments: int = 0
    """Rows that went; footage younger than the backup never had one."""
    sightings: int = 0


async def replay(database: Database, journals: Iterable[Journal], clock: Clock) -> Replayed:
    """Take every tombstone in. May be done again, and beside services that run."""
    done = Replayed()
    for journal in journals:
        lines = journal.read()
        while batch := await asyncio.to_thread(_some, lines):
            made = await _take(database, batch, clock)
            done = Replayed(*(a + b for a, b in zip(done, made, strict=True)))
    return done


def adopt(journal: Journal, others: Iterable[Journal]) -> int:
    """Write into a journal what only others have, so that the next restore knows it even when they
    are lost; how many. Blocks."""
    known = {stone.id for stone in journal.read()}
    count = 0
    for other in others:
        if other.folder.resolve() == journal.folder.resolve():
            continue
        lines = other.read()
        while batch := _some(lines):
            fresh = {stone.id: stone for stone in batch if stone.id not in known}
            if fresh:
                journal.append(*fresh.values())
                known |= fresh.keys()
                count += len(fresh)
    return count


def _some(lines: Iterator[Tombstone]) -> list[Tombstone]:
    return list(itertools.islice(lines, BATCH))


async def _take(database: Database, batch: list[Tombstone], clock: Clock) -> Replayed:
    by_id = {stone.id: stone for stone in batch}
    async with database.read() as connection:
        # Most of a journal is older than the backup, and needs no lock.
        if not await _unknown(connection, by_id):
            return Replayed()
    async with database.write({stone.camera_id for stone in batch}) as connection:
        new = await _unknown(connection, by_id)
        segments = sightings = 0
        for stone in new:
            await connection.execute(sa.insert(tables.tombstone).values(row_of(stone)))
            segments += await _remove_rows(connection, stone)
            sightings += await purge_sightings(
                connection, stone.camera_id, clock.now_us(), span=_span(stone)
            )
    return Replayed(len(new), segments, sightings)


async def _unknown(connection: AsyncConnection, by_id: dict[str, Tombstone]) -> list[Tombstone]:
    table = tables.tombstone
    query = sa.select(table.c.id).where(table.c.id.in_(by_id))
    known = set((await connection.execute(query)).scalars())
    return [stone for key, stone in by_id.items() if key not in known]


async def _remove_rows(connection: AsyncConnection, stone: Tombstone) -> int:
    segment, fragments, claim = tables.segment, tables.segment_fragments, tables.purge_claim
    ids = [purged.id for purged in stone.segments]
    removed = 0
    for first in range(0, len(ids), CHUNK):
        chunk = ids[first : first + CHUNK]
        await connection.execute(sa.delete(fragments).where(fragments.c.segment_id.in_(chunk)))
        gone = await connection.execute(sa.delete(segment).where(segment.c.id.in_(chunk)))
        removed += gone.rowcount
    await connection.execute(sa.delete(claim).where(claim.c.id == stone.id))
    return removed


def _span(stone: Tombstone) -> tuple[int, int]:
    return (
        min(segment.start_us for segment in stone.segments),
        max(segment.end_us for segment in stone.segments),
    )
