"""What was made from footage: boxes objects beside recordings, thumbnails of sightings.

Boxes are bytes that a row names (invariant 1), that a hold keeps (3), and that go with their
recording (2, 4); a thumbnail lives and dies with its sighting (4).
"""

from __future__ import annotations

import hashlib

from sqlalchemy import RowMapping

from services.check import queries
from services.check.context import LATE_US, Context
from shared import boxes, ids, retention
from shared.blobs import BlobInfo
from shared.db.rows import facts_of
from shared.errors import Kind, LamppostError
from shared.retention import Protection

_AGAIN = "Set the boxes columns of its row to null: the archive takes in what is there."


async def beside(context: Context, row: RowMapping, found: BlobInfo | None) -> None:
    """The boxes object of a row, as the walk met it; every lack is looked at again first."""
    if found is None and row["boxes_sha256"] is None:
        return
    if found is not None and row["boxes_sha256"] is not None:
        await _pair(context, row, found)
        return
    now = await queries.segment(context.platform.database, row["id"])
    if now is None or now["state"] == "purging" or now["analysed_us"] is None:
        return  # on its way in or out
    there = await context.platform.blobs.stat(ids.boxes_key(row["key"]))
    if there is None and now["boxes_sha256"] is not None:
        context.notes.add(
            1, "The row names a boxes object that is not in the store.", _AGAIN, **_where(row)
        )
    elif there is not None and now["boxes_sha256"] is None:
        if there.stored_at_us <= context.now_us - LATE_US:
            context.notes.add(
                2, "There is a boxes object that its row does not name.", _AGAIN, **_where(row)
            )
    elif there is not None:
        await _pair(context, now, there)


async def is_tagged_held(context: Context, found: BlobInfo) -> bool:
    """Looked at again where it seems not to be: a listing may come without tags."""
    if found.tags.get("lamppost") == "held":
        return True
    now = await context.platform.blobs.stat(found.key)
    return now is not None and now.tags.get("lamppost") == "held"


async def _pair(context: Context, row: RowMapping, found: BlobInfo) -> None:
    facts = facts_of(row)
    kept, _ = retention.protection(facts, context.holds_of(facts), context.now_us)
    if kept is Protection.HELD and not await is_tagged_held(context, found):
        context.notes.add(
            3, "A hold covers it, but its boxes are not tagged held.",
            "Renew the hold: that tags what it covers.", **_where(row),
        )  # fmt: skip
    if context.depth == "presence":
        return
    if found.size_bytes != row["boxes_size_bytes"]:
        context.notes.add(
            1, f"Its boxes object has {found.size_bytes} bytes, the row says "
            f"{row['boxes_size_bytes']}.", _AGAIN, **_where(row),
        )  # fmt: skip
    elif found.sha256 and found.sha256 != row["boxes_sha256"]:
        context.notes.add(
            1, "Its boxes object was stored with another SHA-256 than the row's.",
            _AGAIN, **_where(row),
        )  # fmt: skip


async def read(context: Context, row: RowMapping) -> None:
    """Every byte of a row's boxes, and whether the row's sums follow from them."""
    if row["boxes_sha256"] is None:
        return
    data = b""
    try:
        data = await context.platform.blobs.read(ids.boxes_key(row["key"]))
    except LamppostError as error:
        if error.kind is Kind.NOT_FOUND:
            return  # told by `beside`, or purged since
        if error.kind is not Kind.CORRUPT:
            raise
    if hashlib.sha256(data).hexdigest() != row["boxes_sha256"]:
        context.notes.add(
            1, "Its boxes object's bytes no longer have the row's SHA-256.", _AGAIN, **_where(row)
        )
        return
    try:
        sums = boxes.seen(boxes.decode(data))
    except LamppostError as error:
        context.notes.add(1, f"Its boxes cannot be read: {error}", _AGAIN, **_where(row))
        return
    if sums != tuple(row[name] for name in boxes.Seen._fields):
        context.notes.add(
            1, "Its row's seconds analysed, gated and dropped are not those of its boxes.",
            _AGAIN, **_where(row),
        )  # fmt: skip


async def thumbnails(context: Context) -> None:
    """Every picture belongs to a sighting."""
    async with context.platform.database.read() as connection:
        lonely = await queries.lonely_thumbnails(connection)
    for sighting_id in lonely:
        context.notes.add(
            4, f"There is a thumbnail of sighting {sighting_id}, which is gone.",
            "Delete its row in the table thumbnail; then find out how it came about.",
        )  # fmt: skip


def _where(row: RowMapping) -> dict[str, str]:
    return {
        "camera": row["camera_id"],
        "segment": row["id"],
        "key": ids.boxes_key(row["key"]),
    }
