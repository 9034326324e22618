"""Who watched without a record (invariant 8), what may not be there (11, 4), leftovers (2)."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from services.check import queries
from services.check.context import LATE_US, Context
from shared import civil, retention
from shared.db import tables
from shared.retention import Facts, Protection

FORBIDDEN = frozenset(
    {
        *("face", "faces", "facial", "plate", "plates", "embedding", "embeddings", "gait", "reid"),
        *("biometric", "biometrics", "fingerprint", "iris", "descriptor", "voice", "audio"),
        *("identity", "identities"),
    }
)
"""Words that no table or column may be named with."""
UNFINISHED = ".unfinished"
LONGEST_US = 3_600 * 1_000_000
"""No segment is longer, so a set-aside video is due by then at the latest."""


async def sessions(context: Context) -> None:
    """Every session that delivers media follows its audit record."""
    fix = "Report it as an incident: video may have left without a record."
    media = tables.media_session
    async for row in queries.pages(context.platform.database, queries.media_sessions(), media.c.id):
        problems = (
            ("has no audit record", row["audit_at_us"] is None),
            (
                "was opened before its audit record",
                (row["audit_at_us"] or 0) > row["created_at_us"],
            ),
            ("has a record that names nobody", row["actor_id"] == ""),
            ("has a record without a purpose", row["audit_purpose"] == ""),
            (
                "has a record without case or reason",
                row["audit_case_ref"] == "" and row["audit_reason"] == "",
            ),
            (
                "has a record of another camera",
                row["audit_camera_ids"] is not None
                and row["camera_id"] not in row["audit_camera_ids"],
            ),
        )
        for text, wrong in problems:
            if wrong:
                at = civil.rfc3339(row["created_at_us"])
                context.notes.add(
                    8, f"The {row['kind']} session of {at} {text}.", fix, camera=row["camera_id"]
                )
                break


async def schema(context: Context) -> None:
    """The database has no place for what may not exist."""
    async with context.platform.database.read() as connection:
        found = await queries.schema(connection)
    fix = "Drop it, and find out what wrote it: this is a rule, not a setting."
    for table, columns in sorted(found.items()):
        if _words(table) & FORBIDDEN:
            context.notes.add(11, f"There is a table {table}.", fix)
        for column in columns:
            if _words(column) & FORBIDDEN:
                context.notes.add(11, f"Table {table} has a column {column}.", fix)


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z]+", name.lower()))


async def sightings(context: Context) -> None:
    """Derivatives expire with their footage."""
    async with context.platform.database.read() as connection:
        due = await queries.sightings_due(connection, context.now_us - LATE_US)
    for row in due:
        facts = Facts(row["camera_id"], row["start_us"], row["end_us"], row["expires_at_us"], 0)
        holds = context.holds_of(facts)
        if retention.protection(facts, holds, context.now_us)[0] is not Protection.NONE:
            continue
        if retention.due_since_us(facts, holds) <= context.now_us - LATE_US:
            context.notes.add(
                4, f"Sighting {row['id']} is there over 24 h after its footage expired.",
                "See why retention does not purge: lamppost doctor.", camera=row["camera_id"],
            )  # fmt: skip


async def leftovers(context: Context) -> None:
    """Unfinished files of the store and the spool, older than 24 h (edge case 17)."""
    blobs = context.settings.path(context.settings.stores.blobs_dir) / UNFINISHED
    old = await asyncio.to_thread(_old, context, [blobs])
    for path in old:
        context.notes.add(
            2, f"An unfinished upload of over 24 h ago lies in the store: {path.name}.",
            "Start retention: it sweeps them.",
        )  # fmt: skip
    folders = await asyncio.to_thread(
        lambda: [recorder / "tmp" for recorder in _folders(context.spool)]
    )
    for path in await asyncio.to_thread(_old, context, folders):
        context.notes.add(
            2, f"A recording begun over 24 h ago was never filed: {path.name}.",
            "Start its recorder: it repairs and files what it finds.",
        )  # fmt: skip


async def set_aside(context: Context) -> None:
    """Damaged or refused videos in the spool are footage too, and expire."""
    folders = await asyncio.to_thread(
        lambda: [recorder / "bad" for recorder in _folders(context.spool)]
    )
    for path in await asyncio.to_thread(_old, context, folders):
        if path.suffix != ".mp4":
            continue
        start_us, camera_id = int(path.name[:20]), path.stem[21:-37]
        expires = retention.expires_at_us(start_us + LONGEST_US, context.newest)
        facts = Facts(camera_id, start_us, start_us + LONGEST_US, expires, 0)
        holds = context.holds_of(facts)
        if retention.protection(facts, holds, context.now_us)[0] is not Protection.NONE:
            continue
        if retention.due_since_us(facts, holds) <= context.now_us - LATE_US:
            context.notes.add(
                4, f"The set-aside video {path.name} is there over 24 h after its expiry.",
                "Start the archive: it removes them at their expiry.", camera=camera_id,
            )  # fmt: skip


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _old(context: Context, folders: list[Path]) -> list[Path]:
    """Files whose name begins with a time over 24 h ago."""
    found: list[Path] = []
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            begun = path.name.partition("-")[0]
            if path.suffix not in ("", ".mp4") or not (begun.isascii() and begun.isdecimal()):
                continue
            if int(begun) < context.now_us - LATE_US:
                found.append(path)
    return found
