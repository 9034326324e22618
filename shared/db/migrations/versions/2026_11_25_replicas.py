"""Leases, and what waits in the spools of recorders: for services that run by replicas."""

import sqlalchemy as sa
from alembic import op

from shared.db import coordination

revision = "2026_11_25_replicas"
down_revision = "2026_11_25_first"

assert coordination.lease.name == "lease"  # the schema as the code knows it includes these tables


def _text(size: int) -> sa.types.TypeEngine[str]:
    return sa.String(size).with_variant(sa.String(size, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "lease",
        sa.Column("name", _text(100), nullable=False),
        sa.Column("holder", _text(200), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )
    op.create_table(
        "spool_waiting",
        sa.Column("camera_id", _text(63), nullable=False),
        sa.Column("recorder", _text(100), nullable=False),
        sa.Column("start_us", sa.BigInteger(), nullable=False),
        sa.Column("end_us", sa.BigInteger(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("camera_id", "recorder", "start_us", name=op.f("pk_spool_waiting")),
    )
    op.create_index("ix_spool_waiting_recorder", "spool_waiting", ["recorder"])
