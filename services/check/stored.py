"""Rows and bytes side by side (invariants 1 to 5 and 10): one merge of two sorted streams.

Rows come in order of key from the database, objects in order of key from the store, so each meets
its other or lacks it, and nothing but one page of each is in memory. A lack is looked at again
before it is told, because a segment may be filed or purged while the check runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from typing import Any

from sqlalchemy import RowMapping

from services.check import derivatives, queries
from services.check.context import LATE_US, Context
from shared import civil, ids, retention, tombstones
from shared.blobs import BlobInfo
from shared.db import tables
from shared.db.rows import facts_of
from shared.errors import Kind, LamppostError
from shared.retention import Protection
from shared.spool import item_name

HASHES_AT_A_TIME = 4
RECEIPT_US = 60_000_000
"""Filing takes no longer from its look at the clock to its commit."""
_RESTORE = "Restore the object from a copy if there is one; else report the loss as an incident."


async def rows_and_bytes(context: Context) -> None:
    """Walk both; look at each pair, each lonely row and each lonely object."""
    rows = queries.pages(context.platform.database, queries.segments(), tables.segment.c.key)
    objects = context.platform.blobs.list()
    row = await _next(rows)
    found = await _next(objects)
    hashing: set[asyncio.Task[None]] = set()
    boxes: BlobInfo | None = None
    while row is not None or found is not None:
        key = _segment_key(found.key) if found is not None else None
        if row is not None and (key is None or row["key"] < key):
            await _row_without_bytes(context, row)
            await _row(context, row)
            await derivatives.beside(context, row, _of(row, boxes))
            row = await _next(rows)
        elif found is not None and (row is None or row["key"] > key):
            _count(context, found)
            await _bytes_without_row(context, found)
            found = await _next(objects)
        elif found is not None and row is not None:
            _count(context, found)
            if found.key == row["key"]:
                await _row(context, row)
                await _pair(context, row, found)
                await derivatives.beside(context, row, _of(row, boxes))
                if context.depth == "hash":
                    await _room(hashing)
                    hashing.add(asyncio.create_task(_hash(context, row)))
                row = await _next(rows)
            else:
                boxes = found
            found = await _next(objects)
    await asyncio.gather(*hashing)


async def _next(stream: AsyncIterator[Any]) -> Any:
    return await anext(stream, None)


async def _room(tasks: set[asyncio.Task[None]]) -> None:
    while len(tasks) >= HASHES_AT_A_TIME:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            tasks.discard(task)
            task.result()


def _segment_key(key: str) -> str:
    """Boxes belong to the segment beside them, and sort just before it."""
    return key.removesuffix(".boxes") + ".mp4" if key.endswith(".boxes") else key


def _of(row: RowMapping, boxes: BlobInfo | None) -> BlobInfo | None:
    """The boxes object met last, if it is this row's: they sort just before the recording."""
    return boxes if boxes is not None and _segment_key(boxes.key) == row["key"] else None


def _count(context: Context, found: BlobInfo) -> None:
    context.notes.objects += 1
    context.notes.size_bytes += found.size_bytes


# One row


async def _row(context: Context, row: RowMapping) -> None:
    """What a row says by itself."""
    context.notes.segments += 1
    where = {"camera": row["camera_id"], "segment": row["id"], "key": row["key"]}
    note = context.notes.add
    if not row["has_fragments"]:
        note(1, "The row has no fragment table.", "File it again from a copy.", **where)
    key = ids.object_key(row["recording_date"], row["camera_id"], row["start_us"], row["id"])
    if key != row["key"]:
        note(1, f"The row names the key of another segment; its own is {key}.", _RESTORE, **where)
    if row["end_us"] > row["committed_at_us"]:
        note(
            10,
            f"It ends at {civil.rfc3339(row['end_us'])}, after it was received and filed.",
            "Find which clock ran ahead: the camera's or this machine's.",
            **where,
        )
    _expiry(context, row, where)
    await _overdue(context, row, where)


def _expiry(context: Context, row: RowMapping, where: dict[str, str]) -> None:
    """The stored expiry is the rule's, neither later nor earlier."""
    end_us = min(row["end_us"], row["committed_at_us"])
    # What claims to be of later than its commit counts from its receipt, a moment before that.
    moment_us = RECEIPT_US if row["end_us"] > row["committed_at_us"] else 0
    ruled = retention.expires_at_us(end_us, context.policy(row["policy_version"]))
    stored = row["expires_at_us"]
    told = f"Its expiry is stored as {civil.rfc3339(stored)}; the rule says {civil.rfc3339(ruled)}."
    if stored > ruled:
        context.notes.add(4, told, "Correct the row: it would be kept too long.", **where)
    elif stored < ruled - moment_us:
        context.notes.add(5, told, "Correct the row: it would be deleted too early.", **where)


async def _overdue(context: Context, row: RowMapping, where: dict[str, str]) -> None:
    facts = facts_of(row)
    if row["expires_at_us"] > context.now_us - LATE_US:
        return
    holds = context.holds_of(facts)
    if retention.protection(facts, holds, context.now_us)[0] is not Protection.NONE:
        return
    if retention.due_since_us(facts, holds) > context.now_us - LATE_US:
        return
    if await queries.segment(context.platform.database, row["id"]) is not None:
        context.notes.add(
            4,
            f"It expired at {civil.rfc3339(row['expires_at_us'])}, nothing holds it, and it is "
            "still there over 24 h later.",
            "See why retention does not purge: lamppost doctor.",
            **where,
        )


# A row and its object


async def _pair(context: Context, row: RowMapping, found: BlobInfo) -> None:
    where = {"camera": row["camera_id"], "segment": row["id"], "key": row["key"]}
    facts = facts_of(row)
    kept, _ = retention.protection(facts, context.holds_of(facts), context.now_us)
    if kept is Protection.HELD and not await derivatives.is_tagged_held(context, found):
        context.notes.add(
            3,
            "A hold covers it, but the object is not tagged held: the store's own lifecycle "
            "would delete it.",
            "Renew the hold: that tags what it covers.",
            **where,
        )
    if context.depth == "presence":
        return
    if found.size_bytes != row["size_bytes"]:
        context.notes.add(
            1, f"The object has {found.size_bytes} bytes, the row says {row['size_bytes']}.",
            _RESTORE, **where,
        )  # fmt: skip
    elif found.sha256 and found.sha256 != row["sha256"]:
        context.notes.add(
            1, "The object was stored with another SHA-256 than the row's.", _RESTORE, **where
        )


async def _hash(context: Context, row: RowMapping) -> None:
    await derivatives.read(context, row)
    where = {"camera": row["camera_id"], "segment": row["id"], "key": row["key"]}
    try:
        got = await context.platform.blobs.verify(row["key"])
    except LamppostError as error:
        if error.kind is not Kind.NOT_FOUND:
            raise
        await _row_without_bytes(context, row)
        return
    if got != row["sha256"]:
        context.notes.add(
            1, "The object's bytes no longer have the row's SHA-256.", _RESTORE, **where
        )


# What lacks its other


async def _row_without_bytes(context: Context, row: RowMapping) -> None:
    now = await queries.segment(context.platform.database, row["id"])
    if now is None or now["state"] == "purging":
        return  # on its way out: a missing object is fine
    if await context.platform.blobs.stat(row["key"]) is not None:
        return
    where = {"camera": row["camera_id"], "segment": row["id"], "key": row["key"]}
    facts = facts_of(row)
    kept, _ = retention.protection(facts, context.holds_of(facts), context.now_us)
    if kept is Protection.HELD:
        context.notes.add(3, "A hold covers it, and its bytes are gone.", _RESTORE, **where)
    context.notes.add(1, "The row has no bytes in the object store.", _RESTORE, **where)


async def _bytes_without_row(context: Context, found: BlobInfo) -> None:
    key = _segment_key(found.key)
    if await queries.key_exists(context.platform.database, key):
        return
    camera, start_us, segment_id, expires_us = _parts(context, key)
    where = {"camera": camera, "segment": segment_id, "key": found.key}
    if await _is_purged(context, key, camera, segment_id):
        context.notes.add(
            7, "A tombstone says that it was purged, but its bytes are there.",
            "Delete the object; then find out who brought it back.", **where,
        )  # fmt: skip
        return
    if found.stored_at_us > context.now_us - LATE_US:
        return
    if await asyncio.to_thread(_is_spooled, context, item_name(camera, start_us, segment_id)):
        return
    if expires_us < context.now_us - LATE_US:
        context.notes.add(
            4, "Bytes that no row names are past their expiry by over 24 h.",
            "Delete the object.", **where,
        )  # fmt: skip
    context.notes.add(
        2, "The bytes have had no row for over 24 h.",
        "File them again or delete them; no reader can see them.", **where,
    )  # fmt: skip


def _parts(context: Context, key: str) -> tuple[str, int, str, int]:
    """Camera, start, segment id and latest expiry that a key tells of."""
    _, day, camera, name = key.split("/")
    start, _, rest = name.partition("-")
    start_us = civil.parse_instant(
        f"{start[:8]}T{start[9:15]}.{start[15:21]}+00:00", context.newest.zone
    )
    end_us = civil.day_bounds_us(date.fromisoformat(day), context.newest.zone)[1]
    return (
        camera,
        start_us,
        rest.removesuffix(".mp4"),
        retention.expires_at_us(end_us, context.newest),
    )


async def _is_purged(context: Context, key: str, camera: str, segment_id: str) -> bool:
    day = date.fromisoformat(key.split("/")[1])
    async with context.platform.database.read() as connection:
        packed = await queries.tombstones_of(connection, camera, day, day)
    return any(
        purged.id == segment_id for data in packed for purged in tombstones.unpack_segments(data)
    )


def _is_spooled(context: Context, name: str) -> bool:
    """Whether its video still waits in a spool: then the archive adopts the bytes."""
    if not context.spool.is_dir():
        return False
    return any((recorder / "new" / f"{name}.mp4").exists() for recorder in context.spool.iterdir())
