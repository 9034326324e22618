"""Reads the policy in force: one reader, so that all services apply the same."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import tables
from shared.retention import Policy

_policy = tables.policy


async def newest(connection: AsyncConnection) -> Policy | None:
    """The policy in force; None before retention wrote its first."""
    query = sa.select(_policy).order_by(_policy.c.version.desc()).limit(1)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        return None
    return Policy(
        row["version"],
        row["retention_days"],
        row["basis"],
        row["timezone"],
        row["effective_from_us"],
    )


async def zones(connection: AsyncConnection) -> set[str]:
    """Every time zone that a policy ever had."""
    return set(await connection.scalars(sa.select(_policy.c.timezone).distinct()))
