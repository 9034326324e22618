"""What readability is judged by, asked in one statement, since every search asks for it."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.filing import ANY_ZONE, Filing
from services.api.newest import Newest
from services.api.newest import query as newest_query
from shared.db import tables
from shared.retention import Policy

_policy = tables.policy.c


class Moment(NamedTuple):
    """The newest policy (None: none yet), whether there is any hold, when the newest segment was
    committed, under which dates rows stand, and the database's time (None: it was not asked)."""

    policy: Policy | None
    held: bool
    newest_commit_us: int | None
    filing: Filing
    database_us: int | None


@cache
def _query(dialect: str, clock: str | None, *, newest: bool) -> sa.Select[Any]:
    found: list[Any] = [_policy[name] for name in Policy._fields]
    found.append(sa.exists(sa.select(tables.hold.c.id)))
    found.append(newest_query(dialect).scalar_subquery() if newest else sa.null())
    if dialect == "postgresql":
        zones = sa.select(sa.func.string_agg(_policy.timezone.distinct(), ","))
        first = sa.select(sa.func.min(_policy.effective_from_us))
        found += [zones.scalar_subquery(), first.scalar_subquery()]
        found.append(sa.literal_column(clock, sa.BigInteger) if clock else sa.null())
    one_row = sa.select(sa.literal(1).label("one")).subquery()
    return (
        sa.select(*found)
        .select_from(one_row.join(tables.policy, sa.true(), isouter=True))
        .order_by(_policy.version.desc())
        .limit(1)
    )


async def moment(
    connection: AsyncConnection, newest: Newest, clock_sql: str | None = None
) -> Moment:
    """As of now; `clock_sql` is the database's (shared/db)."""
    dialect = connection.dialect.name
    fresh = newest.fresh(dialect)
    values = {} if fresh else newest.values(dialect)
    row = (await connection.execute(_query(dialect, clock_sql, newest=not fresh), values)).one()
    width = len(Policy._fields)
    policy = None if row[0] is None else Policy(*row[:width])
    held, found_us, *more = row[width:]
    newest_us = newest.known_us if fresh else newest.told(values, found_us)
    filing, database_us = ANY_ZONE, None
    if more:
        zones, since_us, database_us = more
        filing = Filing(tuple(sorted(zones.split(","))), int(since_us)) if zones else ANY_ZONE
    return Moment(policy, bool(held), newest_us, filing, database_us)
