"""Table `process`: the processes that have this database, each by its own last word.

One row a process, written by it and dropped by it at its end, or by any other once it has been
silent for long (shared/presence.py).
"""

from __future__ import annotations

import sqlalchemy as sa

from shared.db.columns import string
from shared.db.tables import metadata

process = sa.Table(
    "process",
    metadata,
    sa.Column("service", string(40), primary_key=True),  # with its role: archive-index; or all
    sa.Column("name", string(100), primary_key=True),  # LAMPPOST_INSTANCE
    sa.Column("version", string(100), nullable=False),
    sa.Column("started_at_us", sa.BigInteger, nullable=False),
    sa.Column("seen_at_us", sa.BigInteger, nullable=False),  # both by the database's clock
)
