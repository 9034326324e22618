"""Attempts to sign in, which replicas of the api count together."""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_26_sign_ins"
down_revision = "2026_11_26_restored"


def upgrade() -> None:
    key = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
    op.create_table(
        "sign_in_attempt",
        sa.Column("key", key, nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("times", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_sign_in_attempt")),
    )
    op.create_index("ix_sign_in_attempt_at", "sign_in_attempt", ["at_us"])
