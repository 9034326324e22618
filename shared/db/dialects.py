"""What SQL needs of one engine alone: inserts that meet an existing row, and arrays.

SQLAlchemy's part for PostgreSQL takes two megabytes of a process. A service on one machine has
SQLite and no use for it (docs/measured.md, "Recording"), so each is loaded when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlalchemy as sa
    from sqlalchemy.dialects import postgresql, sqlite


SERVER_CLOCK = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""PostgreSQL's own time now, in microseconds since 1970."""


def insert(dialect: str, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An insert that knows `on_conflict_do_update`; of the `dialect` that a connection names."""
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)


def array(kind: Any) -> postgresql.ARRAY[Any]:
    """PostgreSQL's array of this type."""
    from sqlalchemy.dialects import postgresql

    return postgresql.ARRAY(kind)
