"""The part of the first schema that holds webhooks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def create() -> None:
    """Subscriptions, and the events that wait for them."""

    def text(name: str, size: int, default: str | None = None) -> sa.Column[str]:
        kind = sa.String(size).with_variant(sa.String(size, collation="C"), "postgresql")
        return sa.Column(name, kind, server_default=default, nullable=False)

    def us(name: str, nullable: bool = False) -> sa.Column[int]:
        return sa.Column(name, sa.BigInteger(), nullable=nullable)

    op.create_table(
        "webhook",
        text("id", 64),
        text("name", 100, ""),
        text("url", 1000),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("camera_ids", sa.JSON(), nullable=True),
        sa.Column("classes", sa.JSON(), nullable=True),
        text("purpose", 40),
        text("case_ref", 100, ""),
        text("reason", 1000, ""),
        us("created_at_us"),
        text("created_by", 64),
        us("disabled_at_us", nullable=True),
        us("last_success_us", nullable=True),
        us("last_failure_us", nullable=True),
        text("last_error", 300, ""),
        text("lease_by", 100, ""),
        sa.Column("lease_until_us", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook")),
    )
    op.create_table(
        "webhook_delivery",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        text("webhook_id", 64),
        text("event_id", 100),
        text("event_type", 64),
        text("camera_id", 63),
        us("end_us"),
        us("expires_at_us"),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        text("state", 8),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        us("next_at_us"),
        us("created_at_us"),
        text("last_error", 300, ""),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_delivery")),
        sa.UniqueConstraint(
            "webhook_id", "event_id", name=op.f("uq_webhook_delivery_webhook_id_event_id")
        ),
    )
    op.create_index("ix_webhook_delivery_queue", "webhook_delivery", ["webhook_id", "state", "id"])
    op.create_index("ix_webhook_delivery_expires", "webhook_delivery", ["expires_at_us"])
