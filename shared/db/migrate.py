"""Runs Alembic's migrations on an open connection, without a configuration file.

Migrations go forward only, are dated, and are safe while the old code runs.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from shared.db.revisions import behind, current, head, known


def config(connection: sa.Connection | None = None) -> Config:
    """Alembic's configuration; also used by alembic.ini's env.py."""
    found = Config()
    found.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    found.set_main_option("path_separator", "os")
    if connection is not None:
        found.attributes["connection"] = connection
    return found


def upgrade(connection: sa.Connection) -> str:
    """Bring the schema to the newest revision inside the connection's transaction; its name.

    A schema that is newer than this code is left as it is: migrations only add, so that the code
    of the release before runs on (docs/architecture.md, "Database").
    """
    return _upgrade(connection, "head")


def step(connection: sa.Connection) -> tuple[str, bool]:
    """As `upgrade`, by one revision at most; the revision that is there now, and whether there is
    another after it. So that work which takes long may lie between two of them."""
    if behind(connection) is not None:
        _upgrade(connection, "+1")
    there = current(connection)
    assert there is not None
    return there, behind(connection) is not None


def _upgrade(connection: sa.Connection, to: str) -> str:
    there = current(connection)
    if there is not None and there not in known():
        return there
    command.upgrade(config(connection), to)
    return current(connection) or head()
