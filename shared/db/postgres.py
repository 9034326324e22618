"""Port `Database` on PostgreSQL."""

from __future__ import annotations

from shared.clock import Clock
from shared.db import Database
from shared.errors import Kind, LamppostError
from shared.settings import Settings


def open_database(settings: Settings, clock: Clock) -> Database:
    """The database of the settings; does not connect yet."""
    raise LamppostError(Kind.NOT_BUILT, "The PostgreSQL database is not built yet.")
