"""Tables of the webhooks: subscriptions, and what waits for them or was set aside.

Their writer is the api: its routes and its relay (docs/guide/integrator.md). A delivery holds the
event's text and goes with the footage that it tells of.
"""

from __future__ import annotations

import sqlalchemy as sa

from shared.db.columns import string


def webhook_table(metadata: sa.MetaData) -> sa.Table:
    """A subscription. `secret` is sealed with the installation's key; the lease says which relay
    sends for it now."""
    return sa.Table(
        "webhook",
        metadata,
        sa.Column("id", string(64), primary_key=True),
        sa.Column("name", string(100), nullable=False, server_default=""),
        sa.Column("url", string(1000), nullable=False),
        sa.Column("secret", sa.LargeBinary, nullable=False),
        sa.Column("events", sa.JSON, nullable=False),
        sa.Column("camera_ids", sa.JSON, nullable=True),  # null: all
        sa.Column("classes", sa.JSON, nullable=True),  # null: all
        sa.Column("purpose", string(40), nullable=False),
        sa.Column("case_ref", string(100), nullable=False, server_default=""),
        sa.Column("reason", string(1000), nullable=False, server_default=""),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
        sa.Column("created_by", string(64), nullable=False),
        sa.Column("disabled_at_us", sa.BigInteger, nullable=True),
        sa.Column("last_success_us", sa.BigInteger, nullable=True),
        sa.Column("last_failure_us", sa.BigInteger, nullable=True),
        sa.Column("last_error", string(300), nullable=False, server_default=""),
        sa.Column("lease_by", string(100), nullable=False, server_default=""),
        sa.Column("lease_until_us", sa.BigInteger, nullable=False, server_default="0"),
    )


def delivery_table(metadata: sa.MetaData) -> sa.Table:
    """One event for one subscription: `waiting` until it is taken, `dead` once set aside."""
    return sa.Table(
        "webhook_delivery",
        metadata,
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("webhook_id", string(64), nullable=False),
        sa.Column("event_id", string(100), nullable=False),
        sa.Column("event_type", string(64), nullable=False),
        sa.Column("camera_id", string(63), nullable=False),
        sa.Column("end_us", sa.BigInteger, nullable=False),
        sa.Column("expires_at_us", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("state", string(8), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_at_us", sa.BigInteger, nullable=False),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
        sa.Column("last_error", string(300), nullable=False, server_default=""),
        sa.UniqueConstraint("webhook_id", "event_id"),
        sa.Index("ix_webhook_delivery_queue", "webhook_id", "state", "id"),
        sa.Index("ix_webhook_delivery_expires", "expires_at_us"),
    )
