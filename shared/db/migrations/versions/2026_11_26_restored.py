"""Of what kind an open breaker is: while it is `restored` nothing that was recorded is shown."""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_26_restored"
down_revision = "2026_11_25_replicas"


def upgrade() -> None:
    kind = sa.String(16).with_variant(sa.String(16, collation="C"), "postgresql")
    op.add_column("breaker", sa.Column("kind", kind, nullable=False, server_default=""))
