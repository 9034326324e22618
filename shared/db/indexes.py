"""Columns of the indexes that a search reads instead of rows (services/api/queries_sightings).

They hold what columns decide, so that a row is read once it is a candidate, and so many entries to
a page as there can be: on a city's month it is their pages that a search waits for. What they hold
differs between the databases (docs/decisions/0018).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

_SEGMENT_COVERAGE = [
    "camera_id", "end_us", "start_us", "effective_start_us", "effective_end_us", "state",
    "expires_at_us", "analysed_us", "gated_us", "dropped_us",
]  # fmt: skip
_SEGMENT_END = ["end_us", "camera_id", "recording_date", *_SEGMENT_COVERAGE[2:]]
ONLY_ON = "only_on"
"""In an index's `info`: the one dialect that has it."""
_SQLITE_SEARCH = [
    "camera_id", "start_us", "id", "end_us", "expires_at_us", "class_name", "confidence", "speed",
    "colour_upper", "colour_lower", "colour_vehicle", "min_x", "min_y", "max_x", "max_y",
]  # fmt: skip
_POSTGRES_SEARCH = [
    "camera_id", "start_us", "end_us", "expires_at_us", "recording_date", "class_name",
    "confidence", "speed", "colour_upper", "colour_lower", "colour_vehicle",
]  # fmt: skip
BOUNDS = ("min_x", "min_y", "max_x", "max_y")


def real(column: str) -> str:
    """A bound as the index on PostgreSQL has it: a picture's place needs no more than four bytes.
    A query compares what is so rounded beside the column itself (`ROUNDING`)."""
    return f"({column}::real)"


TIME = "(start_us + 0)"
"""A sighting's begin as the index in the order of time has it on PostgreSQL: an expression, so that
nothing but a query that names it can be answered by it. The planner cannot know that cameras saw
nothing for hours, and would read all the others' hours to find so."""
ROUNDING = 1e-6
"""More than rounding to four bytes moves a place in the picture, which is of 0 to 1."""


def of_sightings() -> list[sa.Index]:
    """Those of searches, each for one database."""
    search = [*_POSTGRES_SEARCH, *(sa.text(real(column)) for column in BOUNDS)]
    return [
        _only("sqlite", "ix_sighting_search", *_SQLITE_SEARCH),
        _only("postgresql", "ix_sighting_search_dense", *search),
        _only("postgresql", "ix_sighting_start", sa.text(f"({TIME})")),
    ]


def of_segments() -> list[sa.Index]:
    """Those of coverage."""
    return [
        sa.Index("ix_segment_camera_end", *_SEGMENT_COVERAGE),
        _only("postgresql", "ix_segment_end", *_SEGMENT_END),
    ]


def _only(dialect: str, name: str, *columns: Any) -> sa.Index:
    return sa.Index(name, *columns, info={ONLY_ON: dialect})
