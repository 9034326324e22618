"""On PostgreSQL the first index of searches goes: the one before this revision is whole by now."""

from alembic import op

revision = "2026_11_27_search_replaced"
down_revision = "2026_11_27_search_dense"


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP INDEX IF EXISTS ix_sighting_search")
