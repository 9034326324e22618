"""The schema, as SQLAlchemy Core tables, the same on SQLite and PostgreSQL.

Text is ordered by its bytes on both. Tables that grow with the footage have the recording date in
their key: PostgreSQL keeps a partition of each for each date (shared/db/partitions.py).
Migrations build it (shared/db/migrations); a test compares the two. One writer each: camera, zone,
hold, user, api_key, session, setup_link, media_session, webhook* (api) · segment (archive inserts,
retention ends) · gap, sighting, thumbnail (archive) · tombstone, purge_claim, breaker, policy,
ledger_day, retention_run (retention) · audit (append-only, shared/audit.py) · outbox (its service).
"""

from __future__ import annotations

import sqlalchemy as sa

from shared.db.columns import BY_DAY
from shared.db.columns import day as _day
from shared.db.columns import key as _id
from shared.db.columns import metadata as metadata
from shared.db.columns import string as _string
from shared.db.columns import text as _text
from shared.db.columns import us as _us
from shared.db.indexes import of_segments, of_sightings
from shared.db.webhook_tables import delivery_table, webhook_table

camera = sa.Table(
    "camera",
    metadata,
    _id(),
    _text("name"),
    _text("district"),
    _text("site_kind", 32),
    sa.Column("config", sa.LargeBinary, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    _us("created_at_us"),
    _us("updated_at_us"),
    _us("deleted_at_us", nullable=True),
)

zone = sa.Table(
    "zone",
    metadata,
    _id(),
    sa.Column("camera_id", _string(63), nullable=False, index=True),
    _text("kind", 8, None),
    _text("name"),
    sa.Column("points", sa.JSON, nullable=False),
    sa.Column("directions", sa.JSON, nullable=True),
    sa.Column("version", sa.Integer, nullable=False),
    _us("created_at_us"),
    _us("updated_at_us"),
)

segment = sa.Table(
    "segment",
    metadata,
    _id(),
    sa.Column("camera_id", _string(63), nullable=False),
    _us("start_us"),
    _us("end_us"),
    _us("effective_start_us"),
    _us("effective_end_us"),
    _day(),
    _us("expires_at_us"),
    sa.Column("policy_version", sa.Integer, nullable=False),
    sa.Column("state", _string(10), nullable=False),  # live | purging
    sa.Column("claim_id", _string(64), nullable=True, index=True),
    _text("key", 200, None),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    _text("sha256", 64, None),
    _text("codec", 8, None),
    _text("codec_string", 32),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("timescale", sa.Integer, nullable=False),
    sa.Column("init_size", sa.Integer, nullable=False),
    _text("init_sha256", 64, None),
    _text("connection_id", 64, None),
    _text("recorder", 100),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    _text("clock_source", 32, None),
    sa.Column("clock_uncertainty_us", sa.BigInteger, nullable=False),
    sa.Column("clock_offset_us", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("repaired", sa.Boolean, nullable=False, server_default=sa.false()),
    _text("software", 64),
    _us("committed_at_us"),
    # The boxes object beside it, and what detection saw of it: null until that is written.
    sa.Column("boxes_sha256", _string(64), nullable=True),
    _us("boxes_size_bytes", nullable=True),
    sa.Column("boxes_partial", sa.Boolean, nullable=True),
    _us("analysed_us", nullable=True),
    _us("gated_us", nullable=True),
    _us("dropped_us", nullable=True),
    *of_segments(),
    sa.Index("ix_segment_expires", "expires_at_us", "camera_id"),
    sa.Index("ix_segment_date_camera", "recording_date", "camera_id"),
    sa.Index("ix_segment_committed", "committed_at_us"),
    sa.Index(
        "ix_segment_undecided",
        "end_us",
        sqlite_where=sa.text("analysed_us IS NULL"),
    ),
    sa.UniqueConstraint("key", "recording_date"),
    info=BY_DAY,
)

segment_fragments = sa.Table(
    "segment_fragments",
    metadata,
    sa.Column("segment_id", _string(64), primary_key=True),
    _day(),  # the segment's
    sa.Column("data", sa.LargeBinary, nullable=False),  # msgpack of tuple[Fragment, ...]
    info=BY_DAY,
)

gap = sa.Table(
    "gap",
    metadata,
    _id(),
    sa.Column("camera_id", _string(63), nullable=False),
    _us("start_us"),
    _us("end_us"),
    _day(),
    _text("reason", 32, None),
    _text("detail", 500),
    _text("recorder", 100),
    sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0"),
    _us("committed_at_us"),
    sa.Index("ix_gap_camera_end", "camera_id", "end_us"),
    info=BY_DAY,
)

sighting = sa.Table(
    "sighting",
    metadata,
    _id(),
    sa.Column("camera_id", _string(63), nullable=False),
    _us("start_us"),
    _us("end_us"),
    _day(),  # on which it begins, so that no update moves it (docs/decisions/0009)
    _us("expires_at_us"),
    _text("class_name", 32, None),
    sa.Column("confidence", sa.Float, nullable=False),
    sa.Column("min_x", sa.Float, nullable=False),  # bounds of the path
    sa.Column("min_y", sa.Float, nullable=False),
    sa.Column("max_x", sa.Float, nullable=False),
    sa.Column("max_y", sa.Float, nullable=False),
    _text("speed", 8, None),
    sa.Column("colour_upper", _string(8), nullable=True),
    sa.Column("colour_lower", _string(8), nullable=True),
    sa.Column("colour_vehicle", _string(8), nullable=True),
    sa.Column("ended", sa.Boolean, nullable=False),
    _us("zones_version"),
    sa.Column("data", sa.LargeBinary, nullable=False),  # shared/db/sighting_data.py
    sa.Column("sent_at_us", sa.BigInteger, nullable=False, server_default="0"),  # by its update
    _us("committed_at_us"),
    *of_sightings(),
    sa.Index(
        "ix_sighting_open",
        "end_us",
        sqlite_where=sa.text("ended = 0"),
    ),
    sa.Index("ix_sighting_expires", "expires_at_us"),
    info=BY_DAY,
)

thumbnail = sa.Table(
    "thumbnail",
    metadata,  # lives and dies with its sighting's row
    sa.Column("sighting_id", _string(64), primary_key=True),
    _day(),  # the sighting's
    _us("captured_us"),
    sa.Column("jpeg", sa.LargeBinary, nullable=False),
    info=BY_DAY,
)

policy = sa.Table(
    "policy",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("retention_days", sa.Integer, nullable=False),
    _text("basis", 16, None),
    _text("timezone", 64, None),
    _us("effective_from_us"),
)

hold = sa.Table(
    "hold",
    metadata,
    _id(),
    _text("kind", 16, None),
    _us("start_us"),
    _us("end_us"),
    _text("case_ref", 100, None),
    _text("reason", 32, None),
    _text("note", 1000),
    _text("requester_id", 64, None),
    sa.Column("officers", sa.JSON, nullable=False),
    _text("request_sha256", 64),
    _us("placed_at_us"),
    _us("lapses_at_us", nullable=True),
    _us("review_at_us", nullable=True),
    _us("ends_at_us", nullable=True),
    _us("renewed_at_us", nullable=True),
    _us("released_at_us", nullable=True),
    sa.Column("released_by", _string(64), nullable=True),
    _text("release_note", 1000),
    _us("settled_at_us", nullable=True),  # retention: tags follow the hold's end
)

hold_camera = sa.Table(
    "hold_camera",
    metadata,
    sa.Column("hold_id", _string(64), primary_key=True),
    sa.Column("camera_id", _string(63), primary_key=True),
    sa.Index("ix_hold_camera_camera", "camera_id"),
)

purge_claim = sa.Table(
    "purge_claim",
    metadata,
    _id(),
    sa.Column("camera_id", _string(63), nullable=False),
    sa.Column("recording_date", sa.Date, nullable=False),
    _text("worker", 100),
    _us("claimed_at_us"),
    _us("bytes_gone_at_us", nullable=True),
    sa.Column("policy_version", sa.Integer, nullable=False),
)

tombstone = sa.Table(
    "tombstone",
    metadata,
    _id(),  # the claim's id: one tombstone a claim
    sa.Column("camera_id", _string(63), nullable=False),
    sa.Column("recording_date", sa.Date, nullable=False),
    sa.Column("segment_count", sa.Integer, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("segments", sa.LargeBinary, nullable=False),  # msgpack: id, start, end, sha256, size
    sa.Column("policy_version", sa.Integer, nullable=False),
    _us("due_at_us"),
    _us("claimed_at_us"),
    _us("bytes_gone_at_us"),
    _us("written_at_us"),
    sa.Index("ix_tombstone_camera_date", "camera_id", "recording_date"),
)

ledger_day = sa.Table(
    "ledger_day",
    metadata,  # what was committed for a camera and recording date; the breaker's basis
    sa.Column("camera_id", _string(63), primary_key=True),
    sa.Column("recording_date", sa.Date, primary_key=True),
    sa.Column("segments", sa.Integer, nullable=False, server_default="0"),
    sa.Column("size_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("recorded_us", sa.BigInteger, nullable=False, server_default="0"),
)

breaker = sa.Table(
    "breaker",
    metadata,
    _id(),
    _us("opened_at_us"),
    _text("cause", 1000, None),
    _us("cleared_at_us", nullable=True),
    _text("cleared_by", 200),
    _text("cleared_reason", 1000),
    sa.Column("planned", sa.JSON, nullable=True),  # recording date to due count, at the opening
    sa.Column("kind", _string(16), nullable=False, server_default=""),  # shared/standing.py
)

retention_run = sa.Table(
    "retention_run",
    metadata,  # the last run of each worker, for whoever asks how retention stands
    sa.Column("worker", _string(100), primary_key=True),
    _us("at_us"),
    sa.Column("purged", sa.Integer, nullable=False),
    _text("stopped", 40),
    _text("detail", 1000),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column(
        "id",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
    ),
    _us("at_us"),
    _text("actor_id", 64, None),
    _text("actor_name"),
    _text("action", 64, None),
    _text("resource", 300),
    sa.Column("camera_ids", sa.JSON, nullable=False),
    _us("start_us", nullable=True),
    _us("end_us", nullable=True),
    _text("purpose", 40),
    _text("case_ref", 100),
    _text("reason", 1000),
    _text("result", 40, None),
    _text("request_id", 64),
    sa.Column("detail", sa.JSON, nullable=True),
    sa.Column("leaf", sa.BigInteger, nullable=True, unique=True),
    sa.Index("ix_audit_at", "at_us"),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column(
        "id",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
    ),
    _text("service", 16, None),
    _text("topic", 64, None),
    _text("key", 100, None),
    sa.Column("value", sa.LargeBinary, nullable=False),
    sa.Column("headers", sa.LargeBinary, nullable=False),  # msgpack
    _us("created_at_us"),
    sa.Index("ix_outbox_service", "service", "id"),
)

user = sa.Table(
    "user_account",
    metadata,
    _id(),
    sa.Column("name", _string(100), nullable=False, unique=True),
    _text("display_name"),
    sa.Column("password_hash", _string(300), nullable=True),
    sa.Column("roles", sa.JSON, nullable=False),
    sa.Column("districts", sa.JSON, nullable=True),  # null: all
    sa.Column("camera_ids", sa.JSON, nullable=True),
    sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()),
    _us("created_at_us"),
)

api_key = sa.Table(
    "api_key",
    metadata,
    _id(),
    sa.Column("user_id", _string(64), nullable=False, index=True),
    _text("name"),
    sa.Column("secret_sha256", _string(64), nullable=False, unique=True),
    sa.Column("roles", sa.JSON, nullable=False),
    _us("created_at_us"),
    _us("expires_at_us", nullable=True),
    _us("revoked_at_us", nullable=True),
)

session = sa.Table(
    "login_session",
    metadata,
    _id(),  # SHA-256 of the cookie's token
    sa.Column("user_id", _string(64), nullable=False, index=True),
    _us("created_at_us"),
    _us("expires_at_us"),
    _us("ended_at_us", nullable=True),
)

setup_link = sa.Table(
    "setup_link",
    metadata,
    _id(),  # SHA-256 of the link's token
    sa.Column("roles", sa.JSON, nullable=False),
    _us("created_at_us"),
    _us("used_at_us", nullable=True),
)

media_session = sa.Table(
    "media_session",
    metadata,
    _id(),  # SHA-256 of the token
    sa.Column("user_id", _string(64), nullable=False),
    _text("kind", 16, None),  # playback | live | clip | snapshot
    sa.Column("camera_id", _string(63), nullable=False),
    _us("start_us", nullable=True),
    _us("end_us", nullable=True),
    _text("purpose", 40, None),
    _text("case_ref", 100),
    _text("reason", 1000),
    sa.Column("audit_id", sa.BigInteger, nullable=False),
    _us("created_at_us"),
    _us("expires_at_us"),
    _us("closed_at_us", nullable=True),
    _us("delivered_start_us", nullable=True),
    _us("delivered_end_us", nullable=True),
    sa.Column("delivered_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index("ix_media_session_open", "closed_at_us", "expires_at_us"),
)
webhook, webhook_delivery = webhook_table(metadata), delivery_table(metadata)

DAILY = (segment, segment_fragments, gap, sighting, thumbnail)
"""Tables with a partition a recording date on PostgreSQL, in the order in which they are locked."""
