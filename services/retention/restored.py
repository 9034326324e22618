"""Whether the database is older than the last purge of this worker: it was restored from a backup,
and nobody has told it of what was purged since (edge case 23 of docs/retention.md).

A purge stands in the journal before its row is committed, and its claim is open until then. So a
newest line without row and claim has one cause. Holds may be lost too: all deletion stops, of every
worker, until the tombstones are replayed and a person clears the breaker.
"""

from __future__ import annotations

import asyncio

from services.retention import queries_claims
from shared import civil
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.tombstones import Journal


async def forgotten(platform: Platform, journal: Journal) -> str:
    """What the database has forgotten, and what to do; empty: nothing that this journal tells of.
    Reads the end of the journal and asks the database for one row."""
    try:
        newest = await asyncio.to_thread(journal.newest)
    except OSError as error:
        raise LamppostError(
            Kind.UNAVAILABLE,
            f"The journal of tombstones cannot be read: {error.strerror}.",
            fix="Look at the disk of the state folder; the purge goes on by itself.",
        ) from error
    if newest is None:
        return ""
    async with platform.database.read() as connection:
        if await queries_claims.is_known(connection, newest.id):
            return ""
    return (
        f"The database has forgotten a purge of {civil.rfc3339(newest.written_at_us)}, so it was "
        "restored from an older backup. Stop every service and replay the tombstones: `lamppost "
        "restore`, with the journal of each retention worker. Place again the holds that were "
        "placed since the backup, then clear the breaker."
    )
