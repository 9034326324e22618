"""Append-only audit records (docs/access-audit-evidence.md, "Audit").

A record is written in the caller's transaction, which the caller commits before the act it names:
no audit, no video. Never footage, boxes or names of subjects. The Merkle log over these rows comes
with the evidence issue; `audit.leaf` is its place.
"""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared import metrics
from shared.db import tables


class Actor(msgspec.Struct, frozen=True):
    """Who acts: a person, a key's person, or the machine's own operator."""

    id: str
    name: str


LOCAL = Actor("local", "operator of this machine")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One audit record before it has a number."""

    at_us: int
    actor: Actor
    action: str
    """Noun and verb, such as `playback.open`."""
    resource: str = ""
    camera_ids: tuple[str, ...] = ()
    start_us: int | None = None
    end_us: int | None = None
    purpose: str = ""
    case_ref: str = ""
    reason: str = ""
    result: str = "ok"
    request_id: str = ""
    detail: dict[str, Any] | None = None


async def append(connection: AsyncConnection, entry: Entry) -> int:
    """Write the record; its number. It exists once the caller's transaction commits."""
    result = await connection.execute(
        sa.insert(tables.audit).values(
            at_us=entry.at_us,
            actor_id=entry.actor.id,
            actor_name=entry.actor.name,
            action=entry.action,
            resource=entry.resource,
            camera_ids=list(entry.camera_ids),
            start_us=entry.start_us,
            end_us=entry.end_us,
            purpose=entry.purpose,
            case_ref=entry.case_ref,
            reason=entry.reason,
            result=entry.result,
            request_id=entry.request_id,
            detail=entry.detail,
        )
    )
    assert result.inserted_primary_key is not None
    metrics.AUDIT_RECORDS.inc()
    return int(result.inserted_primary_key[0])
