"""Tables by which replicas of the services know of each other.

`lease`: who does a work that one process at a time may do; written by whoever wants it
(shared/lease.py). `spool_waiting`: what each recorder's spool still held at its last word, so that
the ledger can say where seconds are that nobody has filed yet; written by the archive
(services/archive/waiting.py), which drops a row once its footage would be past its expiry.
`sign_in_attempt`: recent attempts to sign in, by hashes of name and address; written by the api
(services/api/limits.py), dropped after minutes.
`consumed`: the last batch of each partition that is in rows, by hashes of its messages; written by
the archive with the rows (services/archive/consumed.py), one row for each partition of a group.
"""

from __future__ import annotations

import sqlalchemy as sa

from shared.db.columns import string
from shared.db.tables import metadata


def _name(column: str, size: int) -> sa.Column[str]:
    return sa.Column(column, string(size), primary_key=True)


lease = sa.Table(
    "lease",
    metadata,
    _name("name", 100),
    sa.Column("holder", string(200), nullable=False),
    sa.Column("until_us", sa.BigInteger, nullable=False),  # by the database's clock
)

spool_waiting = sa.Table(
    "spool_waiting",
    metadata,
    _name("camera_id", 63),
    _name("recorder", 100),
    sa.Column("start_us", sa.BigInteger, primary_key=True),
    sa.Column("end_us", sa.BigInteger, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),  # when the recorder said so
    sa.Index("ix_spool_waiting_recorder", "recorder"),
)

sign_in_attempt = sa.Table(
    "sign_in_attempt",
    metadata,
    _name("key", 64),
    sa.Column("at_us", sa.BigInteger, nullable=False),  # the newest
    sa.Column("times", sa.JSON, nullable=False),
    sa.Index("ix_sign_in_attempt_at", "at_us"),
)

consumed = sa.Table(
    "consumed",
    metadata,
    _name("consumer_group", 100),
    _name("topic", 100),
    sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("next_offset", sa.BigInteger, nullable=False),
    sa.Column("digests", sa.LargeBinary, nullable=False),
)
