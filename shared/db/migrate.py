"""Runs Alembic's migrations on an open connection, without a configuration file.

Migrations go forward only, are dated, and are safe while the old code runs.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory


def config(connection: sa.Connection | None = None) -> Config:
    """Alembic's configuration; also used by alembic.ini's env.py."""
    found = Config()
    found.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    found.set_main_option("path_separator", "os")
    if connection is not None:
        found.attributes["connection"] = connection
    return found


def head() -> str:
    """The newest revision this code knows."""
    revision = ScriptDirectory.from_config(config()).get_current_head()
    assert revision is not None
    return revision


def known() -> set[str]:
    """Every revision this code knows."""
    scripts = ScriptDirectory.from_config(config()).walk_revisions()
    return {script.revision for script in scripts}


def behind(connection: sa.Connection) -> str | None:
    """The revision of a schema that is older than this code, empty where there is none; None where
    it is as new or newer."""
    there = MigrationContext.configure(connection).get_current_revision()
    return there or "" if there != head() and (there is None or there in known()) else None


def upgrade(connection: sa.Connection) -> str:
    """Bring the schema to the newest revision inside the connection's transaction; its name.

    A schema that is newer than this code is left as it is: migrations only add, so that the code
    of the release before runs on (docs/architecture.md, "Database").
    """
    there = MigrationContext.configure(connection).get_current_revision()
    if there is not None and there not in known():
        return there
    command.upgrade(config(connection), "head")
    return head()
