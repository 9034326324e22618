"""What of the bus is in rows: written with the rows, so that a batch that comes again is known."""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_26_consumed"
down_revision = "2026_11_26_sign_ins"


def _text(size: int) -> sa.types.TypeEngine[str]:
    return sa.String(size).with_variant(sa.String(size, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "consumed",
        sa.Column("consumer_group", _text(100), nullable=False),
        sa.Column("topic", _text(100), nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.Column("digests", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("consumer_group", "topic", "part", name=op.f("pk_consumed")),
    )
