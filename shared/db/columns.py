"""Columns that many tables share (shared/db/tables.py)."""

from __future__ import annotations

from datetime import date

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def string(size: int) -> sa.types.TypeEngine[str]:
    """Text in the order of its bytes, as SQLite and Python have it: cursors count on it."""
    return sa.String(size).with_variant(sa.String(size, collation="C"), "postgresql")


def key() -> sa.Column[str]:
    return sa.Column("id", string(64), primary_key=True)


def day() -> sa.Column[date]:
    """The recording date of a row that goes with its day; part of the key."""
    return sa.Column("recording_date", sa.Date, primary_key=True)


BY_DAY = {"postgresql": "partition by range (recording_date)"}
"""What the migrations do there and SQLite does not know. SQLAlchemy's own `postgresql_` options
would load all of its PostgreSQL into every process that has a table."""


def us(name: str, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def text(name: str, size: int = 200, default: str | None = "") -> sa.Column[str]:
    return sa.Column(name, string(size), nullable=False, server_default=default)
