"""The processes that have this database, and which release each of them is."""

import sqlalchemy as sa
from alembic import op

from shared.db import processes

revision = "2026_11_26_process"
down_revision = "2026_11_26_consumed"

assert processes.process.name == "process"  # the schema as the code knows it includes this table


def _text(size: int) -> sa.types.TypeEngine[str]:
    return sa.String(size).with_variant(sa.String(size, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "process",
        sa.Column("service", _text(40), nullable=False),
        sa.Column("name", _text(100), nullable=False),
        sa.Column("version", _text(100), nullable=False),
        sa.Column("started_at_us", sa.BigInteger(), nullable=False),
        sa.Column("seen_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("service", "name", name=op.f("pk_process")),
    )
