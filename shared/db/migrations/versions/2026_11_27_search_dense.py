"""Indexes of searches on PostgreSQL: small entries, and sightings in the order of time.

Of the parent alone: those of the partitions are made one by one afterwards, each in a transaction
of its own (shared/db/partitions.py, `index_next`).
"""

from alembic import op

revision = "2026_11_27_search_dense"
down_revision = "2026_11_26_process"


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(
        "CREATE INDEX ix_sighting_search_dense ON ONLY sighting (camera_id, start_us, end_us,"
        " expires_at_us, recording_date, class_name, confidence, speed, colour_upper,"
        " colour_lower, colour_vehicle, (min_x::real), (min_y::real), (max_x::real),"
        " (max_y::real))"
    )
    op.execute("CREATE INDEX ix_sighting_start ON ONLY sighting ((start_us + 0))")
    op.execute(
        "CREATE INDEX ix_segment_end ON ONLY segment (end_us, camera_id, recording_date, start_us,"
        " effective_start_us, effective_end_us, state, expires_at_us, analysed_us, gated_us,"
        " dropped_us)"
    )
